"""Means and variances that stay exact far from zero, and that merge over batches."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops


def shifted_moments(
    x: Any,
    axes: tuple[int, ...],
    weights: Any = None,
    total: Callable[[list], list] = lambda sums: sums,
) -> tuple[Any, Any, Any]:
    """Returns mean, sum of squared deviations, and count along some axes.

    The mean is taken first and the deviations from it afterwards. `E[x^2] - E[x]^2` would lose all
    digits of the variance where the mean is large.

    Args:
        x: Float tensor.
        axes: Tuple of integers, the axes to reduce.
        weights: Tensor of zeros and ones of the shape of `x`, which entries count, or `None`
            for all.
        total: A function from a list of sums on one replica to the list of those over all.

    Returns:
        A tuple of three tensors, with `axes` kept as axes of length 1. Where nothing counts, the
        mean is 0.

    Reference:
        Chan, Golub and LeVeque, "Algorithms for Computing the Sample Variance", 1983 (the corrected
        two-pass algorithm).
    """
    if weights is None:
        lengths = [ops.cast(ops.shape(x)[axis], x.dtype) for axis in axes]
        count = functools.reduce(ops.multiply, lengths)
    else:
        weights = ops.cast(weights, x.dtype)
        x = ops.where(weights > 0, x, 0)
        count = ops.sum(weights, axes, keepdims=True)
    first, count = total([ops.sum(x, axes, keepdims=True), count])
    size = ops.maximum(count, 1)
    # The results do not depend on where the shift is, so no gradient need go through it.
    shift = ops.stop_gradient(first / size)
    deviation = x - shift if weights is None else (x - shift) * weights
    first, second = total(
        [
            ops.sum(deviation, axes, keepdims=True),
            ops.sum(ops.square(deviation), axes, keepdims=True),
        ]
    )
    # What rounding has left of the mean; it matters where the mean is large.
    rest = first / size
    return shift + rest, second - first * rest, count


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


def grouped_moments(x: Any, axis: int, groups: Any, num_groups: Any, mask: Any = None) -> tuple:
    """Returns mean, variance and count of each group of samples.

    Args:
        x: Float tensor with samples along its first axis.
        axis: Integer, the axis of the channels.
        groups: Integer tensor `(samples,)`, the group that each sample is in.
        num_groups: Integer, or a scalar tensor in a TensorFlow graph.
        mask: Boolean tensor of the shape of `x` without its last axis, or `None`.

    Returns:
        A tuple of three tensors `(num_groups, channels)`, in float32 at least.
    """

    def total(values):
        return ops.segment_sum(values, groups, num_groups)

    means, squares, counts = sample_moments(x, axis, mask)
    count = total(counts)
    size = ops.maximum(count, 1)
    shift = ops.stop_gradient(total(counts * means) / size)
    deviation = means - ops.take(shift, groups, axis=0)
    rest = total(counts * deviation) / size
    variance = total(squares + counts * ops.square(deviation)) / size - ops.square(rest)
    return shift + rest, variance, count


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
    mean, squares, count = shifted_moments(x, axes, mask)
    count = ops.broadcast_to(count, ops.shape(mean))
    return tuple(ops.squeeze(part, axes) for part in (mean, squares, count))


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
