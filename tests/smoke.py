"""Import and fit with the installed package alone; run by `make smoke` outside of the checkout.

It is no pytest file: the environment that it runs in has the wheel and what the wheel needs.
"""

import pathlib
import sys
import tempfile

import keras

import keras_optkit as optkit


def main():
    where = pathlib.Path(optkit.__file__).resolve()
    assert "site-packages" in where.parts, f"not the installed package: {where}"
    with tempfile.TemporaryDirectory() as folder:
        train, test = optkit.data.load(split=["train", "test"], data_dir=folder, seed=0)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 1)),
                keras.layers.Rescaling(1 / 255),
                optkit.layers.RandomAffine(rotation=10),
                optkit.layers.ConvBNAct(16, 3),
                keras.layers.Flatten(),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        schedule = optkit.pruning.PolynomialDecay(0.0, 0.5, 0.2, 0.8, frequency=5)
        history = model.fit(
            train,
            validation_data=test,
            epochs=4,
            shuffle=False,
            verbose=0,
            callbacks=[
                optkit.callbacks.LearningRate(optkit.schedules.OneCycle(0.01)),
                optkit.callbacks.Pruning(schedule),
                optkit.callbacks.EarlyStopping(patience=3),
            ],
        ).history
        assert history["val_accuracy"][-1] > 0.8, history
        file = optkit.export.to_litert(model, pathlib.Path(folder) / "model.tflite")
        assert file.predict(next(test.as_numpy_iterator())[0]).shape[-1] == 10
    # What the field's packages need and forget to declare.
    import keras_tuner  # noqa: F401
    import tensorboard  # noqa: F401
    import tensorflow_model_optimization  # noqa: F401

    print(f"keras_optkit {optkit.__version__} works from its wheel: {history['val_accuracy']}")


if __name__ == "__main__":
    sys.exit(main())
