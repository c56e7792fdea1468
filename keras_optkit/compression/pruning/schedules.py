"""How sparse a model should be at which step."""

import numbers
from typing import Any, Self

from keras import ops

from keras_optkit.core.duration import Run, parse, to_steps
from keras_optkit.core.serialization import register_sparsity


class SparsitySchedule:
    """The base of pruning schedules: when masks are refreshed, and to which sparsity.

    A subclass sets `begin_step`, `end_step` and `frequency`, names the argument that holds its
    final sparsity, and writes `sparsity(step)`. Steps count optimizer updates from the start of
    the `fit` that prunes.
    """

    begin_step: int | float | str
    end_step: int | float | str
    frequency: int
    _target = "target_sparsity"

    @property
    def target(self) -> float:
        """The sparsity at the end."""
        return getattr(self, self._target)

    @property
    def timing(self) -> tuple:
        """What tells when masks are refreshed; equal where two schedules do it together."""
        return (type(self).prunes_at, self.begin_step, self.end_step, self.frequency)

    def sparsity(self, step: Any) -> Any:
        """Returns the share of weights, in [0, 1], that are zero at a step (scalar tensor)."""
        raise NotImplementedError

    def prunes_at(self, step: Any) -> Any:
        """Tells whether masks are refreshed at a step.

        Args:
            step: Integer, or a scalar integer tensor.

        Returns:
            Boolean, or a scalar boolean tensor.
        """
        due = (step >= self.begin_step) & ((step - self.begin_step) % self.frequency == 0)
        if self.end_step == -1:
            return due
        # The end need not be a multiple of the frequency away from the beginning.
        return due & (step <= self.end_step) | (step == self.end_step)

    def settled_at(self, step: int) -> bool:
        """Tells whether the final sparsity is reached at a step."""
        return step >= (self.begin_step if self.end_step == -1 else self.end_step)

    def resolve(self, run: Run) -> Self:
        """Returns this schedule with its beginning and end in optimizer steps.

        Args:
            run: The length of the `fit` that prunes.

        Raises:
            ValueError: If the end is not behind the beginning, or the length of the run is needed
                and not known.
        """
        config = self.get_config()
        for name in ("begin_step", "end_step"):
            if config.get(name, -1) != -1:
                config[name] = to_steps(config[name], run, name)
        return type(self)(**config)

    def with_target(self, sparsity: float) -> Self:
        """Returns this schedule on its way to another sparsity, at the same steps.

        Args:
            sparsity: Float in [0, 1).
        """
        config = self.get_config()
        config[self._target] = sparsity
        if "initial_sparsity" in config:
            config["initial_sparsity"] = min(config["initial_sparsity"], sparsity)
        return type(self)(**config)

    def with_frequency(self, frequency: int) -> Self:
        """Returns this schedule with masks refreshed every `frequency` updates.

        Args:
            frequency: Integer >= 1.
        """
        return type(self)(**{**self.get_config(), "frequency": frequency})

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a schedule from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"

    def _validate(self, **sparsities: float) -> None:
        for name, value in sparsities.items():
            check_sparsity(name, value)
        if isinstance(self.frequency, bool) or not isinstance(self.frequency, numbers.Integral):
            raise ValueError(f"`frequency` must be an integer. Received: {self.frequency!r}")
        if self.frequency < 1:
            raise ValueError(f"`frequency` must be >= 1. Received: frequency={self.frequency!r}")
        begin, unit = parse(self.begin_step, "begin_step")
        if self.end_step == -1:
            return
        end, end_unit = parse(self.end_step, "end_step")
        if unit == end_unit and end <= begin:
            raise ValueError(
                "`end_step` must be behind `begin_step`. Received: "
                f"begin_step={self.begin_step!r}, end_step={self.end_step!r}"
            )


def check_sparsity(name: str, value: float) -> None:
    """Raises if a value is no share of weights that can be zero.

    Args:
        name: The argument's name, for the message.
        value: What was given.

    Raises:
        ValueError: If it is not a number in [0, 1).
    """
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value!r}")


@register_sparsity
class ConstantSparsity(SparsitySchedule):
    """Prunes to one sparsity at once, and keeps choosing which weights those are.

    Args:
        target_sparsity: Float in [0, 1), the share of weights that are zero.
        begin_step: When pruning begins: `"2ep"`, `"500step"`, a fraction of the run in [0, 1], or
            an integer number of optimizer updates.
        end_step: When the choice of weights is settled, likewise; -1 for never. Defaults to -1.
        frequency: Integer >= 1, the number of updates from one choice to the next.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = ConstantSparsity(0.5, begin_step=100)
    >>> bool(schedule.prunes_at(200)), bool(schedule.prunes_at(250))
    (True, False)

    Reference:
        The arguments are those of TensorFlow Model Optimization's schedule of this name.
    """

    def __init__(
        self,
        target_sparsity: float,
        begin_step: int | float | str,
        end_step: int | float | str = -1,
        frequency: int = 100,
    ):
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.frequency = frequency
        self._validate(target_sparsity=target_sparsity)

    def sparsity(self, step: Any) -> Any:
        return ops.cast(self.target_sparsity, "float32")

    def get_config(self) -> dict[str, Any]:
        names = ("target_sparsity", "begin_step", "end_step", "frequency")
        return {name: getattr(self, name) for name in names}


@register_sparsity
class PolynomialDecay(SparsitySchedule):
    """Raises the sparsity from one value to another, fast at first and ever more slowly.

    `sparsity(step) = final + (initial - final) * (1 - (step - begin) / (end - begin)) ** power`

    Args:
        initial_sparsity: Float in [0, 1), the sparsity at `begin_step`.
        final_sparsity: Float in [0, 1), the sparsity from `end_step` on.
        begin_step: When pruning begins: `"2ep"`, `"500step"`, a fraction of the run in [0, 1], or
            an integer number of optimizer updates.
        end_step: When the final sparsity is reached, likewise.
        power: Float > 0, the exponent. Defaults to 3.
        frequency: Integer >= 1, the number of updates from one choice of weights to the next.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = PolynomialDecay(0.0, 0.8, begin_step=0, end_step=1000)
    >>> round(float(schedule.sparsity(500)), 3)
    0.7

    Reference:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", 2017, equation 1 (the exponent is 3 there). The arguments are those of
        TensorFlow Model Optimization's schedule of this name.
    """

    _target = "final_sparsity"

    def __init__(
        self,
        initial_sparsity: float,
        final_sparsity: float,
        begin_step: int | float | str,
        end_step: int | float | str,
        power: float = 3,
        frequency: int = 100,
    ):
        self.initial_sparsity = initial_sparsity
        self.final_sparsity = final_sparsity
        self.begin_step = begin_step
        self.end_step = end_step
        self.power = power
        self.frequency = frequency
        if end_step == -1:
            raise ValueError(
                "`end_step` must say when the final sparsity is reached. Received: end_step=-1"
            )
        if not power > 0:
            raise ValueError(f"`power` must be > 0. Received: power={power!r}")
        self._validate(initial_sparsity=initial_sparsity, final_sparsity=final_sparsity)

    def sparsity(self, step: Any) -> Any:
        step = ops.cast(step, "float32")
        share = (step - self.begin_step) / (self.end_step - self.begin_step)
        left = ops.power(1.0 - ops.clip(share, 0.0, 1.0), self.power)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * left

    def get_config(self) -> dict[str, Any]:
        names = ("initial_sparsity", "final_sparsity", "begin_step", "end_step")
        return {name: getattr(self, name) for name in (*names, "power", "frequency")}
