"""TF-MOT's schedule objects, taken as they are; TF-MOT itself is not imported."""

from typing import Any

import keras
from keras import ops

from keras_optkit.compression.pruning.schedules import (
    ConstantSparsity,
    PolynomialDecay,
    SparsitySchedule,
)
from keras_optkit.core.duration import Run

_FORMULAS = {"ConstantSparsity": ConstantSparsity, "PolynomialDecay": PolynomialDecay}


def as_schedule(given: Any, name: str = "schedule") -> SparsitySchedule:
    """Returns a schedule of this package for one of its own or of TF-MOT's.

    Args:
        given: A `SparsitySchedule`, or a `PruningSchedule` of TF-MOT.
        name: The argument's name, for the message.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(given, SparsitySchedule):
        return given
    bases = type(given).__mro__
    if any(base.__module__.startswith("tensorflow_model_optimization.") for base in bases):
        return TFMOTSchedule(given)
    raise ValueError(
        f"`{name}` must be one of keras_optkit.pruning, for example `PolynomialDecay` or "
        f"`ConstantSparsity`, or a schedule of TF-MOT. Received: {name}={given!r}"
    )


class TFMOTSchedule(SparsitySchedule):
    """A schedule of TF-MOT, whose masks are the same here.

    TF-MOT calls the first step 1, where here no update was made before it. At its step `t` it
    chooses masks from weights that were updated `t - 1` times. It makes no refresh at its end
    unless the frequency leads there.

    Args:
        schedule: A `PruningSchedule` of TF-MOT. One of a class of your own is called as TF-MOT
            calls it, on the TensorFlow backend only.
        frequency: Integer >= 1, in the place of the schedule's own, or `None`.
        target: Float in [0, 1), in the place of the schedule's own final sparsity, or `None`.
    """

    def __init__(self, schedule: Any, frequency: int | None = None, target: float | None = None):
        self.schedule = schedule
        self._changes = {"frequency": frequency, "target": target}
        formula = _FORMULAS.get(type(schedule).__name__)
        if formula is None and not self._callable():
            raise ValueError(
                "A schedule class of your own that derives from TF-MOT's runs on the TensorFlow "
                "backend only; derive it from `SparsitySchedule` for this one. "
                f"Received: schedule={schedule!r}, backend={keras.backend.backend()!r}"
            )
        self._formula = None
        if formula is not None:
            config = schedule.get_config()
            self._formula = formula(**config.get("config", config))
            self.end_step = schedule.end_step
            self.frequency = schedule.frequency
            # One update less was made before a step than TF-MOT counts.
            self.begin_step = max(schedule.begin_step - 1, 0)
            if target is not None:
                self._formula = self._formula.with_target(target)
        else:
            self.begin_step, self.end_step, self.frequency = 0, -1, 1
        if frequency is not None:
            self.frequency = frequency
        self._validate()

    @staticmethod
    def _callable() -> bool:
        return keras.backend.backend() == "tensorflow"

    @property
    def target(self) -> float | None:
        return None if self._formula is None else self._formula.target

    @property
    def timing(self) -> tuple:
        owner = None if self._formula is not None else id(self.schedule)
        return (*super().timing, getattr(self.schedule, "begin_step", None), owner)

    def sparsity(self, step: Any) -> Any:
        if self._formula is None:
            return ops.cast(self.schedule(ops.cast(step + 1, "int64"))[1], "float32")
        return self._formula.sparsity(step + 1)

    def prunes_at(self, step: Any) -> Any:
        if self._formula is None:
            return self.schedule(ops.cast(step + 1, "int64"))[0]
        begin, step = self.schedule.begin_step, step + 1
        # TF-MOT has no step 0.
        due = (step >= max(begin, 1)) & ((step - begin) % self.frequency == 0)
        return due if self.end_step < 0 else due & (step <= self.end_step)

    def settled_at(self, step: int) -> bool:
        return super().settled_at(step + 1 if self.end_step > 0 else step)

    def resolve(self, run: Run) -> "TFMOTSchedule":
        return self

    def with_target(self, sparsity: float) -> "TFMOTSchedule":
        return TFMOTSchedule(self.schedule, **{**self._changes, "target": sparsity})

    def with_frequency(self, frequency: int) -> "TFMOTSchedule":
        return TFMOTSchedule(self.schedule, **{**self._changes, "frequency": frequency})

    def get_config(self) -> dict[str, Any]:
        return {"schedule": self.schedule, **self._changes}
