"""The base of every learning-rate schedule: durations, warm-up, config."""

import inspect
import math
from typing import Any, Self

import keras
from keras import ops

from keras_optkit.core.duration import Run, parse, to_steps


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate as a pure function of the optimizer step.

    A subclass writes `_rate(step)`, stores each constructor argument under its own name, and names
    the arguments that are durations in `durations`. `resolve(run)` turns these into steps. A
    schedule whose durations are all in steps can also be given to an optimizer directly.

    Every duration counts from the schedule's first step, the warm-up included: with a warm-up of 5
    epochs a cosine over 100 epochs falls from epoch 5 to epoch 100, and a drop at epoch 30 stays at
    epoch 30.
    """

    durations: tuple[str, ...] = ()
    # The duration at whose end the schedule is over; `None` for one that goes on for ever.
    length: str | None = None
    warmup: int | float | str = 0
    warmup_start: float = 0.0

    def _rate(self, step: Any) -> Any:
        """The rate at a step (float32 scalar tensor, counted from 0), warm-up aside."""
        raise NotImplementedError

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate at an optimizer step.

        Args:
            step: Scalar integer tensor or integer >= 0.

        Returns:
            Scalar float32 tensor.

        Raises:
            ValueError: If a duration is in epochs or a share of the run and was not resolved.
        """
        warmup = self._steps["warmup"]
        step = ops.cast(step, "float32")
        if warmup == 0:
            return self._rate(step)
        peak = self._rate(ops.cast(warmup, "float32"))
        ramp = self.warmup_start + (peak - self.warmup_start) * (step / warmup)
        return ops.where(step < warmup, ramp, self._rate(ops.maximum(step, float(warmup))))

    @property
    def _steps(self) -> dict[str, Any]:
        """Each duration in steps, by argument name."""
        return {name: _convert(getattr(self, name), None, name) for name in self._names}

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.durations, "warmup")

    @property
    def _span(self) -> tuple[int, int]:
        """The steps between which the schedule itself runs: the warm-up's end and its own."""
        return self._steps["warmup"], self._steps[self.length]

    def with_warmup(self, duration: int | float | str, start: float = 0.0) -> Self:
        """Returns this schedule with a linear warm-up as its first part.

        Args:
            duration: Duration of the warm-up: `"5ep"`, `"500step"`, a fraction of the run in
                [0, 1], or an integer number of steps. It is part of the schedule's own duration.
            start: Float >= 0, the rate at step 0.

        Returns:
            A new schedule; this one is not changed.

        Raises:
            ValueError: If `duration` or `start` is malformed, or the warm-up is longer than the
                schedule.

        Example:

        >>> schedule = CosineDecay(0.1, 100).with_warmup(10)
        >>> round(float(schedule(5)), 6), round(float(schedule(10)), 6)
        (0.05, 0.1)

        Reference:
            Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017,
            section 2.2.
        """
        config = {**self.get_config(), "warmup": duration, "warmup_start": start}
        return type(self).from_config(config)

    def resolve(self, run: Run) -> Self:
        """Returns this schedule with every duration in optimizer steps.

        Args:
            run: The length of the `fit` that the schedule is for.

        Raises:
            ValueError: If the run's length is needed and not known, or the warm-up turns out
                longer than the schedule.
        """
        config = self.get_config()
        for name in self._names:
            if name in config:
                config[name] = _convert(config[name], run, name)
        return type(self).from_config(config)

    def _validate(self) -> None:
        """Checks durations and warm-up; called by a subclass at the end of its constructor."""
        for name in self._names:
            value = getattr(self, name)
            for item in value if isinstance(value, (list, tuple)) else [value]:
                amount, _ = parse(item, name)
                if amount == 0 and name != "warmup":
                    raise ValueError(f"`{name}` must be longer than 0. Received: {name}={value!r}")
        check_rate("warmup_start", self.warmup_start, zero=True)
        if self.length is None:
            return
        (warmup, unit), (length, length_unit) = (
            parse(self.warmup),
            parse(getattr(self, self.length)),
        )
        if unit == length_unit and warmup > 0 and warmup >= length:
            raise ValueError(
                f"The warm-up must be shorter than the schedule that it is part of. Received: "
                f"warmup={self.warmup!r}, {self.length}={getattr(self, self.length)!r}"
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, and the warm-up where there is one."""
        names = [n for n in inspect.signature(type(self).__init__).parameters if n != "self"]
        config = {name: getattr(self, name) for name in names}
        if self.warmup != 0:
            config.update(warmup=self.warmup, warmup_start=self.warmup_start)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a schedule from what `get_config` returned."""
        config = dict(config)
        warmup, start = config.pop("warmup", 0), config.pop("warmup_start", 0.0)
        schedule = cls(**config)
        schedule.warmup, schedule.warmup_start = warmup, start
        schedule._validate()
        return schedule

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def _convert(value: Any, run: Run | None, name: str) -> Any:
    if isinstance(value, (list, tuple)):
        return [to_steps(v, run, name) for v in value]
    return to_steps(value, run, name)


def check_rate(name: str, rate: float, zero: bool = False) -> float:
    """Returns a rate as a Python float, or raises if it is not finite and positive.

    Args:
        name: The argument's name, for the message.
        rate: What was given.
        zero: Boolean, whether 0 is allowed.

    Raises:
        ValueError: If it is not a finite number, is negative, or is 0 where that is not allowed.
    """
    try:
        value = float(rate)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        bound = ">= 0" if zero else "> 0"
        raise ValueError(f"`{name}` must be a finite number {bound}. Received: {name}={rate!r}")
    return value
