"""The product of two schedules."""

from typing import Any

import keras

from keras_optkit.core.serialization import register
from keras_optkit.schedules.schedule import Schedule, check_schedule


@register
class Product(Schedule):
    """Multiplies two schedules: a rate and a factor on it.

    Args:
        a: A schedule.
        b: A schedule, such as one whose values are in [0, 1].

    Raises:
        ValueError: If one of them is no schedule.

    Example:

    >>> from keras_optkit.schedules import CosineDecay, StepDecay
    >>> schedule = Product(CosineDecay(0.1, 100), StepDecay(1.0, 50, gamma=0.5))
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100)]
    [0.1, 0.025, 0.0]

    Reference:
        `torch.optim.lr_scheduler.ChainedScheduler`, to whose values the schedule is equal where
        each scheduler multiplies the rate.
    """

    def __init__(
        self,
        a: keras.optimizers.schedules.LearningRateSchedule,
        b: keras.optimizers.schedules.LearningRateSchedule,
    ):
        self.a = check_schedule("a", a)
        self.b = check_schedule("b", b)
        self._validate()

    @property
    def end(self) -> int | None:
        ends = [getattr(schedule, "end", None) for schedule in (self.a, self.b)]
        return max((end for end in ends if end is not None), default=None)

    def _rate(self, step: Any) -> Any:
        return self.a(step) * self.b(step)
