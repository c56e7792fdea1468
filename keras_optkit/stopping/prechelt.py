"""Prechelt's three criteria of when validation errors say that training should stop.

Each looks at the errors of all epochs so far, oldest first. Errors are positive and should fall.
A strip is a number of successive epochs.

Reference:
    Prechelt, "Early Stopping - But When?", Neural Networks: Tricks of the Trade, 1998, section 2.2.
"""

import dataclasses
import itertools
import math
import numbers
import re
from collections.abc import Sequence
from typing import Protocol


def generalization_loss(errors: Sequence[float]) -> float:
    """Returns by how many percent the last validation error is above the lowest one so far.

    Args:
        errors: Floats >= 0, the validation errors of all epochs so far.

    Example:

    >>> generalization_loss([0.5, 0.4, 0.5])
    25.0
    """
    lowest = min(errors)
    if errors[-1] == lowest:
        return 0.0
    return 100 * (errors[-1] / lowest - 1) if lowest > 0 else math.inf


def training_progress(errors: Sequence[float], strip: int) -> float:
    """Returns by how many permille the mean of the last strip is above the strip's minimum.

    Args:
        errors: Floats >= 0, the training errors of all epochs so far, at least `strip` of them.
        strip: Integer >= 1, the number of epochs in a strip.

    Example:

    >>> round(training_progress([0.9, 0.3, 0.2, 0.25], strip=3), 6)
    250.0
    """
    last = errors[-strip:]
    lowest = min(last)
    if max(last) == lowest:
        return 0.0
    return 1000 * (sum(last) / (strip * lowest) - 1) if lowest > 0 else math.inf


class Criterion(Protocol):
    """What decides, from the errors of all epochs so far, whether training should stop."""

    def stops(self, validation: Sequence[float], training: Sequence[float]) -> bool:
        """Returns whether to stop after the last of these epochs.

        Args:
            validation: Floats, the monitored errors.
            training: Floats, the training losses of the same epochs.
        """
        ...


@dataclasses.dataclass(frozen=True)
class GeneralizationLoss:
    """Stops as soon as the generalization loss exceeds a number of percent (the paper's GL).

    Args:
        alpha: Float > 0, in percent. The paper looks at 1 to 5.
    """

    alpha: float

    def __post_init__(self):
        _check_positive("alpha", self.alpha)

    def stops(self, validation: Sequence[float], training: Sequence[float]) -> bool:
        return generalization_loss(validation) > self.alpha


@dataclasses.dataclass(frozen=True)
class ProgressQuotient:
    """Stops when the generalization loss is large beside the training progress (the paper's PQ).

    It is looked at at the end of each strip.

    Args:
        alpha: Float > 0, in percent per permille. The paper looks at 0.5 to 3.
        strip: Integer >= 1, epochs. Defaults to the paper's 5.
    """

    alpha: float
    strip: int = 5

    def __post_init__(self):
        _check_positive("alpha", self.alpha)
        _check_whole("strip", self.strip)

    def stops(self, validation: Sequence[float], training: Sequence[float]) -> bool:
        if len(validation) % self.strip != 0:
            return False
        # Not divided: training that makes no progress at all would divide by zero.
        progress = training_progress(training, self.strip)
        return generalization_loss(validation) > self.alpha * progress


@dataclasses.dataclass(frozen=True)
class UpStrips:
    """Stops when the error has risen from strip to strip several times in a row (the paper's UP).

    What is compared is the error in the last epoch of each strip.

    Args:
        count: Integer >= 1, the number of successive strips. The paper looks at 2 to 8.
        strip: Integer >= 1, epochs. Defaults to the paper's 5.
    """

    count: int
    strip: int = 5

    def __post_init__(self):
        _check_whole("count", self.count)
        _check_whole("strip", self.strip)

    def stops(self, validation: Sequence[float], training: Sequence[float]) -> bool:
        ends = validation[self.strip - 1 :: self.strip]
        if len(validation) % self.strip != 0 or len(ends) <= self.count:
            return False
        last = ends[-self.count - 1 :]
        return all(after > before for before, after in itertools.pairwise(last))


_KINDS = {"GL": GeneralizationLoss, "PQ": ProgressQuotient, "UP": UpStrips}
_TEXT = re.compile(r"(GL|PQ|UP)_?(\d+(?:\.\d+)?)")


def get(criterion: str | Criterion) -> Criterion:
    """Returns a criterion that is given in the paper's notation or as an object.

    Args:
        criterion: String such as `"GL5"`, `"PQ0.75"` or `"UP4"`, or an object with a method
            `stops(validation, training)`.

    Raises:
        ValueError: If it is neither.

    Example:

    >>> get("UP4")
    UpStrips(count=4, strip=5)
    """
    if isinstance(criterion, str) and (match := _TEXT.fullmatch(criterion)):
        number = float(match[2])
        return _KINDS[match[1]](int(number) if number.is_integer() else number)
    if not isinstance(criterion, (str, type)) and callable(getattr(criterion, "stops", None)):
        return criterion
    raise ValueError(
        '`criterion` must be one of Prechelt\'s in his notation, such as "GL5", "PQ0.75" or '
        '"UP4", or an object with a method `stops(validation, training)`, such as '
        f"GeneralizationLoss(5). Received: criterion={criterion!r}"
    )


def _check_positive(name: str, value: float) -> None:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise ValueError(f"`{name}` must be a number > 0. Received: {name}={value!r}")


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")
