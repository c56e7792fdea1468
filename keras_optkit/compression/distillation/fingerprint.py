"""Short numbers that change when a model or data does."""

import hashlib
import zlib
from typing import Any

import keras
import numpy as np


def of_model(model: keras.Model) -> str:
    """Returns a hexadecimal number of a model's layers and weights; names do not matter.

    Args:
        model: A built model.
    """
    digest = hashlib.blake2b(digest_size=16)
    for layer in model._flatten_layers():
        digest.update(type(layer).__name__.encode())
    for weight in model.weights:
        _add(digest, keras.ops.convert_to_numpy(weight))
    return digest.hexdigest()


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


def _add(digest: Any, array: np.ndarray) -> None:
    array = np.ascontiguousarray(array)
    digest.update(f"{array.shape}{array.dtype}".encode())
    digest.update(array.reshape(-1).view("uint8").data)
