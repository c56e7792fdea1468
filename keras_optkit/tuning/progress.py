"""The table that grows by a line with each trial."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

_NARROW = 8


class ProgressTable:
    """Writes a line for each trial that ends: its score, the best so far, and its values.

    Args:
        objective: String, the name of the objective.
        direction: `"min"` or `"max"`.
        space: List of KerasTuner's parameters.
        write: A function from a line, and whether it is of the best trial so far, to nothing.
    """

    def __init__(
        self,
        objective: str,
        direction: str,
        space: list,
        write: Callable[[str, bool], None] | None = None,
    ):
        widths: dict[str, int] = {}
        for parameter in space:
            texts = map(_text, getattr(parameter, "values", ()))
            lengths = [_NARROW, len(parameter.name), *map(len, texts)]
            widths[parameter.name] = max([*lengths, widths.get(parameter.name, 0)])
        self._names = list(widths)
        self._direction = direction
        self._best: float | None = None
        self._write = write or _write
        self._widths = [5, max(len(objective), _NARROW), _NARROW, 7]
        self._widths += widths.values()
        self._head = ["trial", objective, "best", "seconds", *self._names]
        self._began: dict[str, float] = {}
        self._told = False

    def begin(self, trial_id: str) -> None:
        """Notes when a trial began."""
        self._began[trial_id] = time.monotonic()

    def seen(self, score: float) -> None:
        """Notes what a trial of an earlier run came to."""
        if self._is_best(score):
            self._best = score

    def end(self, number: int, trial: Any) -> None:
        """Writes the line of a trial.

        Args:
            number: Integer, counted from 1.
            trial: KerasTuner's `Trial`.
        """
        if not self._told:
            self._told = True
            self._write(self._line(self._head), False)
        score = trial.score if trial.status == "COMPLETED" else None
        is_best = score is not None and self._is_best(score)
        if is_best:
            self._best = score
        began = self._began.pop(trial.trial_id, None)
        cells = [
            str(number),
            "failed" if score is None else f"{score:.4f}",
            "" if self._best is None else f"{self._best:.4f}",
            "" if began is None else f"{time.monotonic() - began:.1f}",
        ]
        values = trial.hyperparameters.values
        cells += [_text(values[name]) if name in values else "-" for name in self._names]
        line = self._line(cells)
        if score is None and trial.message:
            line += f"   {last_line(trial.message)}"
        self._write(line, is_best)

    def _is_best(self, score: float) -> bool:
        if not math.isfinite(score):
            return False
        if self._best is None:
            return True
        return score > self._best if self._direction == "max" else score < self._best

    def _line(self, cells: list[str]) -> str:
        return "  ".join(f"{c:>{w}}" for c, w in zip(cells, self._widths, strict=True))


def last_line(message: str | None) -> str | None:
    """Returns the line of a traceback that says what happened."""
    lines = (message or "").strip().splitlines()
    return lines[-1].strip() if lines else None


def _write(line: str, is_best: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    Console(file=sys.stdout, highlight=False).print(
        Text(line, style="bold green" if is_best else ""), soft_wrap=True
    )


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
