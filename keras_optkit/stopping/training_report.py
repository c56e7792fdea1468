"""The callback that draws a training run, and keeps its numbers."""

import io
import json
import math
import os
import pathlib
import time
import warnings
from typing import Any

from keras_optkit.core.additions import learning_rate_at
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.checks import check_count
from keras_optkit.core.fit_scope import owners
from keras_optkit.core.optimizer import iterations, require_compiled
from keras_optkit.core.processes import processes
from keras_optkit.stopping.reasons import StopReason
from keras_optkit.stopping.report_figure import draw


class TrainingReport(OptkitCallback):
    """Writes the curves of a run, as a picture and as numbers, while it trains.

    There are two files. `training.json` is written after every epoch, and `training.png` every so
    often and at the end. Each is replaced in one go, so a run that breaks off leaves the last ones
    whole. In both are the loss and all metrics, the learning rate, the sparsity (of `Pruning`), the
    seconds that each epoch took with its validation and callbacks, and what happened:

    - `"rate cut"`: the epochs at whose end `ReduceOnPlateau` cut the rate.
    - `"best"`: the best epoch of `EarlyStopping` or, without it, that of the lowest validation loss
      (or loss).
    - `"stopped"`: where `EarlyStopping` or `TimeBudget` stopped training, and why.
    - `"resumed"`: where `Resume` went on. The seconds of an epoch that was broken off are those
      since then.

    A disk that is full, say, is told in a warning and does not end the training.

    A value that is not finite is marked in the picture and is `null` in the JSON file. The picture
    is drawn without pyplot: figures, windows and settings of matplotlib stay as they are.

    Args:
        directory: The folder of the two files, which is made where it does not exist.
        every: Integer >= 0, the number of epochs between two pictures; 0 draws one at the end only.
            Defaults to 10. The first epoch is drawn, too.

    Raises:
        ValueError: At construction, if `every` is out of its range or `directory` is a file.

    Example:

    ```python
    report = keras_optkit.callbacks.TrainingReport("report")
    model.fit(x, y, validation_split=0.2, epochs=30, callbacks=[report])  # report/training.png
    ```
    """

    def __init__(self, directory: str | os.PathLike, every: int = 10):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.every = check_count("every", every)
        if self.directory.exists() and not self.directory.is_dir():
            raise ValueError(
                "`directory` must be a folder, or not exist yet. "
                f"Received: directory={str(directory)!r}, which is a file"
            )
        self._reset()

    def _reset(self) -> None:
        # From the epoch, counted from 1, to its row.
        self._rows: dict[int, dict[str, float]] = {}
        self._resumed: list[dict[str, Any]] = []
        self._siblings: list = []
        self._last: tuple[int, dict, float] | None = None
        self._began: float | None = None
        self._told = False

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._reset()

    def _install(self, epoch, state):
        if processes().is_chief:
            self.directory.mkdir(parents=True, exist_ok=True)
        if state is not None:
            self._rows = {row["epoch"]: dict(row) for row in state["rows"] if row["epoch"] <= epoch}
            self._resumed = [dict(event) for event in state["resumed"]]
        # All have opened their scopes by now, and some close them before this one at the end.
        self._siblings = [owner for owner in owners(self.model) if owner is not self]
        for sibling in self._siblings:
            position = getattr(sibling, "resumed_from", None)
            if position is not None:
                self._resumed.append(
                    {"kind": "resumed", "epoch": position.epoch + 1, "batch": position.batch}
                )

    def on_epoch_begin(self, epoch, logs=None):
        self._close_epoch()
        super().on_epoch_begin(epoch, logs)
        self._began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        # Callbacks behind this one may still add to the logs; the row is made anew later.
        optimizer = require_compiled(self.model, "TrainingReport")
        rate = learning_rate_at(optimizer, max(iterations(optimizer) - 1, 0))
        self._last = (epoch + 1, {} if logs is None else logs, rate)
        self._record()
        self._write_numbers()
        if self.every and (epoch == 0 or (epoch + 1) % self.every == 0):
            self._write_picture()

    def _close_epoch(self) -> None:
        if self._last is not None:
            self._record()
            self._last = None

    def _record(self) -> None:
        epoch, logs, rate = self._last
        row = {name: float(value) for name, value in logs.items()}
        row.setdefault("learning_rate", rate)
        self._rows[epoch] = {"epoch": epoch, **row, "seconds": time.monotonic() - self._began}

    def on_train_end(self, logs=None):
        self._close_epoch()
        if self._rows:
            self._write_numbers()
            self._write_picture()
        super().on_train_end(logs)

    @property
    def events(self) -> list[dict[str, Any]]:
        """What happened so far: dictionaries with `"kind"` and `"epoch"`, counted from 1."""
        events = list(self._resumed)
        for sibling in self._siblings:
            for epoch in getattr(sibling, "cuts", []):
                events.append({"kind": "rate cut", "epoch": epoch + 1})
            reason = getattr(sibling, "stopped_reason", None)
            if isinstance(reason, StopReason) and reason not in _NOT_STOPPED and self._rows:
                event = {"kind": "stopped", "epoch": max(self._rows), "why": reason.value}
                events.append({**event, "explanation": sibling.explanation})
        best = self._best_epoch()
        if best is not None:
            events.append({"kind": "best", "epoch": best})
        return sorted(events, key=lambda event: event["epoch"])

    def _best_epoch(self) -> int | None:
        for sibling in self._siblings:
            epoch = getattr(sibling, "best_epoch", None)
            if epoch is not None:
                return epoch + 1
        for name in ("val_loss", "loss"):
            rows = [row for row in self._rows.values() if math.isfinite(row.get(name, math.nan))]
            if rows:
                return min(rows, key=lambda row: row[name])["epoch"]
        return None

    def _columns(self) -> dict[str, list[float | None]]:
        rows = [self._rows[epoch] for epoch in sorted(self._rows)]
        names = dict.fromkeys(name for row in rows for name in row if name != "epoch")
        return {name: [row.get(name) for row in rows] for name in names}

    def _write_numbers(self) -> None:
        if not processes().is_chief:
            return
        columns = {
            name: [v if v is not None and math.isfinite(v) else None for v in values]
            for name, values in self._columns().items()
        }
        content = {"epoch": sorted(self._rows), **columns}
        text = json.dumps({"history": content, "events": self.events}, indent=1)
        self._write("training.json", text.encode())

    def _write_picture(self) -> None:
        if not processes().is_chief:
            return
        picture = io.BytesIO()
        events = self.events
        figure = draw(sorted(self._rows), self._columns(), events, self._title(events))
        figure.savefig(picture, format="png", dpi=80)
        self._write("training.png", picture.getvalue())

    def _write(self, name: str, content: bytes) -> None:
        try:
            _replace(self.directory / name, content)
        except OSError as error:
            # Training is worth more than its report.
            if not self._told:
                self._told = True
                warnings.warn(
                    f"The training report could not be written, and training goes on. {error}",
                    stacklevel=2,
                )

    def _title(self, events) -> str:
        count = len(self._rows)
        title = f"{self.model.name}: {count} epoch{'s' * (count != 1)}"
        stopped = [event for event in events if event["kind"] == "stopped"]
        if stopped:
            title += f", {stopped[-1]['why']}"
        best = [event for event in events if event["kind"] == "best"]
        return title + (f"; best: {best[0]['epoch']}" if best else "")

    def get_state(self) -> dict[str, Any]:
        """Returns the rows and resumes so far."""
        if self._last is not None:
            self._record()
        return {
            "rows": [dict(row) for row in self._rows.values()],
            "resumed": [dict(event) for event in self._resumed],
        }


_NOT_STOPPED = (StopReason.COMPLETED, StopReason.OTHER)


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Writes a file anew: at any moment, the old one or the new one is there as a whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        if partial.is_file():
            partial.unlink()
        raise
