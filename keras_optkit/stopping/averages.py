"""Averages of weights over time: one rule for each method, on plain tensors.

Each rule takes the average so far, the weights of the moment, and how many weights have been taken
before, and returns the average behind it.
"""

from collections.abc import Callable
from typing import Any

from keras import ops


def exponential(average: Any, weights: Any, count: Any, decay: float) -> Any:
    """Returns the exponential moving average, which begins with the first weights.

    Args:
        average: Float tensor.
        weights: Float tensor of the same shape.
        count: Integer scalar, how many weights have been taken before.
        decay: Float in [0, 1), the share of the old average.

    Reference:
        Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992.
    """
    return ops.where(count == 0, weights, average + (1 - decay) * (weights - average))


def equal(average: Any, weights: Any, count: Any) -> Any:
    """Returns the mean of all weights that were taken.

    Args:
        average: Float tensor.
        weights: Float tensor of the same shape.
        count: Integer scalar, how many weights have been taken before.

    Reference:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.
    """
    step = (weights - average) / ops.cast(count + 1, average.dtype)
    return ops.where(count == 0, weights, average + step)


def latest(kept: Any, weights: Any, count: Any) -> Any:
    """Returns the last weights that were taken, in which new ones have replaced the oldest.

    Args:
        kept: Float tensor of shape (k, ...).
        weights: Float tensor of shape (...).
        count: Integer scalar, how many weights have been taken before.
    """
    places = ops.arange(kept.shape[0], dtype="int32")
    here = _along_first_axis(ops.equal(places, count % kept.shape[0]), kept)
    return ops.where(here, ops.expand_dims(weights, 0), kept)


def mean_of_latest(kept: Any, count: Any) -> Any:
    """Returns the mean of the last weights, of those that there are.

    Args:
        kept: Float tensor of shape (k, ...), as `latest` makes it.
        count: Integer scalar >= 1, how many weights have been taken.

    Reference:
        Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest
        Weight Averaging", 2022.
    """
    there = _along_first_axis(ops.arange(kept.shape[0], dtype="int32") < count, kept)
    total = ops.sum(ops.where(there, kept, ops.zeros_like(kept)), axis=0)
    return total / ops.cast(ops.minimum(count, kept.shape[0]), kept.dtype)


def _along_first_axis(vector: Any, kept: Any) -> Any:
    return ops.reshape(vector, (-1,) + (1,) * (len(kept.shape) - 1))


RULES: dict[str, Callable] = {"ema": exponential, "swa": equal, "lawa": latest}
