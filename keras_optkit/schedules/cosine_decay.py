"""Cosine decay: half a cosine from the initial rate to a floor."""

from typing import Any

from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import cosine_between
from keras_optkit.schedules.schedule import Schedule, check_rate, check_share


@register
class CosineDecay(Schedule):
    """Lowers the learning rate along half a cosine, then holds it.

    `rate(step) = floor + (initial_learning_rate - floor) * (1 + cos(pi * step / duration)) / 2`
    with `floor = alpha * initial_learning_rate`.

    Args:
        initial_learning_rate: Float > 0, the rate at the start, or at the end of the warm-up.
        duration: Duration of the whole schedule: `"90ep"`, `"5000step"`, a fraction of the run in
            (0, 1], or an integer number of steps. Defaults to 1.0, the whole run.
        alpha: Float in [0, 1], the final rate as a share of the initial one. Defaults to 0.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = CosineDecay(0.1, 100).with_warmup(10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 55, 100, 200)]
    [0.0, 0.05, 0.1, 0.05, 0.0, 0.0]

    Reference:
        Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
        equation 5, without restarts.
    """

    durations = ("duration",)
    length = "duration"

    def __init__(
        self,
        initial_learning_rate: float,
        duration: int | float | str = 1.0,
        alpha: float = 0.0,
    ):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.duration = duration
        self.alpha = check_share("alpha", alpha, zero=True)
        self._validate()

    def _rate(self, step: Any) -> Any:
        floor = self.alpha * self.initial_learning_rate
        begin, end = self._span
        return cosine_between(self.initial_learning_rate, floor, step, begin, end)
