"""The curves that schedules are made of, in float32 without loss of relative precision.

A rate falls by many orders of magnitude, and float32 is all that a compiled step has on JAX. Each
curve is therefore a sum of positive terms, and is measured from both of its ends.
"""

import math
from typing import Any

from keras import ops


def linear_between(start: float, target: float, step: Any, begin: float, end: float) -> Any:
    """Goes from `start` at step `begin` to `target` at step `end` on a line.

    Args:
        start: Float >= 0.
        target: Float >= 0.
        step: Scalar float32 tensor.
        begin: Float, the step up to which the value is `start`.
        end: Float > `begin`, the step from which it is `target`.

    Returns:
        Scalar float32 tensor.

    Example:

    >>> float(linear_between(0.0, 1.0, 25.0, 0, 100))
    0.25
    """
    done, left = _shares(step, begin, end)
    return start * left + target * done


def cosine_between(start: float, target: float, step: Any, begin: float, end: float) -> Any:
    """Goes from `start` at step `begin` to `target` at step `end` on half a cosine.

    Args:
        start: Float >= 0.
        target: Float >= 0.
        step: Scalar float32 tensor.
        begin: Float, the step up to which the value is `start`.
        end: Float > `begin`, the step from which it is `target`.

    Returns:
        Scalar float32 tensor.

    Example:

    >>> round(float(cosine_between(1.0, 0.0, 50.0, 0, 100)), 6)
    0.5
    """
    done, left = _shares(step, begin, end)
    # (1 + cos(pi x)) / 2 = sin(pi (1 - x) / 2) ** 2, which keeps its digits where it is small.
    left, done = (ops.square(ops.sin(math.pi / 2 * share)) for share in (left, done))
    return start * left + target * done


def _shares(step: Any, begin: float, end: float) -> tuple[Any, Any]:
    step = ops.cast(step, "float32")
    done = _since(step, begin) / (end - begin)
    left = -_since(step, end) / (end - begin)
    return ops.clip(done, 0.0, 1.0), ops.clip(left, 0.0, 1.0)


def _since(step: Any, begin: float) -> Any:
    # The whole part is subtracted exactly, so that a short difference keeps its digits.
    return (step - math.floor(begin)) - (begin - math.floor(begin))


def power(base: float, exponent: Any) -> Any:
    """Returns `base ** exponent` for a whole exponent, to float32 precision however large it is.

    Args:
        base: Float > 0.
        exponent: Scalar float32 tensor of a whole number in [0, 2**12 * 2**12).

    Returns:
        Scalar float32 tensor.

    Example:

    >>> round(float(power(0.5, 3.0)), 6)
    0.125
    """
    # In float32, exponent * log2(base) loses as many digits as it has before its point. The
    # logarithm is split in two: the product with the first part is exact.
    exponent = ops.cast(exponent, "float32")
    logarithm = math.log2(base)
    coarse = math.floor(logarithm * 2**10) / 2**10
    product = exponent * coarse
    whole = ops.floor(product)
    rest = (product - whole) + exponent * (logarithm - coarse)
    return ops.power(2.0, whole) * ops.exp(math.log(2) * rest)
