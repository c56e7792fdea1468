"""Inverse square root: constant, then falling for ever."""

from typing import Any

from keras import ops

from keras_optkit.core.serialization import register
from keras_optkit.schedules.schedule import Schedule, check_rate


@register
class InverseSqrt(Schedule):
    """Lowers the learning rate with the inverse square root of the step, without an end.

    `rate(step) = initial_learning_rate * sqrt(begin_step / max(step, begin_step))`

    With a warm-up of `begin_step` it is the schedule of the Transformer, without one that of T5.

    Args:
        initial_learning_rate: Float > 0, the rate up to `begin_step`.
        begin_step: Duration after which the rate falls: `"5ep"`, `"4000step"`, a fraction of the
            run in (0, 1], or an integer number of steps.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = InverseSqrt(0.1, 100).with_warmup(100)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100, 400)]
    [0.0, 0.05, 0.1, 0.05]

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017, section 5.3, equation 3. Raffel et al.,
        "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020.
    """

    durations = ("begin_step",)

    def __init__(self, initial_learning_rate: float, begin_step: int | float | str):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.begin_step = begin_step
        self._validate()

    def _rate(self, step: Any) -> Any:
        begin = float(self._steps["begin_step"])
        return self.initial_learning_rate * ops.sqrt(begin / ops.maximum(step, begin))
