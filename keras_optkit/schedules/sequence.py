"""A sequence of schedules, one after the other."""

import itertools
from typing import Any, Self

import keras
from keras import ops

from keras_optkit.core.duration import Run, to_steps
from keras_optkit.core.serialization import register
from keras_optkit.schedules.schedule import Schedule, check_milestones, check_schedule


@register
class Sequence(Schedule):
    """Runs one schedule after the other, each from its own first step.

    A fraction in one of the schedules is one of its own part, from its milestone to the next, or to
    the end of the run. So `CosineDecay(0.1)` falls over just the part that it has. Epochs and steps
    count from its milestone.

    Args:
        schedules: List of at least two schedules.
        milestones: List of increasing durations, one fewer than there are schedules, from the
            start of the run: when the second schedule starts, the third, and so on. Each is
            `"30ep"`, `"500step"`, a fraction of the run in (0, 1], or an integer number of steps.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> from keras_optkit.schedules import Constant, LinearDecay
    >>> schedule = Sequence([Constant(0.1), LinearDecay(0.1, 50)], [100])
    >>> [round(float(schedule(step)), 6) for step in (99, 100, 125, 150)]
    [0.1, 0.1, 0.05, 0.0]

    Reference:
        `torch.optim.lr_scheduler.SequentialLR`, to whose values the schedule is equal.
    """

    durations = ("milestones",)

    def __init__(
        self,
        schedules: list[keras.optimizers.schedules.LearningRateSchedule],
        milestones: list[int | float | str],
    ):
        self.milestones = check_milestones(milestones)
        if not isinstance(schedules, (list, tuple)) or len(schedules) != len(milestones) + 1:
            raise ValueError(
                "`schedules` must be a list of one schedule more than there are milestones. "
                f"Received: schedules={schedules!r}, milestones={milestones!r}"
            )
        self.schedules = [check_schedule("schedules", schedule) for schedule in schedules]
        self._validate()

    @property
    def end(self) -> int:
        begin = self._steps["milestones"][-1]
        return begin + (getattr(self.schedules[-1], "end", None) or 0)

    def resolve(self, run: Run) -> Self:
        """Returns this schedule, and those that it is made of, with durations in optimizer steps.

        Args:
            run: The length of the `fit` that the schedule is for.

        Raises:
            ValueError: If the run's length is needed and not known, or durations turn out not to
                fit.
        """
        milestones = [to_steps(at, run, "milestones") for at in self.milestones]
        spans = itertools.pairwise([0, *milestones, run.steps])
        schedules = [
            schedule.resolve(_part(run, begin, end)) if isinstance(schedule, Schedule) else schedule
            for schedule, (begin, end) in zip(self.schedules, spans, strict=True)
        ]
        arguments = {**self._arguments(), "schedules": schedules}
        return Schedule.resolve(self.from_config(arguments), run)

    def _rate(self, step: Any) -> Any:
        rate = self.schedules[0](step)
        for schedule, begin in zip(self.schedules[1:], self._steps["milestones"], strict=True):
            later = schedule(ops.maximum(step - begin, 0.0))
            rate = ops.where(step < begin, rate, later)
        return rate


def _part(run: Run, begin: int, end: int | None) -> Run:
    """The run that a schedule has between two steps."""
    if run.steps_per_epoch is None or end <= begin:
        # Of unknown length, or never reached.
        return run
    return Run(epochs=(end - begin) / run.steps_per_epoch, steps_per_epoch=run.steps_per_epoch)
