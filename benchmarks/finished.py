"""What a long benchmark has found so far, so that it can go on where it was stopped."""

import hashlib
import inspect
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import keras

# git ignores this folder.
OUTPUTS = pathlib.Path(__file__).parents[1] / "outputs"


class Finished:
    """Rows by name in a JSON file. They count only under the settings and the code they are of.

    Args:
        path: The file; it need not exist.
        settings: Dictionary of what the rows depend on, of what JSON can hold.
        sources: Modules, functions and classes that the rows depend on.
    """

    def __init__(self, path: pathlib.Path, settings: dict[str, Any], sources: Iterable[Any]):
        self._path = path
        code = "".join(inspect.getsource(source) for source in sources)
        version = [keras.__version__, keras.backend.backend()]
        text = json.dumps([settings, version, code], sort_keys=True)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        self._settings = settings
        self.rows = self._read()

    def _read(self) -> dict[str, Any]:
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        return found["rows"] if found.get("key") == self._key else {}

    def add(self, name: str, row: Any) -> None:
        """Notes a row, and writes the file in one step."""
        # Another run may have added some, too.
        self.rows = {**self._read(), name: row}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(f".{os.getpid()}")
        content = {"key": self._key, "settings": self._settings, "rows": self.rows}
        new.write_text(json.dumps(content, indent=1))
        os.replace(new, self._path)
