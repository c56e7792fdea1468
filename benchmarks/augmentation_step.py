"""Seconds per training step with augmentation in the model, over the same step without it.

Each round trains a small residual net without and with each layer in turn, so that drift of the
machine hits all alike; the first epoch of each `fit`, in which the step is compiled, is left out.
The table shows the median over all epochs and its ratio to the step without augmentation.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/augmentation_step.py [ROUNDS] [SIZE]
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from step_time import compare

from keras_optkit.augmentation import RandAugment, RandomAffine, RandomColor

STEPS, BATCH, EPOCHS = 6, 32, 3

VARIANTS = {
    "no augmentation": list,
    "RandomAffine": lambda: [RandomAffine(rotation=20, translation=0.1, horizontal_flip=True)],
    "RandomColor": lambda: [RandomColor(0.4, 0.4, 0.4, 0.1)],
    "RandAugment": lambda: [RandAugment()],
}


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
    """Trains the net with each of the layers."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    size = int(sys.argv[2]) if len(sys.argv) > 2 else 96
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (STEPS * BATCH, size, size, 3)).astype("float32")
    y = rng.integers(0, 10, STEPS * BATCH)
    models = {name: residual_net(size, layers()) for name, layers in VARIANTS.items()}
    kwargs = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    fits = {
        name: lambda times, model=model: model.fit(x, y, callbacks=[times], **kwargs)
        for name, model in models.items()
    }
    print(f"{size} pixels, batches of {BATCH}")
    compare(fits, "no augmentation", rounds)


if __name__ == "__main__":
    main()
