"""What a sensitivity analysis found: a table, a picture, targets for `Pruning`."""

import os
from typing import Any

from keras_optkit.core.picture import save_picture


class Sensitivity:
    """The metric of a model with one kernel pruned, made by `sensitivity(model, data)`.

    Args:
        levels: List of floats, the sparsities, rising.
        baseline: Float, the metric of the model as it is.
        scores: Dictionary from the path of a kernel to the metric at each level.
        metric: String, the name of the metric.

    Example:

    >>> found = Sensitivity([0.5, 0.9], 0.9, {"a/kernel": [0.9, 0.4]}, "accuracy")
    >>> found.targets(max_drop=0.01)
    {'a/kernel': 0.5}
    """

    def __init__(
        self,
        levels: list[float],
        baseline: float,
        scores: dict[str, list[float]],
        metric: str = "accuracy",
    ):
        self.levels = list(levels)
        self.baseline = baseline
        self.scores = dict(scores)
        self.metric = metric

    def drops(self) -> dict[str, list[float]]:
        """Returns how much worse each kernel makes the metric at each level."""
        sign = 1 if _higher_is_better(self.metric) else -1
        return {
            path: [sign * (self.baseline - score) for score in scores]
            for path, scores in self.scores.items()
        }

    def targets(self, max_drop: float = 0.01) -> dict[str, float]:
        """Returns a final sparsity for each kernel, for `Pruning(targets=...)`.

        It is the highest level up to which the metric never falls by more than `max_drop`, or 0,
        which leaves the kernel alone. Training wins back a part of what is lost here, and several
        kernels lose more together than each by itself: it is a ranking more than a forecast.

        Args:
            max_drop: Float >= 0, in the unit of the metric (0.01 is one point of accuracy).

        Raises:
            ValueError: If `max_drop` is negative.
        """
        if not max_drop >= 0:
            raise ValueError(f"`max_drop` must be >= 0. Received: max_drop={max_drop!r}")
        found = {}
        for path, drops in self.drops().items():
            found[path] = 0.0
            for level, drop in zip(self.levels, drops, strict=True):
                if not drop <= max_drop:
                    break
                found[path] = level
        return found

    def to_dict(self) -> dict[str, Any]:
        """Returns all that was found as JSON would hold it."""
        return {
            "metric": self.metric,
            "baseline": self.baseline,
            "levels": list(self.levels),
            "scores": {path: list(scores) for path, scores in self.scores.items()},
        }

    def plot(self, path: str | os.PathLike) -> None:
        """Draws a line for each kernel, as a PNG file.

        Args:
            path: The file to write; its directory must exist. A name without a suffix gets `.png`.

        Raises:
            ValueError: If the name ends in another suffix.
        """
        save_picture(path, self._draw)

    def _draw(self, axes: Any) -> None:
        for i, (name, scores) in enumerate(self.scores.items()):
            style = {"marker": "osD^vP"[i % 6], "linewidth": 2, "markersize": 7}
            axes.plot([100 * level for level in self.levels], scores, label=name, **style)
        axes.axhline(self.baseline, color="black", linestyle="--", label="not pruned")
        axes.set_xlabel("zeros in this kernel alone, %", fontsize=16)
        axes.set_ylabel(self.metric, fontsize=16)
        axes.set_title("Pruned without training, one kernel at a time", fontsize=15)
        axes.tick_params(labelsize=14)
        axes.grid(alpha=0.3)
        # The lines of a deep network would be hidden behind their names.
        if len(self.scores) <= 15:
            axes.legend(fontsize=12, loc="best")

    def __str__(self) -> str:
        width = max(len("not pruned"), *(len(path) for path in self.scores))
        head = f"{self.metric:{width}}" + "".join(f"{level:>9.1%}" for level in self.levels)
        lines = [
            f"{path:{width}}" + "".join(f"{score:9.4f}" for score in scores)
            for path, scores in self.scores.items()
        ]
        return "\n".join([head, *lines, f"{'not pruned':{width}}{self.baseline:9.4f}"])

    __repr__ = __str__


def _higher_is_better(metric: str) -> bool:
    return "loss" not in metric and "error" not in metric
