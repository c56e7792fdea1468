"""A constant rate: what a composition holds, or a factor."""

from typing import Any

from keras import ops

from keras_optkit.core.serialization import register
from keras_optkit.schedules.schedule import Schedule, check_rate


@register
class Constant(Schedule):
    """Holds one learning rate.

    It is a part of a `Sequence`, a factor of a `Product`, or the plateau behind a warm-up. For a
    constant rate alone, compile the model with it.

    Args:
        learning_rate: Float >= 0, the rate. A rate of 0 leaves the weights as they are.

    Raises:
        ValueError: If the rate is negative or not finite.

    Example:

    >>> schedule = Constant(0.1).with_warmup(10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 1000)]
    [0.0, 0.05, 0.1, 0.1]

    Reference:
        Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
        section 2.2, where a rate is constant or warms up to one.
    """

    def __init__(self, learning_rate: float):
        self.learning_rate = check_rate("learning_rate", learning_rate, zero=True)
        self._validate()

    def _rate(self, step: Any) -> Any:
        return ops.full_like(step, self.learning_rate)
