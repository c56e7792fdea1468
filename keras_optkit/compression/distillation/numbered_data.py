"""Data whose samples have numbers: arrays, or a `tf.data.Dataset` that is the same in each pass."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.distillation import fingerprint
from keras_optkit.compression.distillation.rows import reader


class Arrays:
    """Arrays as a source of numbered samples."""

    def __init__(self, arrays: tuple):
        self.arrays = arrays
        flat = keras.tree.flatten(arrays)
        lengths = {len(array) for array in flat}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                "`data` must be arrays of as many samples each. "
                f"Received: arrays of lengths {[len(array) for array in flat]}"
            )
        self.samples = len(flat[0])
        self._rows: Callable[[Any], list[Any]] | None = None
        inputs = keras.tree.flatten(arrays[0])
        self.input_shapes = [(None, *array.shape[1:]) for array in inputs]

    def fingerprint(self, batch_size: int) -> str:
        # Labels may change: the teacher does not see them.
        return fingerprint.of_arrays(self.arrays[0])

    def indices(self) -> Any:
        import tensorflow as tf

        return tf.data.Dataset.range(self.samples)

    def indexed(self) -> Any:
        return self.indices().map(self.gather)

    def gather(self, index: Any) -> Any:
        """Returns numbers and the samples of these numbers, of one or of a batch."""
        if self._rows is None:
            self._rows = reader(keras.tree.flatten(self.arrays))
        return index, keras.tree.pack_sequence_as(self.arrays, self._rows(index))


class Samples:
    """A `tf.data.Dataset` of single samples as a source of numbered ones."""

    arrays = None

    def __init__(self, dataset: Any):
        self._dataset = dataset
        self.samples = int(dataset.cardinality())
        if self.samples == -2:
            self.samples = int(dataset.reduce(np.int64(0), lambda n, *_: n + 1))
        if self.samples < 1:
            raise ValueError(
                "`data` must have an end, and samples. Leave `.repeat()` out, or cut it with "
                f"`.take(n)`. Received: data of {'no' if self.samples == 0 else 'endless'} samples"
            )
        inputs = keras.tree.flatten(self._element(dataset.element_spec)[0])
        self.input_shapes = [(None, *spec.shape) for spec in inputs]

    def _element(self, element: Any) -> tuple:
        return tuple(element) if isinstance(element, tuple) else (element,)

    def fingerprint(self, batch_size: int) -> list:
        # All of it would cost a pass. Each sample is compared when it is read.
        first = next(self.indexed().map(lambda i, e: e[0]).batch(batch_size).as_numpy_iterator())
        return [self.samples, fingerprint.of_arrays(first)]

    def indexed(self) -> Any:
        return self._dataset.enumerate().map(lambda i, element: (i, self._element(element)))


def numbered(data: Any) -> "Arrays | Samples":
    """Returns data as a source of numbered samples.

    Args:
        data: An array, a tuple of them, or a `tf.data.Dataset` of single samples.

    Raises:
        ValueError: If it is none of these, has no samples or no end, or its arrays have not as
            many samples each.
    """
    if hasattr(data, "element_spec"):
        return Samples(data)
    arrays = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(arrays) <= 3:
        raise ValueError(
            "`data` must be an array, a tuple `(x, y)` or `(x, y, sample_weight)`, or a "
            f"`tf.data.Dataset`. Received: a tuple of {len(arrays)}"
        )
    return Arrays(keras.tree.map_structure(np.asarray, arrays))
