"""The files of a search: each is written whole or not at all."""

import json
import os
import pathlib
import tempfile
from typing import Any


def write_json(path: str, value: Any) -> None:
    """Writes a JSON file that a crash leaves as it was or as it should be.

    Args:
        path: String, the file. A remote one (`gs://...`) is written by KerasTuner's own means,
            because object stores replace whole objects anyway.
        value: What `json.dumps` takes.
    """
    if "://" in str(path):
        from keras_tuner.src import utils

        utils.save_json(path, value)
        return
    text = json.dumps(value)
    partial = f"{path}.partial-{os.getpid()}"
    with open(partial, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_json(path: str) -> Any:
    """Reads a JSON file.

    Args:
        path: String, the file.

    Raises:
        ValueError: If it holds no JSON, as a file does that a full disk cut short.
    """
    from keras_tuner.src import utils

    try:
        return utils.load_json(path)
    except ValueError as error:
        raise ValueError(
            f"A file of this search is damaged ({error}). Put it back from a copy, or start afresh "
            f"with `overwrite=True` or another `project_name`. Received: {str(path)!r}"
        ) from error


def check_directory(directory: str | None) -> None:
    """Proves that files can be written to a directory, which is made where it is missing.

    Args:
        directory: String or path, or `None` for the current one.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    path = pathlib.Path(directory or ".")
    if "://" in str(directory):
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"`directory` must be a folder that can be written to: {error.strerror}. "
            f"Received: directory={str(directory)!r}"
        ) from error
