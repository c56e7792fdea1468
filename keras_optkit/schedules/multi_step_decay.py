"""Multi-step decay: the rate drops by a factor at each milestone."""

from typing import Any

from keras import ops

from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import power
from keras_optkit.schedules.schedule import Schedule, check_milestones, check_rate, check_share


@register
class MultiStepDecay(Schedule):
    """Multiplies the learning rate by `gamma` at each of some milestones.

    `rate(step) = initial_learning_rate * gamma ** n`, where `n` milestones are at or before `step`.

    Args:
        initial_learning_rate: Float > 0, the rate at the start.
        milestones: List of increasing durations, when the drops come: `["30ep", "60ep"]`,
            `[0.5, 0.75]` of the run, or integer numbers of steps.
        gamma: Float in (0, 1], the factor of each drop. Defaults to 0.1.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = MultiStepDecay(0.1, [100, 200], gamma=0.5)
    >>> [round(float(schedule(step)), 6) for step in (99, 100, 200)]
    [0.1, 0.05, 0.025]

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2 (a factor of
        10 after 32,000 and 48,000 steps).
    """

    durations = ("milestones",)

    def __init__(
        self,
        initial_learning_rate: float,
        milestones: list[int | float | str],
        gamma: float = 0.1,
    ):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.milestones = check_milestones(milestones)
        self.gamma = check_share("gamma", gamma)
        self._validate()

    @property
    def end(self) -> int:
        return self._steps["milestones"][-1]

    def _rate(self, step: Any) -> Any:
        drops = sum(ops.cast(step >= at, "float32") for at in self._steps["milestones"])
        return self.initial_learning_rate * power(self.gamma, drops)
