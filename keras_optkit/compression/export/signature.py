"""The names, shapes and dtypes of a model's inputs and outputs, and data bound to them by name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_optkit.core.messages import did_you_mean

HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Args:
        name: String, of letters, digits and underscores.
        shape: Tuple of integers, with `None` where a dimension is not fixed; batch first.
        dtype: String, the data type.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def file_name(name: str) -> str:
    """Returns a tensor's name as a `.tflite` file holds it: letters, digits and underscores.

    Example:

    >>> file_name("my-input")
    'my_input'
    """
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return name if name[:1].isalpha() else f"t{name}"


def require_exportable(model: Any) -> None:
    """Raises a `ValueError` unless `model` is a built Sequential or Functional Keras 3 model."""
    if not isinstance(model, keras.Model):
        hint = (
            " This is a model of tf_keras (Keras 2); rebuild it with Keras 3."
            if type(model).__module__.startswith("tf_keras")
            else ""
        )
        raise ValueError(f"`model` must be a Keras 3 model.{hint} Received: model={model!r}")
    if not getattr(model, "inputs", None):
        raise ValueError(
            "The model's inputs are not known. Build a Sequential model with "
            "`model.build(input_shape)` or start it with `keras.Input(shape)`; wrap a subclassed "
            "model: `inputs = keras.Input(shape)`, `keras.Model(inputs, model(inputs))`. "
            f"Received: model={model!r}"
        )
    for tensor in model.inputs:
        if tensor.dtype == "string":
            raise ValueError(
                "A model with an input of strings cannot be exported; look the strings up before "
                f"the model. Received: input {tensor.name!r} of dtype 'string'"
            )


def input_specs(model: keras.Model) -> list[TensorSpec]:
    """Returns the inputs of a model, in the order of `model.inputs`.

    An input is named as its `keras.Input`, or by its key where the model was made with a
    dictionary of inputs. Half-precision inputs become float32 ones.
    """
    struct = model.input if _is_functional(model) else None
    # An input without a name gets another tensor name in every copy, but keeps its layer's.
    layers = [tensor._keras_history.operation.name for tensor in model.inputs]
    names = _names(struct, layers)
    return [_spec(name, t) for name, t in zip(names, model.inputs, strict=True)]


def output_specs(model: keras.Model) -> list[TensorSpec]:
    """Returns the outputs of a model, in the order of `model.outputs`.

    An output is named by its key where the model was made with a dictionary of outputs, else as
    the layer that makes it.
    """
    struct = model.output if _is_functional(model) else None
    layers = getattr(model, "output_names", None) or [model.layers[-1].name]
    names = _names(struct, layers)
    return [_spec(name, t) for name, t in zip(names, model.outputs, strict=True)]


def pack_inputs(model: keras.Model, arrays: Sequence[Any]) -> Any:
    """Returns arrays that are in the order of `model.inputs` in the structure the model takes."""
    if _is_functional(model):
        return keras.tree.pack_sequence_as(model.input, list(arrays))
    return arrays[0]


def bind(data: Any, specs: Sequence[TensorSpec], what: str = "x") -> dict[str, np.ndarray]:
    """Binds data to inputs by name.

    Args:
        data: An array for a single input; a list or tuple of arrays in the order of `specs`; or a
            dictionary of arrays by input name, in any order.
        specs: The inputs.
        what: The argument's name, for the messages.

    Returns:
        A dictionary from each input's name to a NumPy array of its dtype, in the order of `specs`.

    Raises:
        ValueError: If names, number, shapes or lengths do not fit.
    """
    if isinstance(data, dict):
        given = {file_name(str(key)): value for key, value in data.items()}
        names = [spec.name for spec in specs]
        for name in given:
            if name not in names:
                raise ValueError(
                    f"`{what}` has an array for {name!r}, which is no input of the model. "
                    f"{did_you_mean(name, names)} Received: keys {list(data)}"
                )
        if missing := [name for name in names if name not in given]:
            raise ValueError(
                f"`{what}` has no array for the input {missing[0]!r}. The model's inputs are "
                f"{names}. Received: keys {list(data)}"
            )
        values = [given[name] for name in names]
    else:
        values = keras.tree.flatten(data) if isinstance(data, (list, tuple)) else [data]
        if len(values) != len(specs):
            raise ValueError(
                f"The model has {len(specs)} input(s), {[spec.name for spec in specs]}, so "
                f"`{what}` must be {'one array' if len(specs) == 1 else 'as many arrays'}, or a "
                f"dictionary by name, without labels. Received: {len(values)} value(s) in a "
                f"{type(data).__name__}"
            )
    arrays = {s.name: _as_input(v, s, what) for s, v in zip(specs, values, strict=True)}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"All inputs in `{what}` must have the same number of samples. Received: {lengths}"
        )
    if not all(lengths.values()):
        raise ValueError(
            f"`{what}` is empty. Received: shapes {[a.shape for a in arrays.values()]}"
        )
    return arrays


def random_inputs(specs: Sequence[TensorSpec], samples: int) -> dict[str, np.ndarray]:
    """Returns random data of the inputs' shapes, the same in every call.

    Floats are uniform in [0, 1); integers are 0 or 1, which every embedding and index takes.

    Raises:
        ValueError: If a dimension other than the batch is not fixed.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for spec in specs:
        if None in spec.shape[1:]:
            raise ValueError(
                "Random data need a fixed shape. Give data of the size that you will use (for "
                "`to_litert` as `representative_data`). "
                f"Received: input {spec.name!r} of shape {spec.shape}"
            )
        shape = (spec.shape[0] or samples, *spec.shape[1:])
        is_float = "float" in spec.dtype
        values = rng.random(shape) if is_float else rng.integers(0, 2, shape)
        arrays[spec.name] = values.astype(spec.dtype)
    return arrays


def _is_functional(model: keras.Model) -> bool:
    return not isinstance(model, keras.Sequential)


def _names(struct: Any, names: Sequence[str]) -> list[str]:
    if isinstance(struct, dict):
        paths = [path for path, _ in keras.tree.flatten_with_path(struct)]
        names = [p[0] if len(p) == 1 else n for p, n in zip(paths, names, strict=True)]
    unique: list[str] = []
    for name in map(file_name, names):
        # A layer that is called twice gives two outputs of one name.
        candidates = [name, *(f"{name}_{i}" for i in range(1, len(names)))]
        unique.append(next(c for c in candidates if c not in unique))
    return unique


def _spec(name: str, tensor: Any) -> TensorSpec:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return TensorSpec(name, tuple(tensor.shape), "float32" if dtype in HALF else dtype)


def _as_input(value: Any, spec: TensorSpec, what: str) -> np.ndarray:
    array = to_numpy(value)
    # Keras adds a missing last axis of size 1 in the same way.
    if array.ndim == len(spec.shape) - 1 and spec.shape[-1] == 1:
        array = array[..., None]
    fits = array.ndim == len(spec.shape) and all(
        want is None or want == got
        for want, got in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise ValueError(
            f"`{what}` for the input {spec.name!r} must have the shape {spec.shape}, samples "
            f"first (a dataset must be batched). Received: shape {array.shape}"
        )
    if array.dtype == object or array.dtype.kind in "US":
        raise ValueError(
            f"`{what}` for the input {spec.name!r} must hold numbers. Received: {array.dtype}"
        )
    return np.ascontiguousarray(array, dtype=spec.dtype)


def to_numpy(value: Any) -> np.ndarray:
    """Returns a NumPy array of an array or a tensor of any backend."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)
