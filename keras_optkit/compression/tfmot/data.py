"""Training data as tf_keras takes it, and a look at it before the work."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Data:
    """What `fit` of tf_keras gets.

    Args:
        arguments: The keyword arguments `x`, `y`, `sample_weight` and `batch_size`.
        batches: The number of batches in an epoch, or `None` where it isn't known.
    """

    arguments: dict[str, Any]
    batches: int | None

    def with_labels_as_lists(self, names: Sequence[str]) -> "Data":
        """Returns the same data with labels and weights in the order of the outputs.

        Args:
            names: The names of the outputs.
        """
        arguments = dict(self.arguments)
        for key in ("y", "sample_weight"):
            if key in arguments:
                arguments[key] = in_order(arguments[key], names)
        if hasattr(arguments["x"], "element_spec"):
            arguments["x"] = arguments["x"].map(
                lambda x, *rest: (x, *(in_order(part, names, tuple) for part in rest))
            )
        return Data(arguments, self.batches)


def in_order(value: Any, names: Sequence[str], kind: type = list) -> Any:
    """Returns the values of a dictionary in the order of names; anything else as it is."""
    return kind(value.get(name) for name in names) if isinstance(value, dict) else value


def prepare(data: Any, model: keras.Model, batch_size: int = 32, what: str = "data") -> Data:
    """Returns data for tf_keras, after comparing them with a model's inputs.

    Args:
        data: A `tf.data.Dataset` or a `keras.utils.PyDataset` of batches `(x, y)`, or a tuple of
            arrays `(x, y)` or `(x, y, sample_weight)`; `x` and `y` may be lists or dictionaries.
        model: The Keras 3 model.
        batch_size: Integer, for arrays.
        what: The name of the argument, for messages.

    Raises:
        ValueError: If the data are of another kind or don't fit the model.
    """
    if hasattr(data, "element_spec"):
        spec = data.element_spec
        _require_pair(spec, what)
        _require_fit(spec[0], model, what)
        count = int(data.cardinality())
        if count == -1:
            raise ValueError(
                f"`{what}` repeats without end; leave `.repeat()` out or cut it with `.take(n)`. "
                f"Received: {what}={data!r}"
            )
        return Data({"x": data}, count if count >= 0 else None)
    if isinstance(data, keras.utils.PyDataset):
        first = data[0]
        _require_pair(first, what)
        _require_fit(first[0], model, what)
        return Data({"x": _sequence(data)}, data.num_batches)
    _require_pair(data, what)
    parts = [None if part is None else keras.tree.map_structure(_to_numpy, part) for part in data]
    lengths = {len(array) for array in keras.tree.flatten(parts) if array is not None}
    if len(lengths) != 1:
        raise ValueError(
            f"The arrays in `{what}` must have one length. Received: lengths {sorted(lengths)}"
        )
    _require_fit(parts[0], model, what)
    names = ("x", "y", "sample_weight")
    arguments = {name: part for name, part in zip(names, parts, strict=False) if part is not None}
    return Data({**arguments, "batch_size": batch_size}, -(-lengths.pop() // batch_size))


def _require_pair(value: Any, what: str) -> None:
    if not isinstance(value, tuple) or len(value) not in (2, 3):
        raise ValueError(
            f"`{what}` must be a tuple of arrays `(x, y)` or `(x, y, sample_weight)`, or a dataset "
            f"of batches of these. Received: {_brief(value)}"
        )


def _require_fit(x: Any, model: keras.Model, what: str) -> None:
    names = [tensor.name for tensor in model.inputs]
    if isinstance(x, dict):
        if missing := [name for name in names if name not in x]:
            raise ValueError(
                f"`{what}` lacks the inputs {missing} of the model. Received: keys {sorted(x)}"
            )
        given: Sequence[Any] = [x[name] for name in names]
    else:
        given = keras.tree.flatten(x)
    shapes = [tuple(value.shape) for value in given]
    wanted = [tuple(tensor.shape) for tensor in model.inputs]
    fits = len(shapes) == len(wanted) and all(map(_fits, shapes, wanted))
    if not fits:
        raise ValueError(
            f"The inputs in `{what}` must have the shapes {wanted} of the model's inputs {names}. "
            f"Received: {shapes}"
        )


def _fits(shape: tuple, wanted: tuple) -> bool:
    return len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape[1:], wanted[1:], strict=True)
    )


def _sequence(data: keras.utils.PyDataset) -> Any:
    import tf_keras

    class Batches(tf_keras.utils.Sequence):
        def __len__(self):
            return data.num_batches

        def __getitem__(self, index):
            return data[index]

        def on_epoch_end(self):
            data.on_epoch_end()

    return Batches()


def _to_numpy(value: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(value))


def _brief(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__name__} {getattr(value, 'shape', value)}"
