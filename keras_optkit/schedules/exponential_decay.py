"""Exponential decay: a constant factor per period, spread over its steps."""

from typing import Any

from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import completed, power
from keras_optkit.schedules.schedule import Schedule, check_rate, check_share


@register
class ExponentialDecay(Schedule):
    """Multiplies the learning rate by `gamma` in the course of every so many epochs or steps.

    `rate(step) = initial_learning_rate * gamma ** (step / every)`, or with `step // every` for a
    staircase.

    Args:
        initial_learning_rate: Float > 0, the rate at the start.
        every: Duration in which the rate falls by `gamma`: `"2ep"`, `"500step"`, a fraction of the
            run in (0, 1], or an integer number of steps.
        gamma: Float in (0, 1], the factor.
        staircase: Boolean, whether the rate falls at once at the end of each period, as in
            `StepDecay`. Defaults to False.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = ExponentialDecay(0.1, every=100, gamma=0.25)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100)]
    [0.1, 0.05, 0.025]

    Reference:
        Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2016,
        section 8 (a factor of 0.94 every two epochs).
    """

    durations = ("every",)

    def __init__(
        self,
        initial_learning_rate: float,
        every: int | float | str,
        gamma: float,
        staircase: bool = False,
    ):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.every = every
        self.gamma = check_share("gamma", gamma)
        self.staircase = bool(staircase)
        self._validate()

    def _rate(self, step: Any) -> Any:
        every = self._steps["every"]
        if self.staircase:
            factor = power(self.gamma, completed(step, every))
        else:
            # A whole exponent keeps all digits.
            factor = power(self.gamma ** (1 / every), step)
        return self.initial_learning_rate * factor
