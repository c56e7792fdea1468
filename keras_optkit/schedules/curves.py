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
        step: Scalar float32 tensor of a whole number.
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


def cosine_between(start: Any, target: float, step: Any, begin: Any, end: Any) -> Any:
    """Goes from `start` at step `begin` to `target` at step `end` on half a cosine.

    Args:
        start: Float >= 0, or a tensor of one.
        target: Float >= 0.
        step: Scalar float32 tensor of a whole number.
        begin: Float, or a tensor of a whole number, the step up to which the value is `start`.
        end: The same, > `begin`, the step from which it is `target`.

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


def sqrt_between(start: float, target: float, step: Any, begin: float, end: float) -> Any:
    """Goes from `start` at step `begin` to `target` at step `end` on one minus a square root.

    Args:
        start: Float >= 0.
        target: Float >= 0.
        step: Scalar float32 tensor of a whole number.
        begin: Float, the step up to which the value is `start`.
        end: Float > `begin`, the step from which it is `target`.

    Returns:
        Scalar float32 tensor.

    Example:

    >>> float(sqrt_between(1.0, 0.0, 25.0, 0, 100))
    0.5
    """
    done, left = _shares(step, begin, end)
    root = ops.sqrt(done)
    # 1 - sqrt(x) = (1 - x) / (1 + sqrt(x)), which keeps its digits where it is small.
    return start * left / (1 + root) + target * root


def polynomial_between(
    start: float, target: float, step: Any, begin: float, end: float, power: float
) -> Any:
    """Falls from `start` at step `begin` to `target` at step `end` on a polynomial.

    Args:
        start: Float >= `target`.
        target: Float >= 0.
        step: Scalar float32 tensor of a whole number.
        begin: Float, the step up to which the value is `start`.
        end: Float > `begin`, the step from which it is `target`.
        power: Float > 0, the exponent of the share of steps that is left.

    Returns:
        Scalar float32 tensor.

    Example:

    >>> float(polynomial_between(1.0, 0.0, 50.0, 0, 100, power=2))
    0.25
    """
    _, left = _shares(step, begin, end)
    return target + (start - target) * ops.power(left, power)


def _shares(step: Any, begin: Any, end: Any) -> tuple[Any, Any]:
    step = ops.cast(step, "float32")
    done = _since(step, begin) / (end - begin)
    left = -_since(step, end) / (end - begin)
    return ops.clip(done, 0.0, 1.0), ops.clip(left, 0.0, 1.0)


def _since(step: Any, begin: Any) -> Any:
    if not isinstance(begin, float) or begin.is_integer():
        return step - begin
    # The whole part is subtracted exactly, so that a short difference keeps its digits. The floor
    # changes nothing, and keeps XLA from adding the two parts up again.
    return ops.floor(step - begin // 1) - begin % 1


def completed(step: Any, every: int) -> Any:
    """Returns how many whole periods of `every` steps lie before a step.

    Args:
        step: Scalar float32 tensor of a whole number.
        every: Integer > 0.

    Returns:
        Scalar float32 tensor of a whole number.

    Example:

    >>> float(completed(250.0, 100))
    2.0
    """
    # Steps are whole. The half keeps a quotient that is rounded down off the next one.
    return ops.floor((ops.cast(step, "float32") + 0.5) / every)


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
    # In float32, exponent * log2(base) loses as many digits as it has before its point. Both are
    # split in two parts of 12 bits: the products of the first parts are exact.
    exponent, logarithm = ops.cast(exponent, "float32"), math.log2(base)
    parts = [(exponent, logarithm)]
    # Below, 2**12 factors are less than the smallest float32, and no more need be told apart.
    if logarithm * 2**12 > -150:
        high = ops.floor(exponent / 2**12)
        parts = [(high, logarithm * 2**12), (exponent - high * 2**12, logarithm)]
    whole = rest = 0.0
    for part, logarithm in parts:
        mantissa, bits = math.frexp(logarithm)
        coarse = math.ldexp(math.trunc(mantissa * 2**12), bits - 12)
        product = part * coarse
        floor = ops.floor(product)
        whole = whole + floor
        rest = rest + (product - floor) + part * (logarithm - coarse)
    return ops.power(2.0, whole) * ops.exp(math.log(2) * rest)
