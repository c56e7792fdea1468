"""Short numbers that change when a model, a function or data does."""

import functools
import hashlib
import inspect
import json
import types
import zlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def of_model(model: keras.Model) -> str:
    """Returns a hexadecimal number of a model's layers, how they are set and wired, and weights.

    Names do not matter, nor how it was compiled and what of it is trainable.

    Args:
        model: A built model.
    """
    digest = hashlib.blake2b(digest_size=16)
    for layer in model._flatten_layers():
        digest.update(type(layer).__name__.encode())
    digest.update(_settings(model).encode())
    for weight in model.weights:
        _add(digest, keras.ops.convert_to_numpy(weight))
    return digest.hexdigest()


def of_function(function: Callable | None) -> str | None:
    """Returns a hexadecimal number of a function's code and of the plain values that it holds.

    What it reads from elsewhere, globals for one, is not seen.

    Args:
        function: A function, a `functools.partial`, any other callable object, or `None`.
    """
    if function is None:
        return None
    return hashlib.blake2b(repr(_code(function)).encode(), digest_size=16).hexdigest()


def of_arrays(structure: Any) -> str:
    """Returns a hexadecimal number of arrays: shapes, data types and every byte.

    Args:
        structure: An array, or lists and dictionaries of arrays.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in keras.tree.flatten(structure):
        _add(digest, array)
    return digest.hexdigest()


def checksums(structure: Any) -> np.ndarray:
    """Returns a uint32 number for each sample of a batch.

    Args:
        structure: An array of shape `(batch, ...)`, or lists and dictionaries of such arrays.
    """
    arrays = [np.ascontiguousarray(array) for array in keras.tree.flatten(structure)]
    sums = np.zeros(len(arrays[0]), "uint32")
    for i in range(len(sums)):
        for array in arrays:
            sums[i] = zlib.crc32(array[i].tobytes(), int(sums[i]))
    return sums


def _settings(part: keras.Layer) -> str:
    try:
        settings = keras.saving.serialize_keras_object(part)
    except (NotImplementedError, TypeError, ValueError):
        return ""  # A class of the user's own need not tell.
    names: dict[str, None] = {}
    text = json.dumps(_essential(settings, names), sort_keys=True, default=str)
    for i, name in enumerate(names):
        # Layers are wired by their names.
        text = text.replace(json.dumps(name), str(i))
    return text


def _essential(part: Any, names: dict[str, None]) -> Any:
    if isinstance(part, (list, tuple)):
        return [_essential(value, names) for value in part]
    if not isinstance(part, dict):
        return part
    if part.get("class_name") == "DTypePolicy":
        return part["config"]
    if isinstance(part.get("name"), str):
        names[part["name"]] = None
    left_out = ("name", "trainable", "build_config", "compile_config", "module", "registered_name")
    return {key: _essential(value, names) for key, value in part.items() if key not in left_out}


def _code(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return [_code(value.func), _code(value.args), _code(value.keywords)]
    if isinstance(value, types.MethodType):
        return [_code(value.__func__), _code(value.__self__)]
    if isinstance(value, types.FunctionType):
        held = inspect.getclosurevars(value).nonlocals.values()
        # Of functions the code alone: one may hold itself.
        held = [getattr(v, "__code__", v) for v in held]
        return [_code(v) for v in (value.__code__, value.__defaults__, value.__kwdefaults__, held)]
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, [_code(v) for v in value.co_consts]]
    if isinstance(value, (list, tuple)):
        return [_code(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_code(v)) for v in value)
    if isinstance(value, dict):
        return [(key, _code(v)) for key, v in value.items()]
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if isinstance(value, np.ndarray):
        return of_arrays(value)
    if isinstance(value, keras.Layer):
        return [type(value).__qualname__, _settings(value)]
    return getattr(value, "__qualname__", type(value).__qualname__)


def _add(digest: Any, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    digest.update(f"{array.shape}{array.dtype}".encode())
    digest.update(array.reshape(-1).view("uint8").data)
