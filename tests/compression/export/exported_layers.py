"""Layers in a module of their own, as the child process of an export has to import them."""

import keras
import numpy as np


class FrozenNoise(keras.layers.Layer):
    """Draws with NumPy in `call`, so that a traced graph holds one draw for good."""

    def call(self, x):
        return x + np.random.normal(size=()).astype("float32")


class CentredBatch(keras.layers.Layer):
    """Computes something else for one sample than for many."""

    def call(self, x):
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Doubled(keras.layers.Layer):
    """Computes in a loop, whose body is not in the model's graph."""

    def call(self, x):
        return keras.ops.fori_loop(0, 1, lambda i, y: 2.0 * y, x)


class InverseError(keras.layers.Layer):
    """Computes what LiteRT cannot."""

    def call(self, x):
        return keras.ops.erfinv(x)
