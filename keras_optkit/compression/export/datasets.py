"""Arrays out of a `tf.data.Dataset` or a `keras.utils.PyDataset`."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.export.signature import to_numpy


def is_dataset(data: Any) -> bool:
    """Tells whether `data` is a `tf.data.Dataset` or a `keras.utils.PyDataset`."""
    return hasattr(data, "element_spec") or isinstance(data, keras.utils.PyDataset)


def batches(data: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Yields `(x, y, sample_weight)` of NumPy arrays for each batch, `None` for what is absent.

    What a batch holds is read as `fit` reads it: a tuple is `(x,)`, `(x, y)` or
    `(x, y, sample_weight)`, anything else is `x`.
    """
    if isinstance(data, keras.utils.PyDataset):
        source = (data[i] for i in range(data.num_batches))
    else:
        source = iter(data)
    for batch in source:
        parts = keras.utils.unpack_x_y_sample_weight(batch)
        yield tuple(
            None if part is None else keras.tree.map_structure(to_numpy, part) for part in parts
        )


def require_finite(data: Any, what: str) -> None:
    """Raises a `ValueError` if a dataset is known to repeat without end."""
    endless = (
        data.num_batches is None
        if isinstance(data, keras.utils.PyDataset)
        else hasattr(data, "cardinality") and int(data.cardinality()) == -1
    )
    if endless:
        raise ValueError(
            f"`{what}` repeats without end; leave `.repeat()` out or cut it with `.take(n)`. "
            f"Received: {what}={data!r}"
        )


def take(data: Any, samples: int | None = None, what: str = "data") -> tuple[Any, Any]:
    """Returns the first samples of a dataset as arrays.

    Args:
        data: A `tf.data.Dataset` or `keras.utils.PyDataset` of batches.
        samples: Integer, how many, or `None` for all.
        what: The argument's name, for the messages.

    Returns:
        A tuple `(x, y)`, in the structures that the dataset has; `y` is `None` without labels.

    Raises:
        ValueError: If the dataset is empty, or endless where all of it is asked for.
    """
    if samples is None:
        require_finite(data, what)
    xs, ys, count = [], [], 0
    for x, y, _ in batches(data):
        xs.append(x)
        ys.append(y)
        first = keras.tree.flatten(x)[0]
        count += len(first) if first.ndim else 0
        if samples is not None and count >= samples:
            break
    if not xs:
        raise ValueError(f"`{what}` is empty. Received: {what}={data!r}")

    def join(*parts):
        # Samples that were not batched have no axis to join along; the shape check tells.
        return np.concatenate(parts)[:samples] if parts[0].ndim else np.stack(parts)

    x = keras.tree.map_structure(join, *xs)
    y = None if any(part is None for part in ys) else keras.tree.map_structure(join, *ys)
    return x, y
