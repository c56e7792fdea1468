"""The files of a cache: arrays that are mapped into memory, and how far they are filled."""

import json
import os
import pathlib
import shutil
from typing import Any

import numpy as np

_FORMAT = 1


class CacheFile:
    """Arrays on disk that are filled row by row, and can be filled on after a kill.

    A folder with a file `.npy` for each array and `cache.json`, which says what they belong to and
    how many rows are there. It is replaced in one move, after the rows are on disk.

    Args:
        folder: The folder. It is made where it is not there.
        fingerprint: Dictionary for JSON: what the rows belong to.
        arrays: A dictionary from a name to the shape and the data type of an array. The first
            axis counts rows.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        fingerprint: dict[str, Any],
        arrays: dict[str, tuple[tuple[int, ...], str]],
    ):
        self.folder = pathlib.Path(folder)
        self._head = {
            "format": _FORMAT,
            "fingerprint": fingerprint,
            "arrays": {name: [list(shape), dtype] for name, (shape, dtype) in arrays.items()},
        }
        self.arrays: dict[str, np.memmap] = {}

    @property
    def done(self) -> int:
        """The number of rows that are there, 0 where they belong to something else."""
        found = self._read()
        return found["done"] if found is not None and self.difference(found) is None else 0

    def difference(self, found: dict[str, Any] | None = None) -> str | None:
        """Returns what has changed since the files were written, or `None`.

        Args:
            found: What `cache.json` holds; by default it is read.
        """
        found = self._read() if found is None else found
        if found is None:
            return None
        old, new = found.get("fingerprint", {}), self._head["fingerprint"]
        changed = [key for key in new if old.get(key) != new[key]]
        if not changed and any(found.get(key) != value for key, value in self._head.items()):
            changed = ["outputs"]
        return " and ".join(changed) or None

    def open(self) -> int:
        """Opens the files, for a start from the first row where they belong to something else.

        Returns:
            The number of rows that are there.
        """
        done = self.done
        if done == 0:
            # Of the folder only what this class writes is removed.
            for path in [self._json, *map(self._path, self._head["arrays"])]:
                path.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._require_space()
        self.arrays = {
            name: np.lib.format.open_memmap(
                self._path(name),
                mode="r+" if done else "w+",
                **({} if done else {"dtype": dtype, "shape": tuple(shape)}),
            )
            for name, (shape, dtype) in self._head["arrays"].items()
        }
        return done

    def write(self, start: int, rows: dict[str, np.ndarray]) -> None:
        """Writes rows and notes that they are there.

        Args:
            start: Integer, the first row.
            rows: A dictionary from the names of all arrays to values for them.
        """
        for name, values in rows.items():
            self.arrays[name][start : start + len(values)] = values
            self.arrays[name].flush()
        head = {**self._head, "done": start + len(next(iter(rows.values())))}
        temporary = self._json.with_suffix(".json.new")
        temporary.write_text(json.dumps(head, indent=1))
        os.replace(temporary, self._json)

    def _require_space(self) -> None:
        needed = sum(
            int(np.prod(shape)) * np.dtype(dtype).itemsize
            for shape, dtype in self._head["arrays"].values()
        )
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(
                f"The cache would take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. "
                f'Pass `dtype="float16"` or fewer `views`. Received: {str(self.folder)!r}'
            )

    @property
    def _json(self) -> pathlib.Path:
        return self.folder / "cache.json"

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / f"{name}.npy"

    def _read(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self._json.read_text())
        except (OSError, ValueError):
            return None
        complete = all(self._path(name).exists() for name in self._head["arrays"])
        return found if complete and isinstance(found, dict) and "done" in found else None
