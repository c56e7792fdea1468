"""Which weights stay: pure functions of scores and a count."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
# Up to here a sort is faster than counting, and a sample of this size tells where to count.
_SORTED = 2048


def num_kept(size: int, sparsity: Any) -> Any:
    """Returns how many of `size` weights stay: at least one, and rounded as TF-MOT rounds.

    Args:
        size: Integer, the number of weights, or of blocks of them.
        sparsity: Scalar float32 tensor in [0, 1].

    Returns:
        Scalar int32 tensor.
    """
    kept = ops.round(size * (1.0 - ops.cast(sparsity, "float32")))
    # Above 2**24, float32 may round to one more than there are.
    return ops.minimum(ops.cast(ops.maximum(kept, 1.0), "int32"), size)


def keep_largest(scores: Any, count: Any) -> Any:
    """Returns a mask of exactly `count` scores, the largest ones.

    Of equal scores, those that come first in memory go first.

    Args:
        scores: Tensor of any shape and float dtype.
        count: Scalar int32 tensor in [1, number of scores]; need not be known when compiling.

    Returns:
        Boolean tensor of the shape of `scores`.

    Example:

    >>> keras.ops.convert_to_numpy(keep_largest(np.array([3.0, 1.0, 1.0, 2.0]), 3)).tolist()
    [True, False, True, True]
    """
    return keep_largest_of_all([scores], count)[0]


def keep_largest_of_all(scores: Sequence[Any], count: Any) -> list[Any]:
    """Returns masks of exactly `count` scores, the largest ones of several tensors together.

    Of equal scores, those of earlier tensors go first, and within a tensor those that come first
    in memory. Large tensors are not sorted but counted, about ten times: the bit patterns of floats
    can be ordered as the floats are, and each count below a threshold tells where the next one
    has to be.

    Args:
        scores: List of tensors of any shapes and float dtypes.
        count: Scalar int32 tensor in [1, number of all scores].

    Returns:
        List of boolean tensors of the shapes of `scores`.
    """
    keys = [_ordered(s) for s in scores]
    dropped = sum(math.prod(k.shape) for k in keys) - ops.cast(count, "int32")
    threshold, below = _find_threshold(keys, dropped)

    def simple():
        return [k >= threshold for k in keys]

    def by_rank():
        left, masks = dropped - below, []
        for k in keys:
            tied = k == threshold
            rank = ops.cumsum(ops.cast(tied, "int32"))
            masks.append((k > threshold) | (tied & (rank > left)))
            left = left - rank[-1]
        return masks

    masks = ops.cond(below < dropped, by_rank, simple)
    return [ops.reshape(m, ops.shape(s)) for m, s in zip(masks, scores, strict=True)]


def _ordered(scores: Any) -> Any:
    """Flat int32 numbers in the order of the scores."""
    bits = ops.view(ops.reshape(ops.cast(scores, "float32"), (-1,)), dtype="int32")
    if _eager() and int(bits.min()) >= 0:
        # Magnitudes, as a rule. Three passes over all weights are saved by one that writes nothing.
        return bits
    # The bits of negative floats run the other way. -0.0 is left beside 0.0, which it equals.
    return ops.where(bits < 0, _LOWEST - bits, bits)


def _find_threshold(keys: list[Any], dropped: Any) -> tuple[Any, Any]:
    """Returns a threshold with no more than `dropped` keys below it, and how many there are.

    Either exactly `dropped` keys are below it, or too many would be below the next integer.
    """
    size = sum(math.prod(k.shape) for k in keys)
    stride = -(-size // _SORTED)
    sample = ops.sort(ops.concatenate([k[::stride] for k in keys]))
    if stride == 1:
        threshold = ops.take(sample, ops.minimum(dropped, size - 1))
        return threshold, _count_below(keys, threshold)

    drawn = sample.shape[0]
    share = ops.cast(dropped, "float32") / size
    # Three standard deviations of the rank that the threshold has in the sample.
    margin = 1.5 * math.sqrt(drawn)
    ranks = ops.floor(share * drawn + ops.convert_to_tensor([-margin, margin], "float32"))
    first, second = ops.unstack(
        ops.take(sample, ops.cast(ops.clip(ranks, 0, drawn - 1), "int32")), num=2
    )

    if _eager():
        found = _select(keys, dropped, first, second)
        if found is not None:
            return found

    def unfinished(made, low, high, below, above):
        return (below < dropped) & (low < high - 1)

    def narrow(made, low, high, below, above):
        # Between two thresholds the keys are spread almost evenly. To guess a little too low and
        # a little too high in turn closes in on both sides; to halve now and then always ends.
        inside = ops.cast(above - below, "float32")
        aim = ops.cast(dropped - below, "float32") + ops.where(made % 2 == 0, -1.0, 1.0) * (
            0.6 * ops.sqrt(inside)
        )
        width = ops.cast(high // 2 - low // 2, "float32")
        step = ops.clip(aim / inside, 0.0, 1.0) * ops.minimum(width, 2.0**30 - 64)
        guess = low + 2 * ops.cast(step, "int32")
        guess = ops.where(made % 5 == 4, low // 2 + high // 2, guess)
        guess = ops.where(made == 0, first, ops.where(made == 1, second, guess))
        guess = ops.minimum(ops.maximum(guess, low + 1), high - 1)
        found = _count_below(keys, guess)
        fits = found <= dropped
        return (
            made + 1,
            ops.where(fits, guess, low),
            ops.where(fits, high, guess),
            ops.where(fits, found, below),
            ops.where(fits, above, found),
        )

    start = [ops.cast(v, "int32") for v in (0, _LOWEST, _HIGHEST, 0, size)]
    _, threshold, _, below, _ = ops.while_loop(unfinished, narrow, start)
    return threshold, below


def _select(keys: list[Any], dropped: Any, first: Any, last: Any) -> tuple[Any, Any] | None:
    """Returns what `_find_threshold` does if the threshold is in `[first, last)`, else `None`.

    Where shapes need not be known before, the few keys in question can be sorted by themselves.
    """
    left = dropped - _count_below(keys, first)
    inside = ops.concatenate([k[(k >= first) & (k < last)] for k in keys])
    if not 0 <= left < inside.shape[0]:
        return None
    inside = ops.sort(inside)
    threshold = inside[left]
    return threshold, dropped - left + _count_below([inside], threshold)


def _count_below(keys: list[Any], threshold: Any) -> Any:
    if _eager():
        return sum((k < threshold).sum() for k in keys)
    return sum(ops.sum(ops.cast(k < threshold, "int32")) for k in keys)


def _eager() -> bool:
    """Tells whether each operation is a pass over memory of its own, and shapes may follow data."""
    return keras.backend.backend() == "torch"
