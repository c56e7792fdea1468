"""The base of every learning-rate schedule: durations, warm-up, config."""

import inspect
import itertools
import math
from collections.abc import Iterator
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

    @property
    def end(self) -> int | None:
        """The step by which all that ends in this schedule has ended; `None` if nothing does."""
        return None if self.length is None else self._steps[self.length]

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
        arguments = {**self._arguments(), "warmup": duration, "warmup_start": start}
        return type(self).from_config(arguments)

    def resolve(self, run: Run) -> Self:
        """Returns this schedule with every duration in optimizer steps.

        Args:
            run: The length of the `fit` that the schedule is for.

        Raises:
            ValueError: If the run's length is needed and not known, or the warm-up turns out
                longer than the schedule.
        """
        arguments = self._arguments()
        for name, value in arguments.items():
            if name in self._names:
                arguments[name] = _convert(value, run, name)
            elif isinstance(value, Schedule):
                arguments[name] = value.resolve(run)
        return type(self).from_config(arguments)

    def table(self, steps: int) -> Any:
        """Returns the rates of the first steps, as `schedule(step)` gives them.

        Args:
            steps: Integer >= 1, the number of rates.

        Returns:
            Float32 tensor of shape (steps,), or `None` if a schedule of Keras is part of this one,
            which may take no more than one step at a time.
        """
        ours = all(isinstance(part, Schedule) for part in _parts(self))
        return self(ops.arange(steps)) if ours else None

    def _validate(self) -> None:
        """Checks durations and warm-up; called by a subclass at the end of its constructor."""
        for name in self._names:
            value = getattr(self, name)
            for item in value if isinstance(value, (list, tuple)) else [value]:
                amount, _ = parse(item, name)
                if amount == 0 and name != "warmup":
                    raise ValueError(f"`{name}` must be longer than 0. Received: {name}={value!r}")
        check_rate("warmup_start", self.warmup_start, zero=True)
        if self.length is not None:
            self._check_warmup(self.length)

    def _check_warmup(self, name: str) -> None:
        """Raises if the warm-up is not shorter than a duration, as far as their units tell."""
        (warmup, unit), (length, length_unit) = parse(self.warmup), parse(getattr(self, name))
        if unit == length_unit and warmup > 0 and warmup >= length:
            raise ValueError(
                f"The warm-up must be shorter than the schedule that it is part of. Received: "
                f"warmup={self.warmup!r}, {name}={getattr(self, name)!r}"
            )

    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments as they are held, and the warm-up where there is one."""
        arguments = {name: getattr(self, name) for name in _parameters(type(self))}
        if self.warmup != 0:
            arguments.update(warmup=self.warmup, warmup_start=self.warmup_start)
        return arguments

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, and the warm-up where there is one."""
        return {name: _serialized(value) for name, value in self._arguments().items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a schedule from what `get_config` returned."""
        config = {name: _deserialized(value) for name, value in config.items()}
        # The warm-up is an argument of some constructors, and an attribute of every schedule.
        foreign = {"warmup", "warmup_start"}.difference(_parameters(cls))
        schedule = cls(**{name: value for name, value in config.items() if name not in foreign})
        schedule.warmup = config.get("warmup", schedule.warmup)
        schedule.warmup_start = config.get("warmup_start", schedule.warmup_start)
        schedule._validate()
        return schedule

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self._arguments().items())
        return f"{type(self).__name__}({arguments})"


def _convert(value: Any, run: Run | None, name: str) -> Any:
    if isinstance(value, (list, tuple)):
        return [to_steps(v, run, name) for v in value]
    return to_steps(value, run, name)


def _parts(schedule: Any) -> Iterator[Any]:
    """A schedule and those that it is made of."""
    yield schedule
    if isinstance(schedule, Schedule):
        for value in keras.tree.flatten(list(schedule._arguments().values())):
            if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
                yield from _parts(value)


def _parameters(kind: type[Schedule]) -> list[str]:
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


def _serialized(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_serialized(item) for item in value]
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return keras.saving.serialize_keras_object(value)
    return value


def _deserialized(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_deserialized(item) for item in value]
    return keras.saving.deserialize_keras_object(value) if isinstance(value, dict) else value


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


def check_share(name: str, share: float, zero: bool = False) -> float:
    """Returns a factor or share as a Python float, or raises if it is not in (0, 1].

    Args:
        name: The argument's name, for the message.
        share: What was given.
        zero: Boolean, whether 0 is allowed.

    Raises:
        ValueError: If it is not a number in the range.
    """
    value = check_rate(name, share, zero)
    if value > 1:
        bracket = "[" if zero else "("
        raise ValueError(f"`{name}` must be in {bracket}0, 1]. Received: {name}={share!r}")
    return value


def check_milestones(milestones: Any) -> list:
    """Returns milestones as a list, or raises if they do not increase, as far as units tell.

    Args:
        milestones: What was given; right is a list of at least one duration.

    Raises:
        ValueError: If it is not a list, is empty, holds what is no duration, or does not increase.
    """
    if not isinstance(milestones, (list, tuple)) or not milestones:
        raise ValueError(
            "`milestones` must be a list of at least one duration, such as "
            f'["30ep", "60ep"]. Received: milestones={milestones!r}'
        )
    parsed = [parse(milestone, "milestones") for milestone in milestones]
    for (amount, unit), (following, following_unit) in itertools.pairwise(parsed):
        if unit == following_unit and amount >= following:
            raise ValueError(f"`milestones` must increase. Received: milestones={milestones!r}")
    return list(milestones)


def check_end(end_learning_rate: float, initial_learning_rate: float) -> float:
    """Returns the last rate of a decay as a Python float, or raises if it is no decay.

    Args:
        end_learning_rate: What was given.
        initial_learning_rate: Float, the first rate.

    Raises:
        ValueError: If the last rate is not a number in [0, `initial_learning_rate`].
    """
    value = check_rate("end_learning_rate", end_learning_rate, zero=True)
    if value > initial_learning_rate:
        raise ValueError(
            "`end_learning_rate` must be at most `initial_learning_rate`; for a rate that rises "
            f"use `with_warmup`. Received: end_learning_rate={end_learning_rate!r}, "
            f"initial_learning_rate={initial_learning_rate!r}"
        )
    return value


def check_schedule(name: str, schedule: Any) -> keras.optimizers.schedules.LearningRateSchedule:
    """Returns a schedule, or raises if it is none.

    Args:
        name: The argument's name, for the message.
        schedule: What was given.

    Raises:
        ValueError: If it is neither a schedule of this package nor one of Keras.
    """
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        raise ValueError(
            f"`{name}` must be a schedule of keras_optkit.schedules or a Keras "
            "LearningRateSchedule; for a number use `schedules.Constant`. Received: "
            f"{name}={schedule!r}"
        )
    if getattr(schedule, "cycle_momentum", False):
        raise ValueError(
            "A schedule that cycles the momentum cannot be part of another one, which gives a rate "
            f"only. Pass `cycle_momentum=False`. Received: {name}={schedule!r}"
        )
    return schedule
