"""One monitored value over the epochs: smoothed, compared with its best, and waited for."""

import math
import numbers
from typing import Any

from keras_optkit.core.monitor import Monitor


class Watch:
    """The best value of a monitor so far, and how long no better one has come.

    Args:
        monitor: The `Monitor`.
        window: Integer >= 1, how many of the last values are averaged.
        baseline: Float or `None`, what has to be beaten for the waiting to start anew.
        target: Float or `None`, the value that is good enough.
        divergence: Float or `None`, the value beyond which there is no hope.

    Attributes:
        value: Float, the last value, smoothed.
        best: Float, the best of them, or `None`.
        wait: Float, how long no better one has come, in the unit that `update` is given.
        improved: Boolean, whether the last value was the best.
    """

    _STATE = ("recent", "value", "best", "wait", "improved")

    def __init__(
        self,
        monitor: Monitor,
        window: int = 1,
        baseline: float | None = None,
        target: float | None = None,
        divergence: float | None = None,
    ):
        self.monitor = monitor
        self.window = window
        self.baseline = _check_threshold("baseline", baseline)
        self.target = _check_threshold("target", target)
        self.divergence = _check_threshold("divergence", divergence)
        self.reset()

    def reset(self) -> None:
        """Forgets every value."""
        self.recent: list[float] = []
        self.value: float | None = None
        self.best: float | None = None
        self.wait: float = 0
        self.improved = False

    def check(self) -> None:
        """Raises a `ValueError` if target and divergence contradict the monitor's direction."""
        if None in (self.target, self.divergence):
            return
        if self.monitor.reaches(self.divergence, self.target):
            raise ValueError(
                f"'{self.monitor.name}' is to go {_UP_OR_DOWN[self.monitor.direction]}, so "
                "`target` must be on that side of `divergence`. Received: "
                f"target={self.target}, divergence={self.divergence}"
            )

    def update(self, value: float, time: float) -> None:
        """Takes the value of an epoch.

        Args:
            value: Float. One that is not finite is never the best, and enters no average.
            time: Float, what the epoch adds to the waiting: 1, or its number of steps.
        """
        self.wait += time
        self.improved = False
        if not math.isfinite(value):
            self.value = value
            return
        self.recent = [*self.recent, value][-self.window :]
        self.value = sum(self.recent) / len(self.recent)
        if self.monitor.better(self.value, self.best):
            self.best, self.improved = self.value, True
            if self.baseline is None or self.monitor.better(self.value, self.baseline):
                self.wait = 0

    def exhausted(self, patience: float) -> bool:
        """Returns whether the waiting has reached the patience."""
        return not self.improved and self.wait >= patience

    @property
    def on_target(self) -> bool:
        """Whether the last value is good enough."""
        known = self.target is not None and self.value is not None
        return known and self.monitor.reaches(self.value, self.target)

    @property
    def diverged(self) -> bool:
        """Whether the last value is beyond hope."""
        known = self.divergence is not None and self.value is not None
        return known and not self.monitor.reaches(self.value, self.divergence)

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs to go on."""
        return {name: getattr(self, name) for name in self._STATE}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        for name in self._STATE:
            setattr(self, name, state[name])


_UP_OR_DOWN = {"max": "up", "min": "down"}


def _check_threshold(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"`{name}` must be a number or None. Received: {name}={value!r}")
    return float(value)
