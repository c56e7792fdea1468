"""Seconds per training step with augmentation in the model, over the same step without it.

Each round trains a small residual net without and with each layer in turn, so that drift of the
machine hits all alike; the first epoch of each `fit`, in which the step is compiled, is left out.
The table shows the median over all epochs and its ratio to the step without augmentation.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/augmentation_step.py [ROUNDS] [SIZE]
"""

import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_optkit.augmentation import RandAugment, RandomAffine, RandomColor

STEPS, BATCH, EPOCHS = 6, 32, 3

VARIANTS = {
    "no augmentation": list,
    "RandomAffine": lambda: [RandomAffine(rotation=20, translation=0.1, horizontal_flip=True)],
    "RandomColor": lambda: [RandomColor(0.4, 0.4, 0.4, 0.1)],
    "RandAugment": lambda: [RandAugment()],
}


class Times(keras.callbacks.Callback):
    """Seconds per step of each epoch but the first."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0:
            self.seconds.append((time.perf_counter() - self.start) / STEPS)


def residual_net(size: int, augmentation: list) -> keras.Model:
    """A net of four residual blocks, with the layers of augmentation behind its input."""
    inputs = x = keras.Input((size, size, 3))
    for layer in augmentation:
        x = layer(x)
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(x)
    for filters in (16, 32, 64, 128):
        shortcut = keras.layers.Conv2D(filters, 1, strides=2)(x)
        for strides in (2, 1):
            x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same")(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.Activation("relu")(x)
        x = keras.layers.Add()([x, shortcut])
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = keras.backend.backend() != "torch"
    model.compile("adam", loss, jit_compile=jit_compile)
    return model


def main() -> None:
    """Prints one line a variant."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 224
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (STEPS * BATCH, size, size, 3)).astype("float32")
    y = rng.integers(0, 10, STEPS * BATCH)
    models = {name: residual_net(size, layers()) for name, layers in VARIANTS.items()}
    seconds = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, model in models.items():
            times = Times()
            model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[times])
            seconds[name] += times.seconds
    plain = statistics.median(seconds["no augmentation"])
    print(f"Keras {keras.__version__}, {keras.backend.backend()}, {size} px, {rounds} rounds")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:20} {1000 * median:8.1f} ms/step   x {median / plain:.3f}")


if __name__ == "__main__":
    main()
