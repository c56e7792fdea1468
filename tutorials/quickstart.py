"""A plain Keras 3 script, and beside it the same script with parts of keras_optkit added.

Both are trained on the same images from several seeds and measured alike: accuracy on held-out
images, time to reach the plain script's best accuracy, sizes and latency on a device's runtime.

    python tutorials/quickstart.py                                # scikit-learn's digits
    python tutorials/quickstart.py --dataset fashion_mnist        # any image set of TFDS
    python tutorials/quickstart.py --data-dir my_images           # a folder, one sub-folder a class

The two functions below are all that there is to compare. What they are called with and how they
are measured is in side_by_side.py.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
from keras import layers
from side_by_side import run

import keras_optkit as optkit


def plain(data, epochs, callbacks):
    """The script as it was."""
    blocks = []
    for filters in data.filters:
        blocks += [
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.Conv2D(filters, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(padding="same"),
        ]
    model = keras.Sequential(
        [
            keras.Input(data.image_shape),
            layers.Rescaling(1 / 255),
            *blocks,
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(data.num_classes, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    return model


def with_parts(data, epochs, callbacks):
    """The same script; every line with `optkit` in it is new."""
    blocks = []
    for filters in data.filters:
        blocks += [
            optkit.layers.ConvBNAct(filters, 3, padding="same", momentum=0.9),
            optkit.layers.ConvBNAct(filters, 3, padding="same", momentum=0.9),
            layers.MaxPooling2D(padding="same"),
        ]
    model = keras.Sequential(
        [
            keras.Input(data.image_shape),
            optkit.layers.AugmentationPipeline(
                [
                    optkit.layers.RandomAffine(
                        rotation=10, translation=0.1, zoom=0.1, fill_mode="nearest"
                    )
                ],
                rescale=1 / 255,
            ),
            *blocks,
            layers.Flatten(),
            optkit.layers.DenseBNAct(128, momentum=0.9),
            layers.Dense(data.num_classes, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rate = optkit.schedules.CosineDecay(0.003).with_warmup("1ep")
    sparsity = optkit.pruning.PolynomialDecay(0.0, 0.75, begin_step=0.2, end_step=0.6, frequency=10)
    model.fit(
        data.train,
        validation_data=data.validation,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[
            *callbacks,
            optkit.callbacks.LearningRate(rate),
            optkit.callbacks.Pruning(sparsity),
            optkit.callbacks.EarlyStopping(patience=8, restore_best_weights=True),
        ],
    )
    return model


if __name__ == "__main__":
    run({"plain": plain, "with parts": with_parts}, __doc__)
