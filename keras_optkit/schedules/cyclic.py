"""Cyclic rates: up and down on a triangle, again and again."""

from typing import Any

from keras import ops

from keras_optkit.core.duration import parse
from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import completed, linear_between, power
from keras_optkit.schedules.schedule import Schedule, check_rate, check_share


@register
class Cyclic(Schedule):
    """Moves the learning rate between two bounds on a triangle, in cycles without an end.

    Args:
        initial_learning_rate: Float >= 0, the lower bound, from which each cycle starts.
        max_learning_rate: Float > `initial_learning_rate`, the upper bound.
        every: Duration of a cycle, both sides of the triangle: `"4ep"`, `"2000step"`, a fraction
            of the run in (0, 1], or an integer number of steps (at least 2).
        mode: String, what becomes of the triangle's height. `"triangular"` keeps it,
            `"triangular2"` halves it with each cycle, and `"exp_range"` multiplies it by `gamma`
            with each step. Defaults to `"triangular"`.
        gamma: Float in (0, 1], the factor per step of `"exp_range"`. Defaults to 1.
        pct_start: Float in (0, 1), the share of a cycle in which the rate rises. Defaults to 0.5.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = Cyclic(0.1, 0.5, every=100, mode="triangular2")
    >>> [round(float(schedule(step)), 6) for step in (0, 25, 50, 100, 150)]
    [0.1, 0.3, 0.5, 0.1, 0.3]

    Reference:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017. A cycle of this
        schedule is twice the step size of the paper.
    """

    durations = ("every",)

    def __init__(
        self,
        initial_learning_rate: float,
        max_learning_rate: float,
        every: int | float | str,
        mode: str = "triangular",
        gamma: float = 1.0,
        pct_start: float = 0.5,
    ):
        self.initial_learning_rate = check_rate(
            "initial_learning_rate", initial_learning_rate, zero=True
        )
        self.max_learning_rate = check_rate("max_learning_rate", max_learning_rate)
        if self.max_learning_rate <= self.initial_learning_rate:
            raise ValueError(
                "`max_learning_rate` must be above `initial_learning_rate`. Received: "
                f"initial_learning_rate={initial_learning_rate!r}, "
                f"max_learning_rate={max_learning_rate!r}"
            )
        self.every = every
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(
                '`mode` must be "triangular", "triangular2" or "exp_range". Received: '
                f"mode={mode!r}"
            )
        self.mode = mode
        self.gamma = check_share("gamma", gamma)
        if self.gamma < 1 and mode != "exp_range":
            raise ValueError(
                '`gamma` has an effect only with mode="exp_range". Received: '
                f"gamma={gamma!r}, mode={mode!r}"
            )
        self.pct_start = check_share("pct_start", pct_start)
        if self.pct_start == 1:
            raise ValueError(f"`pct_start` must be in (0, 1). Received: pct_start={pct_start!r}")
        self._validate()
        if parse(every) == (1, "step"):
            raise ValueError(f"`every` must be at least 2 steps. Received: every={every!r}")

    def _rate(self, step: Any) -> Any:
        every = self._steps["every"]
        cycle = completed(step, every)
        since, top = step - cycle * every, self.pct_start * every
        height = ops.minimum(
            linear_between(0.0, 1.0, since, 0, top), linear_between(1.0, 0.0, since, top, every)
        )
        if self.mode == "triangular2":
            height = height * power(0.5, cycle)
        elif self.mode == "exp_range":
            height = height * power(self.gamma, step)
        span = self.max_learning_rate - self.initial_learning_rate
        return self.initial_learning_rate + span * height
