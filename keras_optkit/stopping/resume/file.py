"""The files that a training is resumed from: checked, written whole or not at all, two kept."""

import contextlib
import hashlib
import importlib
import json
import math
import os
import pathlib
import re
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

# A file is: this line with the format's version, the length of the index as 8 bytes, the index as
# JSON, the bytes of the arrays one after the other, and the SHA-256 of all before it.
_FORMAT = 1
_LINE = re.compile(rb"keras_optkit\.Resume (\d{1,6})\n")
_LENGTH = struct.Struct("<Q")
_DIGEST = hashlib.sha256().digest_size
_ARRAY, _DICT = "$array", "$dict"


class NewerFormatError(ValueError):
    """The file was written by a later version of this package."""


class CorruptFileError(ValueError):
    """The file is not one of ours, or not all of it is there as it was written."""


class Store:
    """The generations of one training's state in a directory: the last two that were written.

    Args:
        directory: The directory, which is made where it is missing.
        run: Integer, which `fit` of the process the state belongs to.
    """

    def __init__(self, directory: pathlib.Path, run: int):
        self._directory = directory
        self._pattern = re.compile(rf"fit{run}-(\d{{8}})\.state")
        self._name = f"fit{run}-{{:08d}}.state"
        self._partial = directory / f"fit{run}.partial"

    def prepare(self) -> None:
        """Makes the directory and proves that it can be written to.

        Raises:
            ValueError: If it is a file, or cannot be written to.
        """
        if self._directory.exists() and not self._directory.is_dir():
            raise ValueError(
                "`directory` must be a directory, and there is a file of this name. "
                f"Received: directory={str(self._directory)!r}"
            )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._partial.write_bytes(b"")
            self._partial.unlink()
        except OSError as error:
            raise ValueError(
                f"`directory` must be one that can be written to: {error}. "
                f"Received: directory={str(self._directory)!r}"
            ) from error

    def write(self, state: dict[str, Any]) -> int:
        """Writes a generation, after which the one before the last is removed.

        A process that ends at any point leaves the generations that were whole before.

        Args:
            state: A dictionary, see `keras_optkit.core.state.Stateful`.

        Returns:
            Integer, the bytes written.

        Raises:
            OSError: If the file cannot be written; what was there before is there still.
        """
        found = self._generations()
        target = self._directory / self._name.format(found[0][0] + 1 if found else 0)
        try:
            with open(self._partial, "wb") as file:
                size = _write(file, state)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._partial, target)
        except OSError:
            with contextlib.suppress(OSError):
                self._partial.unlink()
            raise
        _sync_directory(self._directory)
        for _, path in found[1:]:
            with contextlib.suppress(OSError):
                path.unlink()
        return size

    def read(self) -> tuple[dict[str, Any] | None, list[str]]:
        """Returns the newest whole generation, or `None`, and what is wrong with newer ones.

        Raises:
            NewerFormatError: If the newest was written by a later version of this package.
        """
        problems = []
        for _, path in self._generations():
            try:
                return decode(path.read_bytes()), problems
            except (OSError, CorruptFileError) as error:
                problems.append(f"{path.name} is left aside: {error}")
        return None, problems

    def _generations(self) -> list[tuple[int, pathlib.Path]]:
        """The numbers and files there are, the newest first."""
        names = os.listdir(self._directory) if self._directory.is_dir() else []
        matches = [match for name in names if (match := self._pattern.fullmatch(name))]
        return sorted(((int(m[1]), self._directory / m[0]) for m in matches), reverse=True)


def _sync_directory(directory: pathlib.Path) -> None:
    # A rename is safe from a power cut only once the directory is on the disk too. Not every
    # system lets a directory be opened.
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write(file: Any, state: dict[str, Any]) -> int:
    digest, size = hashlib.sha256(), 0
    for part in _parts(state):
        digest.update(part)
        file.write(part)
        size += len(part)
    file.write(digest.digest())
    return size + _DIGEST


def encode(state: dict[str, Any]) -> bytes:
    """Returns the content of a file that holds a state."""
    content = b"".join(_parts(state))
    return content + hashlib.sha256(content).digest()


def _parts(state: dict[str, Any]) -> Iterator[bytes | memoryview]:
    arrays: list[np.ndarray] = []
    tree = _to_json(state, arrays, "state")
    shapes = [(array.dtype.name, array.shape) for array in arrays]
    index = json.dumps({"tree": tree, "arrays": shapes}).encode()
    yield b"keras_optkit.Resume %d\n" % _FORMAT
    yield _LENGTH.pack(len(index))
    yield index
    for array in arrays:
        yield np.asarray(array, order="C").reshape(-1).view(np.uint8).data


def _to_json(value: Any, arrays: list[np.ndarray], where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value if not isinstance(value, np.generic) else value.item()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "OSUMm":
            arrays.append(array)
            return {_ARRAY: len(arrays) - 1}
    elif isinstance(value, (list, tuple)):
        return [_to_json(item, arrays, f"{where}[{i}]") for i, item in enumerate(value)]
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        items = {key: _to_json(item, arrays, f"{where}.{key}") for key, item in value.items()}
        # A dictionary that looks like an array's place is put one level deeper.
        return {_DICT: items} if set(items) in ({_ARRAY}, {_DICT}) else items
    raise TypeError(
        "A state is made of None, booleans, numbers, strings, NumPy arrays, and lists and "
        f"dictionaries (with string keys) of them. Received: {where}={value!r}"
    )


def decode(content: bytes) -> dict[str, Any]:
    """Returns the state that a file holds.

    Raises:
        NewerFormatError: If it is of a later format.
        CorruptFileError: If it is not a file of ours, or is torn or changed.
    """
    line = _LINE.match(content)
    if line is None:
        raise CorruptFileError("it is not a file that `Resume` wrote, or it is torn")
    if int(line[1]) > _FORMAT:
        raise NewerFormatError(
            f"the file has the format {int(line[1])}, and this version of keras_optkit reads "
            f"formats up to {_FORMAT}. Update keras_optkit"
        )
    body = memoryview(content)[:-_DIGEST]
    if hashlib.sha256(body).digest() != content[-_DIGEST:]:
        raise CorruptFileError("it is torn or was changed (its checksum does not match)")
    start = line.end() + _LENGTH.size
    (length,) = _LENGTH.unpack_from(content, line.end())
    index = json.loads(bytes(body[start : start + length]))
    arrays, offset = [], start + length
    for name, shape in index["arrays"]:
        dtype, count = _dtype(name), math.prod(shape)
        values = np.frombuffer(content, dtype, count, offset).reshape(shape)
        # Its own memory: a view would keep the whole file in memory, and cannot be written to.
        arrays.append(values.copy())
        offset += values.nbytes
    return _from_json(index["tree"], arrays)


def _dtype(name: str) -> np.dtype:
    try:
        return np.dtype(name)
    except TypeError:
        # bfloat16 and the float8 types, which NumPy knows from this package.
        return np.dtype(getattr(importlib.import_module("ml_dtypes"), name))


def _from_json(value: Any, arrays: list[np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) == {_ARRAY}:
        return arrays[value[_ARRAY]]
    items = value[_DICT] if set(value) == {_DICT} else value
    return {key: _from_json(item, arrays) for key, item in items.items()}
