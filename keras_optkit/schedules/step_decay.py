"""Step decay: the rate drops by a factor every so often."""

from typing import Any

from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import completed, power
from keras_optkit.schedules.schedule import Schedule, check_rate, check_share


@register
class StepDecay(Schedule):
    """Multiplies the learning rate by `gamma` every so many epochs or steps.

    `rate(step) = initial_learning_rate * gamma ** (step // every)`

    Args:
        initial_learning_rate: Float > 0, the rate at the start.
        every: Duration between two drops: `"30ep"`, `"500step"`, a fraction of the run in (0, 1],
            or an integer number of steps.
        gamma: Float in (0, 1], the factor of each drop. Defaults to 0.1.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = StepDecay(0.1, every=100, gamma=0.5)
    >>> round(float(schedule(250)), 6)
    0.025

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2015, section 3.4 (a factor of
        10 when the error plateaus).
    """

    durations = ("every",)

    def __init__(self, initial_learning_rate: float, every: int | float | str, gamma: float = 0.1):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.every = every
        self.gamma = check_share("gamma", gamma)
        self._validate()

    def _rate(self, step: Any) -> Any:
        drops = completed(step, self._steps["every"])
        return self.initial_learning_rate * power(self.gamma, drops)
