"""How far a converted file's outputs are from the Keras model's, and how far they may be."""

from collections.abc import Sequence

import numpy as np

TOLERANCES = {
    None: 1e-4,
    "sparse": 1e-4,
    "float16": 1e-2,
    "dynamic": 0.1,
    "int8": 0.3,
    "int8_full": 0.3,
}
"""The largest `relative_error` accepted, for each quantization.

- `None`, `"sparse"`: the same float32 arithmetic in another order, 2^-24 = 6e-8 for each rounding,
  which leaves room for a thousand in one direction.
- `"float16"`: weights keep 11 bits, 2^-11 = 5e-4 each; the rest is room for deep nets.
- `"dynamic"` and the int8 modes: 8 bits, 2^-8 = 4e-3 for each weight and activation, which adds up
  over the layers. A ten-class classifier that turns a share r of its confident predictions over has
  an error of sqrt(2 r / 0.9): 0.1 is 1 in 200, 0.3 is 1 in 25. A file that has nothing to do with
  its model measures about 1.
"""

HALF_PRECISION_ROOM = {"float16": 2e-2, "bfloat16": 1e-1}
"""What is added where the Keras model itself rounds to half precision and the file does not.

About 40 roundings of 2^-11 (float16), or 25 of 2^-8 (bfloat16), all in one direction.
"""


_EPSILON = float(np.finfo("float32").eps)


def relative_error(
    expected: Sequence[np.ndarray], actual: Sequence[np.ndarray], centred: bool
) -> float:
    """Measures the distance of two sets of outputs, relative to the size of the expected ones.

    Args:
        expected: The outputs of the Keras model, an array for each.
        actual: The outputs of the file, in the same order.
        centred: Whether size is the deviation from the output's mean rather than from zero. On
            real data it is what tells samples apart, and a regression of 1000 +- 1 may not hide an
            error of 1. On random data a sound model may well give almost one and the same output.

    Returns:
        Float: root mean square of the difference over root mean square of the size, the largest
        over the outputs; 0 for what float32 cannot tell apart; NaN where either has a NaN.

    Example:

    >>> round(relative_error([np.array([3.0, 4.0])], [np.array([3.3, 4.4])], centred=False), 6)
    0.1
    """
    errors = []
    for want, got in zip(expected, actual, strict=True):
        want, got = np.asarray(want, "float64"), np.asarray(got, "float64")
        if want.shape != got.shape:
            return float("nan")
        difference, magnitude = _rms(got - want), _rms(want)
        spread = _rms(want - want.mean()) if centred else magnitude
        # An output that is constant has no spread but rounding; it is measured from zero.
        size = spread if spread > 1e-5 * magnitude else magnitude
        # Sums of large numbers in another order differ by a few units in the last place.
        if difference <= 4 * _EPSILON * magnitude:
            errors.append(0.0)
        else:
            errors.append(difference / size if size else float("inf"))
    return float(np.max(errors))


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
