"""Files that are there whole or not at all."""

import os
from typing import Any


def require_writable(path: Any) -> str:
    """Returns the path as a string if a file can be written there, else raises a `ValueError`."""
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"`path` must be the path of a file. Received: path={path!r}")
    path = os.fspath(path)
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        problem = "is a folder; add a file name, such as 'model.tflite'"
    elif not os.path.isdir(folder):
        problem = f"is in a folder that does not exist; create {folder!r} first"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"is in a folder that cannot be written to, {folder!r}"
    else:
        return path
    raise ValueError(f"`path` {problem}. Received: path={path!r}")


def write_atomically(path: str, content: bytes) -> None:
    """Writes a file so that at no time half of it is there under its name."""
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.remove(partial)
        raise
