"""The curves that schedules are made of, in float32 without loss of relative precision.

A rate falls by many orders of magnitude, and float32 is all that a compiled step has on JAX. Each
curve is therefore a sum of positive terms, and is measured from both of its ends.
"""

import math
from typing import Any

from keras import ops


def linear_between(start: float, target: float, step: Any, length: Any) -> Any:
    """Goes from `start` at step 0 to `target` at step `length` on a line, and stays there.

    Args:
        start: Float >= 0.
        target: Float >= 0.
        step: Scalar float32 tensor.
        length: Float > 0.

    Returns:
        Scalar float32 tensor.

    Example:

    >>> float(linear_between(0.0, 1.0, 25.0, 100))
    0.25
    """
    step = ops.clip(ops.cast(step, "float32"), 0.0, length)
    return start * ((length - step) / length) + target * (step / length)


def cosine_between(start: float, target: float, step: Any, length: Any) -> Any:
    """Goes from `start` at step 0 to `target` at step `length` on half a cosine, and stays there.

    Args:
        start: Float >= 0.
        target: Float >= 0.
        step: Scalar float32 tensor.
        length: Float > 0.

    Returns:
        Scalar float32 tensor.

    Example:

    >>> round(float(cosine_between(1.0, 0.0, 50.0, 100)), 6)
    0.5
    """
    step = ops.clip(ops.cast(step, "float32"), 0.0, length)
    # (1 + cos(pi x)) / 2 = sin(pi (1 - x) / 2) ** 2, which keeps its digits where it is small.
    left = ops.sin(math.pi / 2 * ((length - step) / length))
    done = ops.sin(math.pi / 2 * (step / length))
    return start * ops.square(left) + target * ops.square(done)


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
    logarithm = math.log2(base)
    coarse = math.floor(logarithm * 2**10) / 2**10
    product = exponent * coarse
    whole = ops.floor(product)
    rest = (product - whole) + exponent * (logarithm - coarse)
    return ops.power(2.0, whole) * ops.exp(math.log(2) * rest)
