"""What a learning-rate range test found: a curve, four suggestions, a picture."""

import math
import os
from typing import Any

import numpy as np

from keras_optkit.core.picture import save_picture
from keras_optkit.schedules.range_rules import suggest

# Colors that the color-blind can tell apart, and markers for a print in grey.
# Source: Okabe and Ito, "Color Universal Design", 2008.
_MARKS = {
    "slide": ("#CC79A7", "D"),
    "steepest": ("#009E73", "^"),
    "valley": ("#D55E00", "o"),
    "minimum": ("#0072B2", "s"),
}


class RangeTest:
    """The result of `find_lr`.

    Args:
        learning_rates: Array of shape (n,), float64, the rate of each update.
        losses: Array of shape (n,), float64, the loss of the batch (under gradient accumulation,
            the mean of the batches) that each update was made from, as it was.
        smoothed: Array of shape (n,), float64, the smoothed losses.
        stopped: String, why the test ended.
        mode: String, the kind of sweep, `"exponential"` or `"linear"`.

    Attributes:
        suggestions: Dictionary with four learning rates, each a float, or `None` where the curve
            gives none: `"steepest"`, where the loss falls most; `"valley"`, the middle of the
            longest fall; `"minimum"`, a tenth of the rate with the lowest loss; `"slide"`, the
            right end of the part that has settled.
        reasons: Dictionary from the name of each suggestion that is `None` to why.

    Example:

    >>> rates, losses = np.geomspace(1e-4, 1, 41), np.linspace(2.0, 1.0, 41)
    >>> test = RangeTest(rates, losses, losses, stopped="the sweep came to its end")
    >>> round(test.suggestions["minimum"], 6)
    0.1
    """

    def __init__(
        self,
        learning_rates: np.ndarray,
        losses: np.ndarray,
        smoothed: np.ndarray,
        stopped: str,
        mode: str = "exponential",
    ):
        self.learning_rates = np.asarray(learning_rates, dtype="float64")
        self.losses = np.asarray(losses, dtype="float64")
        self.smoothed = np.asarray(smoothed, dtype="float64")
        self.stopped = stopped
        self.mode = mode
        # A linear sweep may start at 0, which is not a rate to suggest.
        positive = self.learning_rates > 0
        self.suggestions, self.reasons = suggest(
            self.learning_rates[positive], self.smoothed[positive]
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns all that was found as JSON would hold it; a loss that is not finite is `None`."""
        return {
            "learning_rates": self.learning_rates.tolist(),
            "losses": _for_json(self.losses),
            "smoothed": _for_json(self.smoothed),
            "suggestions": dict(self.suggestions),
            "reasons": dict(self.reasons),
            "stopped": self.stopped,
            "mode": self.mode,
        }

    def plot(self, path: str | os.PathLike) -> None:
        """Draws the curve, with the four suggestions marked, as a PNG file.

        Args:
            path: The file to write; its directory must exist. A name without a suffix gets `.png`.

        Raises:
            ValueError: If the name ends in another suffix.
        """
        save_picture(path, self._draw)

    def _draw(self, axes: Any) -> None:
        style = {"color": "#B0B0B0", "linewidth": 1.2, "label": "loss of each update"}
        axes.plot(self.learning_rates, self.losses, **style)
        style = {"color": "black", "linewidth": 2.5, "label": "smoothed loss"}
        axes.plot(self.learning_rates, self.smoothed, **style)
        for name, (color, marker) in _MARKS.items():
            rate = self.suggestions[name]
            if rate is None:
                axes.plot([], [], " ", label=f"{name}: none")
                continue
            height = np.interp(rate, self.learning_rates, self.smoothed)
            axes.axvline(rate, color=color, linewidth=1.2, linestyle="--")
            style = {"color": color, "marker": marker, "markersize": 12, "linestyle": "none"}
            axes.plot([rate], [height], label=f"{name}: {rate:.2e}", zorder=3, **style)
        if self.mode == "exponential":
            axes.set_xscale("log")
        finite = self.smoothed[np.isfinite(self.smoothed)]
        if len(finite):
            # What a diverging loss reaches would press the rest of the curve flat.
            low, high = np.nanmin([self.losses, self.smoothed]), finite[0]
            margin = 0.15 * (high - low) or 1.0
            axes.set_ylim(low - margin, high + 4 * margin)
        axes.set_xlabel("learning rate (per update)", fontsize=16)
        axes.set_ylabel("training loss", fontsize=16)
        axes.set_title(f"Learning-rate range test: {self.stopped}", fontsize=15, wrap=True)
        axes.tick_params(labelsize=14)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=14, loc="best")

    def __str__(self) -> str:
        found = ", ".join(
            f"{name}={'none' if rate is None else format(rate, '.2e')}"
            for name, rate in self.suggestions.items()
        )
        return f"RangeTest({found}; {len(self.losses)} updates, {self.stopped})"

    __repr__ = __str__


def _for_json(values: np.ndarray) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]
