"""Warm up, hold, decay."""

from typing import Any

from keras_optkit.core.duration import parse
from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import cosine_between, linear_between, sqrt_between
from keras_optkit.schedules.schedule import Schedule, check_rate, check_share

_CURVES = {"linear": linear_between, "cosine": cosine_between, "1-sqrt": sqrt_between}


@register
class WarmupStableDecay(Schedule):
    """Raises the learning rate, holds it, and lowers it at the end.

    The rate of the long middle part does not depend on the length of the run. So a run can be made
    longer from a checkpoint of that part, and only the decay is trained again.

    Args:
        initial_learning_rate: Float > 0, the rate between warm-up and decay.
        duration: Duration of the whole schedule: `"90ep"`, `"5000step"`, a fraction of the run in
            (0, 1], or an integer number of steps. Defaults to 1.0, the whole run.
        warmup: Duration of the linear warm-up at the start; 0 for none. Defaults to 0.01 of the
            run.
        decay: Duration of the decay at the end. Defaults to 0.2 of the run.
        anneal: String, the form of the decay, with `x` the share of it that is done: `"1-sqrt"`
            for `1 - sqrt(x)`, `"linear"` or `"cosine"`. Defaults to `"1-sqrt"`.
        alpha: Float in [0, 1], the final rate as a share of the initial one. Defaults to 0.

    Raises:
        ValueError: If an argument is out of its range, or the parts are longer than the whole.

    Example:

    >>> schedule = WarmupStableDecay(0.1, 100, warmup=10, decay=40, anneal="linear")
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 60, 80, 100)]
    [0.0, 0.05, 0.1, 0.1, 0.05, 0.0]

    Reference:
        Hu et al., "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training
        Strategies", 2024, section 4. Hägele et al., "Scaling Laws and Compute-Optimal Training
        Beyond Fixed Training Durations", 2024, for the form `"1-sqrt"` and a decay of 20%.
    """

    durations = ("duration", "decay")
    length = "duration"

    def __init__(
        self,
        initial_learning_rate: float,
        duration: int | float | str = 1.0,
        warmup: int | float | str = 0.01,
        decay: int | float | str = 0.2,
        anneal: str = "1-sqrt",
        alpha: float = 0.0,
    ):
        self.initial_learning_rate = check_rate("initial_learning_rate", initial_learning_rate)
        self.duration = duration
        self.warmup = warmup
        self.decay = decay
        if anneal not in _CURVES:
            raise ValueError(
                f'`anneal` must be "linear", "cosine" or "1-sqrt". Received: anneal={anneal!r}'
            )
        self.anneal = anneal
        self.alpha = check_share("alpha", alpha, zero=True)
        self._validate()

    def _validate(self) -> None:
        super()._validate()
        (whole, *parts), units = zip(
            *(parse(getattr(self, name)) for name in ("duration", "warmup", "decay")), strict=True
        )
        # Parts that just fill the whole may overlap by a step once they are rounded to steps.
        slack = 1 if units[0] == "step" else 1e-9
        if len(set(units)) == 1 and sum(parts) > whole + slack:
            raise ValueError(
                "Warm-up and decay must not be longer than the schedule that they are part of. "
                f"Received: warmup={self.warmup!r}, decay={self.decay!r}, "
                f"duration={self.duration!r}"
            )

    def _rate(self, step: Any) -> Any:
        begin, end = self._span
        begin = max(begin, end - self._steps["decay"])
        floor = self.alpha * self.initial_learning_rate
        return _CURVES[self.anneal](self.initial_learning_rate, floor, step, begin, end)
