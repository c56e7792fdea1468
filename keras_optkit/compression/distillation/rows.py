"""Rows of arrays, read by their numbers in an input pipeline."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Arrays that take up to this many bytes are held as tensors; Keras' `fit` on TensorFlow does so
# with arrays of any size.
IN_MEMORY = 2**28


def reader(arrays: Sequence[np.ndarray]) -> Callable[[Any], list[Any]]:
    """Returns a function from the number of a row, or from a batch of them, to these rows.

    Where the arrays are small, it is of TensorFlow operations alone, so it does not wait for
    Python, in which `fit` runs.

    Args:
        arrays: Arrays with as many rows each, in memory or on disk.
    """
    import tensorflow as tf

    numbers = all(array.dtype.kind in "biufc" for array in arrays)
    if numbers and sum(array.nbytes for array in arrays) <= IN_MEMORY:
        with tf.init_scope(), tf.device("CPU"):
            tensors = [tf.constant(np.asarray(array)) for array in arrays]
        return lambda index: [tf.gather(tensor, index) for tensor in tensors]

    def read(index):
        return [np.asarray(array[index]) for array in arrays]

    def rows(index):
        values = tf.numpy_function(read, [index], [array.dtype for array in arrays])
        for value, array in zip(values, arrays, strict=True):
            value.set_shape((*index.shape, *array.shape[1:]))
        return values

    return rows
