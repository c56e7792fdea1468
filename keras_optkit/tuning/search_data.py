"""The data of a search: what trains, and what is held out."""

from typing import Any

import keras
import numpy as np

from keras_optkit.tuning.training_data import is_dataset


def split_data(data: Any, held_out: float = 0.2, seed: int = 0) -> dict[str, Any]:
    """Returns data as the arguments of `fit`.

    Args:
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, of which a share is held out;
            `((x, y), (x_val, y_val))`; or `(train, validation)` of two `tf.data.Dataset`s or other
            batches that `fit` takes.
        held_out: Float in (0, 1), the share of arrays that is drawn for validation.
        seed: Integer, for which examples these are.

    Raises:
        ValueError: If the data is none of these, or the arrays are not of one length.

    Example:

    >>> arguments = split_data((np.zeros((10, 2)), np.arange(10)), held_out=0.3)
    >>> len(arguments["x"]), len(arguments["validation_data"][1])
    (7, 3)
    """
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError(
            "`data` must be arrays (x, y), two pairs of arrays ((x, y), (x_val, y_val)), or two "
            "datasets (train, validation): a search compares trials by data that they were not "
            f"trained on. Received: data of type {type(data).__name__}"
        )
    if _are_batches(data[0]):
        if len(data) != 2:
            raise ValueError(
                "`data` must be (train, validation) where it is datasets. "
                f"Received: {len(data)} of them"
            )
        arguments = {"x": data[0], "validation_data": _batches_or_arrays(data[1])}
        # A dataset has its own order, and Keras warns of any other wish.
        return arguments | ({"shuffle": False} if is_dataset(data[0]) else {})
    if all(isinstance(part, tuple | list) for part in data):
        train, validation = (tuple(part) for part in data)
        _length(train), _length(validation)
        names = ("x", "y", "sample_weight")
        return {**dict(zip(names, train, strict=False)), "validation_data": validation}
    return _held_out(tuple(data), held_out, seed)


def _are_batches(part: Any) -> bool:
    if is_dataset(part) or isinstance(part, keras.utils.PyDataset):
        return True
    return not isinstance(part, tuple | list | dict) and not hasattr(part, "__array__")


def _batches_or_arrays(part: Any) -> Any:
    return tuple(part) if isinstance(part, list) else part


def _length(parts: tuple) -> int:
    lengths = {len(a) for a in keras.tree.flatten(parts) if hasattr(a, "__array__")}
    if len(lengths) != 1:
        raise ValueError(
            "The arrays in `data` must be of one length. "
            f"Received: lengths {sorted(lengths) or 'of no array'}"
        )
    return lengths.pop()


def _held_out(parts: tuple, held_out: float, seed: int) -> dict[str, Any]:
    if isinstance(held_out, bool) or not isinstance(held_out, float) or not 0 < held_out < 1:
        raise ValueError(
            "`held_out` must be the share of the data that trials are compared by, between 0 and "
            f"1. Received: held_out={held_out!r}"
        )
    count = _length(parts)
    kept = count - max(1, round(count * held_out))
    if kept < 1:
        raise ValueError(
            f"Nothing is left to train on. Received: {count} examples, held_out={held_out}"
        )
    # Drawn, and not the last ones as in `fit`, which in sorted data are all of one class.
    order = np.random.default_rng(seed).permutation(count)
    # In their own order, so that nothing but membership changes.
    first, last = np.sort(order[:kept]), np.sort(order[kept:])
    train = keras.tree.map_structure(lambda a: np.asarray(a)[first], parts)
    validation = keras.tree.map_structure(lambda a: np.asarray(a)[last], parts)
    names = ("x", "y", "sample_weight")
    return {**dict(zip(names, train, strict=False)), "validation_data": validation}
