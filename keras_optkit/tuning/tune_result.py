"""What a search found: a summary, the best model, numbers and pictures."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit.core.picture import save_picture
from keras_optkit.tuning.files import check_directory, write_json
from keras_optkit.tuning.importance import ENOUGH, variance_shares
from keras_optkit.tuning.pictures import draw_importance, draw_objective, draw_parallel
from keras_optkit.tuning.unit_space import UnitSpace


@dataclasses.dataclass(frozen=True)
class FinishedTrial:
    """One trial.

    Args:
        number: Integer, counted from 1.
        status: `"COMPLETED"`, `"FAILED"`, or `"RUNNING"` for one that was interrupted.
        score: Float, the objective at its best epoch, or `None`.
        best_epoch: Integer, that epoch, counted from 1, or `None`.
        values: Dictionary from the names of the parameters to their values.
        error: String, the last line of its error, or `None`.
    """

    number: int
    status: str
    score: float | None
    best_epoch: int | None
    values: dict[str, Any]
    error: str | None = None


class TuneResult:
    """What `tune` returns.

    Args:
        objective: String, the name of the objective.
        direction: `"min"` or `"max"`.
        trials: List of `FinishedTrial`.
        space: List of KerasTuner's parameters.
        model: The best model, with the weights of its best epoch.
        hyperparameters: `keras_tuner.HyperParameters` of the best trial.
        directory: String, where the search is kept, or `None` where it was a temporary one.
        stopped: String, why the search ended before its time, or `None`.
        notes: Sentences on how it went.

    Example:

    ```python
    result = keras_optkit.tuning.tune(build, (x, y), trials=20)
    print(result)
    result.model.evaluate(x_test, y_test)
    result.save("outputs")
    ```
    """

    def __init__(
        self,
        objective: str,
        direction: str,
        trials: list[FinishedTrial],
        space: list,
        model: keras.Model | None = None,
        hyperparameters: Any = None,
        directory: str | None = None,
        stopped: str | None = None,
        notes: Sequence[str] = (),
    ):
        self.objective = objective
        self.direction = direction
        self.trials = list(trials)
        self.model = model
        self.hyperparameters = hyperparameters
        self.directory = directory
        self.stopped = stopped
        self.notes = list(notes)
        self._unit_space = UnitSpace(space)

    @property
    def completed(self) -> list[FinishedTrial]:
        """The trials that completed, the best first."""
        return sorted(
            (trial for trial in self.trials if trial.status == "COMPLETED"),
            key=lambda trial: trial.score,
            reverse=self.direction == "max",
        )

    @property
    def best(self) -> FinishedTrial:
        """The best trial."""
        return self.completed[0]

    def importance(self) -> dict[str, float]:
        """Returns the share of the objective's variance that each parameter takes part in.

        See `keras_optkit.tuning.importance`. It is rough where trials are few: read it as a
        ranking. Shares may add up to more than 1, since what two parameters do together counts for
        both.

        Returns:
            Dictionary from names to floats >= 0, the greatest first; empty with less than 6
            completed trials, or where all came to the same.
        """
        return {name: share for name, (share, _) in self._shares().items()}

    def _shares(self) -> dict[str, tuple[float, float]]:
        trials = self.completed
        scores = np.array([trial.score for trial in trials])
        found = variance_shares(self._points(trials), scores, self._unit_space.snap)
        if found is None:
            return {}
        names = [p.name for p in self._unit_space.parameters]
        # One name may stand for several parameters, of which one is active at a time.
        shares: dict[str, tuple[float, float]] = {}
        for name, share, spread in zip(names, *found, strict=True):
            old = shares.get(name, (0.0, 0.0))
            shares[name] = (old[0] + float(share), max(old[1], float(spread)))
        return dict(sorted(shares.items(), key=lambda pair: -pair[1][0]))

    def _points(self, trials: list[FinishedTrial]) -> np.ndarray:
        points = [self._unit_space.encode(trial.values) for trial in trials]
        return np.array(points).reshape(len(points), self._unit_space.dimension)

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the model as JSON would hold it."""
        best = self.best if self.completed else None
        return {
            "objective": self.objective,
            "direction": self.direction,
            "stopped": self.stopped,
            "notes": self.notes,
            "best": None if best is None else dataclasses.asdict(best),
            "importance": self.importance(),
            "trials": [dataclasses.asdict(trial) for trial in self.trials],
        }

    def plot_objective(self, path: str | os.PathLike) -> None:
        """Draws what each trial came to, and the best so far, as a PNG file.

        Args:
            path: The file to write; its directory must exist.
        """
        scores = [trial.score for trial in self.trials if trial.status != "RUNNING"]
        save_picture(
            path, lambda axes: draw_objective(axes, scores, self.objective, self.direction)
        )

    def plot_importance(self, path: str | os.PathLike) -> None:
        """Draws how much of the objective depends on each parameter, as a PNG file.

        Args:
            path: The file to write; its directory must exist.

        Raises:
            ValueError: If there are too few trials to tell.
        """
        shares = self._shares()
        if not shares:
            raise ValueError(
                f"What the objective depends on can be told from {ENOUGH} completed trials on, "
                f"if they differ. Received: {len(self.completed)} completed trials"
            )
        save_picture(path, lambda axes: draw_importance(axes, shares, self.objective))

    def plot_parallel(self, path: str | os.PathLike) -> None:
        """Draws a line for each trial through the values it had, as a PNG file.

        Args:
            path: The file to write; its directory must exist.
        """
        trials = self.completed
        scores = np.array([trial.score for trial in trials])
        save_picture(
            path,
            lambda axes: draw_parallel(
                axes, self._columns(trials), scores, self.objective, self.direction
            ),
        )

    def _columns(self, trials) -> dict[str, tuple[np.ndarray, dict[float, str]]]:
        points = self._points(trials)
        columns: dict[str, tuple[np.ndarray, dict[float, str]]] = {}
        space = self._unit_space
        for i, (parameter, table) in enumerate(zip(space.parameters, space.tables, strict=True)):
            active = np.array([_is_active(parameter, trial.values) for trial in trials], bool)
            places = np.where(active, points[:, i], np.nan)
            if table is None or len(table) > 8:
                at = (0.0, 0.5, 1.0)
                labels = {
                    place: _text(parameter.prob_to_value(min(place, 1 - 1e-9))) for place in at
                }
            else:
                labels = {(k + 0.5) / len(table): _text(v) for k, v in enumerate(table)}
            columns[parameter.name] = (places, labels)
        return columns

    def save(self, directory: str | os.PathLike) -> None:
        """Writes `tuning.json`, `best.keras` and the pictures into a directory.

        The pictures are `objective.png`, `parallel.png` and, with 6 completed trials or more,
        `importance.png`.

        Args:
            directory: The directory, which is made where it is missing.

        Raises:
            ValueError: If it cannot be written to.
        """
        check_directory(os.fspath(directory))
        folder = pathlib.Path(directory)
        write_json(os.fspath(folder / "tuning.json"), self.to_dict())
        self.plot_objective(folder / "objective.png")
        if self.completed:
            self.plot_parallel(folder / "parallel.png")
        if self._shares():
            self.plot_importance(folder / "importance.png")
        if self.model is not None:
            self.model.save(folder / "best.keras")

    def __str__(self) -> str:
        done, failed = len(self.completed), sum(t.status == "FAILED" for t in self.trials)
        lines = [
            f"{done} trial{'s' * (done != 1)} completed" + (f", {failed} failed" * bool(failed))
        ]
        if self.stopped:
            lines[0] += f" ({self.stopped})"
        if not done:
            return lines[0]
        best = self.best
        lines.append(
            f"best: trial {best.number}, {self.objective} {best.score:.4f} "
            f"at epoch {best.best_epoch}"
        )
        width = max(map(len, best.values), default=0)
        shares = self.importance()
        texts = {name: _text(value) for name, value in best.values.items()}
        longest = max(map(len, texts.values()), default=0)
        for name, text in texts.items():
            share = f"   {shares[name]:4.0%} of the variance" if name in shares else ""
            lines.append(f"  {name:{width}}  {text:>{longest}}{share}")
        return "\n".join([*lines, *self.notes])

    def __repr__(self) -> str:
        return f"<TuneResult: {str(self).splitlines()[0]}>"


def _is_active(parameter: Any, values: dict[str, Any]) -> bool:
    conditions = all(condition.is_active(values) for condition in parameter.conditions)
    return conditions and parameter.name in values


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
