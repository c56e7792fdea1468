"""Which weights of a tensor stay: pure functions of scores and a sparsity."""

from typing import Any

from keras import ops

# The bit pattern of the largest float32, NaN included, read as an integer.
_HIGHEST = 2**31 - 1


def num_kept(size: int, sparsity: Any) -> Any:
    """Returns how many weights of a tensor stay: at least one, and rounded as TF-MOT rounds.

    Args:
        size: Integer, the number of weights.
        sparsity: Scalar float32 tensor in [0, 1].

    Returns:
        Scalar int32 tensor.
    """
    kept = ops.round(size * (1.0 - ops.cast(sparsity, "float32")))
    return ops.cast(ops.clip(kept, 1, size), "int32")


def keep_largest(scores: Any, count: Any) -> Any:
    """Returns a mask of exactly `count` scores, the largest ones.

    Of equal scores, those that come first in memory go first. There is no sort: the bit patterns
    of non-negative floats are ordered as the floats are, so 31 counts find the threshold.

    Args:
        scores: Tensor of any shape, not negative, of any float dtype.
        count: Scalar int32 tensor in [1, number of scores]; need not be known when compiling.

    Returns:
        Boolean tensor of the shape of `scores`.

    Example:

    >>> keras.ops.convert_to_numpy(keep_largest(np.array([3.0, 1.0, 1.0, 2.0]), 3)).tolist()
    [True, False, True, True]
    """
    scores = ops.cast(scores, "float32")
    bits = ops.view(ops.reshape(scores, (-1,)), dtype="int32")
    dropped = ops.size(bits) - count

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        fits = _count(bits < middle) <= dropped
        return ops.where(fits, middle, low), ops.where(fits, high, middle)

    start = (ops.cast(0, "int32"), ops.cast(_HIGHEST, "int32"))
    # The largest bit pattern below which no more than `dropped` scores lie.
    threshold, _ = ops.fori_loop(0, 31, halve, start)
    below = bits < threshold
    tied = bits == threshold
    rank = ops.cumsum(ops.cast(tied, "int32"))
    drop = ops.logical_or(below, ops.logical_and(tied, rank <= dropped - _count(below)))
    return ops.reshape(ops.logical_not(drop), ops.shape(scores))


def _count(mask: Any) -> Any:
    return ops.sum(ops.cast(mask, "int32"))
