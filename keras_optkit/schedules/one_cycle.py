"""One cycle: up to a high rate, then far down."""

from typing import Any

from keras import ops

from keras_optkit.core.duration import parse
from keras_optkit.core.serialization import register
from keras_optkit.schedules.curves import cosine_between, linear_between
from keras_optkit.schedules.schedule import Schedule, check_rate


@register
class OneCycle(Schedule):
    """Raises the learning rate to a maximum and anneals it far below its start, in one cycle.

    The rate starts at `max_learning_rate / div_factor`, reaches `max_learning_rate` after
    `pct_start` of the duration, and ends at its start divided by `final_div_factor`, where it
    stays. With `three_phase=True` it first comes back to its start as slowly as it rose.

    Args:
        max_learning_rate: Float > 0, the highest rate.
        duration: Duration of the cycle: `"30ep"`, `"5000step"`, a fraction of the run in (0, 1],
            or an integer number of steps (at least 2). Defaults to 1.0, the whole run.
        pct_start: Float in (0, 1), the share of the duration in which the rate rises; below 0.5
            with `three_phase=True`. Defaults to 0.3.
        anneal: String, the form of each phase, `"cosine"` or `"linear"`.
        div_factor: Float > 0, the maximum over the first rate. Defaults to 25.
        final_div_factor: Float > 0, the first rate over the last. Defaults to 1e4.
        three_phase: Boolean, whether the fall to the first rate is a phase of its own.
        cycle_momentum: Boolean, whether the optimizer's `momentum`, or else its `beta_1`, goes from
            `max_momentum` to `base_momentum` and back while the rate rises and falls. It needs
            `callbacks.LearningRate(schedule)`. Defaults to False.
        base_momentum: Float in (0, `max_momentum`], the momentum at the highest rate.
        max_momentum: Float in (0, 1), the momentum at the first and the last rate.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = OneCycle(0.1, 101, pct_start=0.3, anneal="linear")
    >>> [round(float(schedule(step)), 4) for step in (0, 100)]
    [0.004, 0.0]

    Reference:
        Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large
        Learning Rates", 2018. The defaults are those of fastai and of
        `torch.optim.lr_scheduler.OneCycleLR`, to whose values the schedule is equal.
    """

    durations = ("duration",)
    length = "duration"

    def __init__(
        self,
        max_learning_rate: float,
        duration: int | float | str = 1.0,
        pct_start: float = 0.3,
        anneal: str = "cosine",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        cycle_momentum: bool = False,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
    ):
        self.max_learning_rate = check_rate("max_learning_rate", max_learning_rate)
        self.duration = duration
        highest = 0.5 if three_phase else 1
        self.pct_start = check_rate("pct_start", pct_start)
        if not self.pct_start < highest:
            raise ValueError(
                f"`pct_start` must be in (0, {highest}). Received: pct_start={pct_start!r}, "
                f"three_phase={three_phase!r}"
            )
        if anneal not in ("cosine", "linear"):
            raise ValueError(f'`anneal` must be "cosine" or "linear". Received: anneal={anneal!r}')
        self.anneal = anneal
        self.div_factor = check_rate("div_factor", div_factor)
        self.final_div_factor = check_rate("final_div_factor", final_div_factor)
        self.three_phase = bool(three_phase)
        self.cycle_momentum = bool(cycle_momentum)
        self.base_momentum = check_rate("base_momentum", base_momentum)
        self.max_momentum = check_rate("max_momentum", max_momentum)
        if not self.base_momentum <= self.max_momentum < 1:
            raise ValueError(
                "`base_momentum` must be at most `max_momentum`, and that below 1. Received: "
                f"base_momentum={base_momentum!r}, max_momentum={max_momentum!r}"
            )
        self._validate()
        if parse(duration) == (1, "step"):
            raise ValueError(
                f"`duration` must be at least 2 steps. Received: duration={duration!r}"
            )

    def _rate(self, step: Any) -> Any:
        first = self.max_learning_rate / self.div_factor
        return self._cycle(step, first, self.max_learning_rate, first / self.final_div_factor)

    def momentum(self, step: Any) -> Any:
        """Returns the momentum at an optimizer step, which is low where the rate is high.

        Args:
            step: Scalar integer tensor or integer >= 0.

        Returns:
            Scalar float32 tensor.
        """
        high = self.max_momentum
        return self._cycle(ops.cast(step, "float32"), high, self.base_momentum, high)

    def _cycle(self, step: Any, first: float, middle: float, last: float) -> Any:
        begin, end = self._span
        # As in torch, the cycle's last step has the lowest rate, not the step behind it.
        top = begin + self.pct_start * (end - begin) - 1
        phases = [(top, middle), (end - 1, last)]
        if self.three_phase:
            phases.insert(1, (2 * top - begin, first))
        curve = cosine_between if self.anneal == "cosine" else linear_between
        value, start = ops.cast(first, "float32"), first
        for end, target in phases:
            phase = curve(start, target, step, begin, max(end, begin + 1e-6))
            value = ops.where(step > begin, phase, value)
            begin, start = end, target
        return value
