"""Whether images are what a layer takes them for: finite, and within their range of values."""

import math
import sys
from typing import Any

import keras

from keras_optkit.augmentation.backend import ops_for

Range = tuple[float, float]


def check_value_range(value_range: Any) -> Range | None:
    """Returns a range as two floats, and raises `ValueError` if it is none.

    Args:
        value_range: `None`, or a pair of finite numbers (low, high) with `low < high`.

    Returns:
        A pair of floats, or `None`.
    """
    if value_range is None:
        return None
    try:
        low, high = (float(limit) for limit in value_range if not isinstance(limit, str))
        if math.isfinite(low) and math.isfinite(high) and low < high:
            return low, high
    except (TypeError, ValueError):
        pass
    raise ValueError(
        "`value_range` must be None or a pair of finite numbers (low, high), low < high, such as "
        f"(0, 255) or (0, 1). Received: value_range={value_range!r}"
    )


def in_range(images: Any, value_range: Range | None) -> Any:
    """Says whether all values of some images are finite and in a range.

    Images that never exceed 1 and are not whole numbers are no images in [0, 255], though their
    values are: they have been rescaled to [0, 1].

    Args:
        images: Float tensor of any shape.
        value_range: Pair of floats, or `None` for any finite value.

    Returns:
        A boolean scalar tensor.

    Example:

    >>> bool(in_range(np.array([0.0, 0.7, 1.0]), (0.0, 1.0)))
    True
    >>> bool(in_range(np.array([0.0, 0.7, 1.0]), (0.0, 255.0)))
    False
    """
    ops = ops_for(images)
    images = ops.convert_to_tensor(images)
    if value_range is None:
        return ops.all(ops.isfinite(images))
    low, high = value_range
    # A rescaling that was undone may be off by a rounding error. NaN is not in any range.
    slack = 1e-3 * (high - low)
    inside = ops.all((images >= low - slack) & (images <= high + slack))
    if low == 0 and high >= 255:
        inside = inside & (ops.any(images > 1) | ops.all(images == ops.floor(images)))
    return inside


def describe(images: Any, value_range: Range | None) -> str:
    """Returns what is wrong with images that are not `in_range`, as a message of an error.

    Args:
        images: Array of floats.
        value_range: Pair of floats, or `None`.
    """
    images = keras.ops.convert_to_numpy(images).astype("float64")
    low, high = images.min(), images.max()
    received = f"Received: images with values from {low:g} to {high:g}"
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"Images must be finite numbers. {received}"
    allowed = f"Images must be in `value_range`, which is {value_range}"
    if value_range[0] <= low and high <= 1:
        return (
            f"{allowed}, and these look as if they were rescaled to [0, 1]; pass "
            f"`value_range=(0, 1)` to the layer. {received}"
        )
    return f"{allowed}; pass the layer the range of your images. {received}"


def check_in_graph(images: Any, value_range: Range | None) -> None:
    """Puts the check of `in_range` into a graph of TensorFlow, which raises where it runs.

    Args:
        images: Float tensor of TensorFlow.
        value_range: Pair of floats, or `None`.
    """
    tf = sys.modules["tensorflow"]
    allowed = "finite" if value_range is None else f"in {value_range}"
    message = f"Images must be {allowed}; pass the layer `value_range`, the range of your images."
    limits = tf.reduce_min(images), tf.reduce_max(images)
    tf.debugging.Assert(in_range(images, value_range), [message, "Received: from, to", *limits])


def poisoned(outputs: Any, images: Any, value_range: Range | None) -> Any:
    """Returns NaN for outputs of images out of range, for where nothing can be raised.

    Args:
        outputs: Float tensor, what was made of the images.
        images: Float tensor.
        value_range: Pair of floats, or `None`.
    """
    ops = ops_for(images)
    nan = ops.cast(float("nan"), outputs.dtype)
    return ops.where(in_range(images, value_range), outputs, nan)
