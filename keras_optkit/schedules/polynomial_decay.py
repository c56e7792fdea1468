"""Polynomial decay: a power of the share of steps that is left."""

from typing import Any

from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import polynomial_between
from keras_optkit.schedules.schedule import Schedule, check_end, check_rate


@register
class PolynomialDecay(Schedule):
    """Lowers the learning rate along a polynomial, then holds it.

    `rate(step) = end + (initial_learning_rate - end) * (1 - step / duration) ** power` with
    `end = end_learning_rate`.

    Args:
        initial_learning_rate: Float > 0, the rate at the start, or at the end of the warm-up.
        duration: Duration of the whole schedule: `"90ep"`, `"5000step"`, a fraction of the run in
            (0, 1], or an integer number of steps. Defaults to 1.0, the whole run.
        end_learning_rate: Float in [0, initial_learning_rate], the final rate. Defaults to 0.
        power: Float > 0, the exponent. Defaults to 1, a line.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = PolynomialDecay(0.1, 100, power=2)
    >>> [round(float(schedule(step)), 6) for step in (0, 50, 100, 200)]
    [0.1, 0.025, 0.0, 0.0]

    Reference:
        Chen et al., "DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous
        Convolution, and Fully Connected CRFs", 2017 (the "poly" policy, with a power of 0.9).
    """

    durations = ("duration",)
    length = "duration"

    def __init__(
        self,
        initial_learning_rate: float,
        duration: int | float | str = 1.0,
        end_learning_rate: float = 0.0,
        power: float = 1.0,
    ):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.duration = duration
        self.end_learning_rate = check_end(end_learning_rate, self.initial_learning_rate)
        self.power = check_rate("power", power)
        self._validate()

    def _rate(self, step: Any) -> Any:
        begin, end = self._span
        return polynomial_between(
            self.initial_learning_rate, self.end_learning_rate, step, begin, end, self.power
        )
