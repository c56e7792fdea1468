"""Means and variances that stay exact far from zero, and that merge over batches."""

from typing import Any

import keras
import numpy as np
from keras import ops


def shifted_moments(x: Any, axes: tuple[int, ...], weights: Any = None) -> tuple[Any, Any, Any]:
    """Returns mean, sum of squared deviations, and count along some axes.

    The mean is taken first and the deviations from it afterwards. `E[x^2] - E[x]^2` would lose all
    digits of the variance where the mean is large.

    Args:
        x: Float tensor.
        axes: Tuple of integers, the axes to reduce.
        weights: Tensor of zeros and ones of the shape of `x`, which entries count, or `None`
            for all.

    Returns:
        A tuple of three tensors, with `axes` kept as axes of length 1. Where nothing counts, the
        mean is 0.

    Reference:
        Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983 (the corrected
        two-pass algorithm).
    """
    weights = ops.ones_like(x) if weights is None else ops.cast(weights, x.dtype)
    x = ops.where(weights > 0, x, 0)
    count = ops.sum(weights, axes, keepdims=True)
    size = ops.maximum(count, 1)
    shift = ops.sum(x, axes, keepdims=True) / size
    deviation = (x - shift) * weights
    # What rounding has left of the mean; it matters where the mean is large.
    rest = ops.sum(deviation, axes, keepdims=True) / size
    squares = ops.sum(ops.square(deviation), axes, keepdims=True) - count * ops.square(rest)
    return shift + rest, squares, count


def merged_moments(means: Any, squares: Any, counts: Any) -> tuple[Any, Any]:
    """Returns mean and variance of groups that are put together along the first axis.

    Args:
        means: Tensor `(groups, channels)`, the mean of each group.
        squares: Tensor `(groups, channels)`, the sums of squared deviations from it.
        counts: Tensor `(groups, channels)`, how many values each group has.

    Returns:
        A tuple of two tensors `(channels,)`.
    """
    total = ops.maximum(ops.sum(counts, 0), 1)
    mean = ops.sum(counts * means, 0) / total
    return mean, ops.sum(squares + counts * ops.square(means - mean), 0) / total


def sample_moments(x: Any, axis: int, mask: Any = None) -> tuple[Any, Any, Any]:
    """Returns mean, sum of squared deviations, and count of each sample's channels.

    Args:
        x: Float tensor with samples along its first axis.
        axis: Integer, the axis of the channels.
        mask: Boolean tensor of the shape of `x` without its last axis, or `None`.

    Returns:
        A tuple of three tensors `(samples, channels)`, in float32 at least.
    """
    x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    if mask is not None:
        mask = ops.broadcast_to(ops.expand_dims(mask, -1), ops.shape(x))
    axis %= len(x.shape)
    axes = tuple(i for i in range(1, len(x.shape)) if i != axis)
    if not axes and mask is None:
        return x, ops.zeros_like(x), ops.ones_like(x)
    return tuple(ops.squeeze(part, axes) for part in shifted_moments(x, axes, mask))


class RunningMoments:
    """Mean and variance in float64 of values that come in parts.

    Reference:
        Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983 (the rule for
        combining two samples, after Welford, 1962).
    """

    def __init__(self):
        self.count: Any = 0.0
        self.mean: Any = 0.0
        self._squares: Any = 0.0

    @property
    def variance(self) -> Any:
        """The population variance (divided by the count), as BatchNorm uses it."""
        return self._squares / np.maximum(self.count, 1)

    def update(self, means: Any, squares: Any, counts: Any) -> None:
        """Adds groups.

        Args:
            means: Array `(groups, channels)`, the mean of each group.
            squares: Array `(groups, channels)`, the sums of squared deviations from it.
            counts: Array `(groups, channels)`, how many values each group has.
        """
        if not len(means):
            return
        means = np.concatenate([np.broadcast_to(self.mean, means.shape)[:1], means])
        squares = np.concatenate([np.broadcast_to(self._squares, means.shape)[:1], squares])
        counts = np.concatenate([np.broadcast_to(self.count, means.shape)[:1], counts])
        self.count = counts.sum(0, dtype="float64")
        # Differences from any one group are small where the mean is large.
        start = means[1].astype("float64")
        shifted = means - start
        shift = (counts * shifted).sum(0) / np.maximum(self.count, 1)
        self.mean = start + shift
        self._squares = (squares + counts * (shifted - shift) ** 2).sum(0)
