"""One notation for every duration: "10ep", "500step", a fraction of the run, or optimizer steps."""

import math
import numbers
import re
from dataclasses import dataclass

_TEXT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ep|step)\s*")
_ALLOWED = (
    'epochs such as "10ep", steps such as "500step" or 500, or a fraction of the run such as 0.3'
)


@dataclass(frozen=True)
class Run:
    """The length of a `fit`, which durations in epochs and fractions are measured against.

    Args:
        epochs: Integer, the number of epochs that `fit` was asked for.
        steps_per_epoch: Float, optimizer updates (not batches) in one epoch, or `None` where the
            data has no known length. It is fractional under gradient accumulation.
    """

    epochs: int
    steps_per_epoch: float | None

    @property
    def steps(self) -> int | None:
        """Optimizer updates in the whole run, or `None` where the data has no known length."""
        if self.steps_per_epoch is None:
            return None
        return round(self.epochs * self.steps_per_epoch)


def parse(duration: int | float | str, name: str = "duration") -> tuple[float, str]:
    """Splits a duration into its amount and its unit.

    Args:
        duration: A string `"10ep"` or `"500step"`, a float in [0, 1] (a fraction of the run), or an
            integer >= 0 (optimizer steps).
        name: The argument's name, for the message.

    Returns:
        A tuple `(amount, unit)`, where `unit` is one of `"ep"`, `"step"` and `"run"`.

    Raises:
        ValueError: If the duration is none of these.

    Example:

    >>> parse("10ep")
    (10.0, 'ep')
    >>> parse(0.25)
    (0.25, 'run')
    """
    if isinstance(duration, str) and (match := _TEXT.fullmatch(duration)):
        amount, unit = float(match[1]), match[2]
        if unit == "step" and amount != int(amount):
            raise ValueError(f"`{name}` must be a whole number of steps. Received: {duration!r}")
        return amount, unit
    if isinstance(duration, numbers.Integral) and not isinstance(duration, bool):
        if duration >= 0:
            return float(duration), "step"
    elif isinstance(duration, numbers.Real) and not isinstance(duration, bool):
        if math.isfinite(duration) and 0 <= duration <= 1:
            return float(duration), "run"
    raise ValueError(f"`{name}` must be {_ALLOWED}. Received: {name}={duration!r}")


def to_steps(duration: int | float | str, run: Run | None, name: str = "duration") -> int:
    """Converts a duration to optimizer steps.

    Args:
        duration: A duration, see `parse`.
        run: The `Run` that it is part of; may be `None` where the duration is in steps.
        name: The argument's name, for the message.

    Returns:
        Integer, the number of optimizer steps.

    Raises:
        ValueError: If the duration is malformed, or needs the length of a run that is not known.

    Example:

    >>> to_steps("2ep", Run(epochs=10, steps_per_epoch=50))
    100
    """
    amount, unit = parse(duration, name)
    if unit == "step":
        return int(amount)
    if run is None:
        raise ValueError(
            f"`{name}` is measured in epochs or as a share of the run, which only `fit` knows. "
            "Use it through a callback of keras_optkit (for a learning rate, "
            "`callbacks.LearningRate(schedule)`), or give it in steps. "
            f"Received: {name}={duration!r}"
        )
    if run.steps_per_epoch is None:
        raise ValueError(
            f"`{name}` is measured in epochs or as a share of the run, and the number of batches "
            "in this data is not known. Pass `steps_per_epoch=` to `fit`, set the dataset's "
            "length with `dataset.apply(tf.data.experimental.assert_cardinality(n))`, or give "
            f"the duration in steps. Received: {name}={duration!r}"
        )
    epochs = amount if unit == "ep" else amount * run.epochs
    return round(epochs * run.steps_per_epoch)
