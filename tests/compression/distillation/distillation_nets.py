"""The small models and data that the tests of distillation share."""

import keras
import numpy as np

CLASSES = 5


def images(samples=32, size=8, seed=0):
    """Random float32 images of one channel, and int32 class ids."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, size, size, 1)).astype("float32")
    return x, rng.integers(0, CLASSES, samples).astype("int32")


def vectors(samples=32):
    """Random float32 vectors of 6 numbers, and int32 class ids."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 6)).astype("float32")
    return x, rng.integers(0, CLASSES, samples).astype("int32")


def net(width=8, activation=None, dropout=0.3, regularizer=None, classes=CLASSES, seed=0):
    """A small classifier with BatchNorm and dropout; its first layer is called `features`."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(width, kernel_regularizer=regularizer, name="features"),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(dropout),
            keras.layers.Dense(classes, activation=activation, name="head"),
        ]
    )


def conv_net(width=4, size=8, seed=0):
    """A small classifier of images; its layers are called `features`, `pool` and `head`."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((size, size, 1)),
            keras.layers.Conv2D(width, 3, activation="relu", name="features"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(CLASSES, name="head"),
        ]
    )


def compile_args(**changes):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"optimizer": keras.optimizers.Adam(1e-2), "loss": loss, **changes}


def weights(model):
    return [np.array(w) for w in model.get_weights()]


def assert_same(left, right, **tolerance):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
