"""Which trials are not worth more epochs, told from how they went beside the others."""

import math
from collections.abc import Iterable

from keras_optkit.core.checks import check_count

# The objective after each epoch that had one, by how many epochs the model had been trained.
History = dict[int, float]


class SuccessiveHalving:
    """Stops a trial that is not among the best at one of a few epochs.

    After `min_epochs`, `min_epochs * factor`, `min_epochs * factor**2`, ... epochs, a trial goes on
    if its best value so far is among the best `1 / factor` of those that got there before it. No
    trial waits for another, so this suits any number of workers.

    Args:
        min_epochs: Integer >= 1, after how many epochs a trial is first judged.
        factor: Integer >= 2; one trial in `factor` goes on.

    Example:

    >>> from keras_optkit.tuning import SuccessiveHalving
    >>> others = [{1: 0.9}, {1: 0.5}, {1: 0.7}]
    >>> SuccessiveHalving().should_stop({1: 0.6}, others, "max")
    True

    Reference:
        Li et al., 2020: A system for massively parallel hyperparameter tuning (ASHA); here in the
        form that stops trials instead of pausing them.
    """

    def __init__(self, min_epochs: int = 1, factor: int = 3):
        self.min_epochs = _at_least("min_epochs", min_epochs, 1)
        self.factor = _at_least("factor", factor, 2)

    def should_stop(self, history: History, others: Iterable[History], direction: str) -> bool:
        """Tells whether a trial should end after the epoch that it has just finished.

        Args:
            history: Dictionary from a number of epochs to the objective after them.
            others: The histories of the other trials.
            direction: String, `"min"` or `"max"`, what is better.
        """
        epoch = max(history)
        if not self._judges(epoch):
            return False
        value = _best(history, epoch, direction)
        there = [_best(other, epoch, direction) for other in others if epoch in other]
        if value is None:
            return bool(there)
        better = sum(other is not None and _beats(other, value, direction) for other in there)
        return better >= max(1, (len(there) + 1) // self.factor)

    def _judges(self, epoch: int) -> bool:
        rung = self.min_epochs
        while rung < epoch:
            rung *= self.factor
        return rung == epoch


class MedianStopping:
    """Stops a trial whose best value is worse than the median of what the others had on average.

    Args:
        min_epochs: Integer >= 1, after how many epochs a trial is first judged.
        min_trials: Integer >= 1, how many others must have got as far for a trial to be judged.

    Example:

    >>> from keras_optkit.tuning import MedianStopping
    >>> others = [{1: 0.9, 2: 0.9}, {1: 0.5, 2: 0.7}, {1: 0.7, 2: 0.8}]
    >>> MedianStopping(min_trials=3).should_stop({1: 0.5, 2: 0.6}, others, "max")
    True

    Reference:
        Golovin et al., 2017: Google Vizier, a service for black-box optimization, section 3.2.1.
    """

    def __init__(self, min_epochs: int = 1, min_trials: int = 5):
        self.min_epochs = _at_least("min_epochs", min_epochs, 1)
        self.min_trials = _at_least("min_trials", min_trials, 1)

    def should_stop(self, history: History, others: Iterable[History], direction: str) -> bool:
        """Tells whether a trial should end after the epoch that it has just finished.

        Args:
            history: Dictionary from a number of epochs to the objective after them.
            others: The histories of the other trials.
            direction: String, `"min"` or `"max"`, what is better.
        """
        epoch = max(history)
        if epoch < self.min_epochs:
            return False
        averages = []
        for other in others:
            values = [v for e, v in other.items() if e <= epoch and math.isfinite(v)]
            if epoch in other and values:
                averages.append(sum(values) / len(values))
        if len(averages) < self.min_trials:
            return False
        averages.sort()
        middle = len(averages) // 2
        median = (averages[middle] + averages[-1 - middle]) / 2
        value = _best(history, epoch, direction)
        return value is None or _beats(median, value, direction)


def _at_least(name: str, value: int, least: int) -> int:
    if check_count(name, value) < least:
        raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}")
    return int(value)


def _best(history: History, epoch: int, direction: str) -> float | None:
    values = [value for e, value in history.items() if e <= epoch and math.isfinite(value)]
    if not values:
        return None
    return max(values) if direction == "max" else min(values)


def _beats(a: float, b: float, direction: str) -> bool:
    return a > b if direction == "max" else a < b
