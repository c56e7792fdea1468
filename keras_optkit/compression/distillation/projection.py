"""The weights that bring a student's features to the width of its teacher's."""

from typing import Any

import keras
from keras import ops


class Projection(keras.layers.Layer):
    """A linear map of the last axis, trained with the student and thrown away after.

    Args:
        width: Integer, the number of channels that come out.
    """

    def __init__(self, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape):
        shape = (input_shape[-1], self.width)
        # Not called a kernel, and this is no Dense: what prunes kernels must not find it.
        self.matrix = self.add_weight(shape=shape, initializer="glorot_uniform", name="projection")
        self.offset = self.add_weight(shape=(self.width,), initializer="zeros", name="offset")

    def call(self, inputs):
        return ops.matmul(inputs, self.matrix) + self.offset
