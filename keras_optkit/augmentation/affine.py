"""The sampler of geometric operations: ranges and random numbers in, one matrix per image out."""

import math
import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from keras_optkit.augmentation.backend import ops_for

Range = tuple[float, float]


@dataclass(frozen=True)
class AffineRanges:
    """What the parameters of an affine augmentation are drawn from, uniformly.

    Each parameter is a number `r`, short for the range that it documents, or a pair (low, high).

    Args:
        rotation: Degrees in [-360, 360], positive turns counter-clockwise. `r` is (-r, r).
        translation: Shares of the size in [-1, 1], positive moves down and to the right. `r` is
            (-r, r) on both axes. A pair is (vertical, horizontal), and each of the two is a
            number or a pair in turn.
        shear: Degrees in (-90, 90), positive leans to the right as italics do. `r` is (-r, r).
        zoom: `r` in [0, 1) is (1 - r, 1 + r). A pair holds factors above 0, and a factor of 2
            shows everything twice as large.
        horizontal_flip: Boolean, whether to mirror half of the images left to right.
        vertical_flip: Boolean, whether to mirror half of the images top to bottom.

    Raises:
        ValueError: If a parameter is none of these.
    """

    # How many random numbers an image takes.
    DRAWS: ClassVar[int] = 7

    rotation: Range = (0.0, 0.0)
    translation: tuple[Range, Range] = ((0.0, 0.0), (0.0, 0.0))
    shear: Range = (0.0, 0.0)
    zoom: Range = (1.0, 1.0)
    horizontal_flip: bool = False
    vertical_flip: bool = False

    def __post_init__(self):
        full = {
            "rotation": _angles("rotation", self.rotation, 360, "[-360, 360]"),
            "translation": _translation(self.translation),
            "shear": _angles("shear", self.shear, math.nextafter(90, 0), "(-90, 90)"),
            "zoom": _zoom(self.zoom),
        }
        for name, value in full.items():
            object.__setattr__(self, name, value)

    @property
    def only_flips(self) -> bool:
        """Whether every draw is the identity or a flip."""
        still = AffineRanges(horizontal_flip=self.horizontal_flip, vertical_flip=self.vertical_flip)
        return self == still


def affine_matrices(ranges: AffineRanges, draws: Any, height: Any, width: Any) -> Any:
    """Turns random numbers into one inverse affine matrix per image.

    An image is flipped, then zoomed, sheared, rotated, each about its centre, and then moved. The
    flip comes first so that the other parameters mean the same for an image and its mirror image.

    Args:
        ranges: The `AffineRanges`.
        draws: Float32 tensor of shape (batch, 7) in [0, 1): for zoom, shear, rotation, vertical and
            horizontal translation, horizontal and vertical flip.
        height: Integer, the height of the images in pixels.
        width: Integer, the width of the images in pixels.

    Returns:
        A float32 tensor of shape (batch, 2, 3) that maps a pixel (x, y, 1) of the output to the
        point (x, y) of the input that it shows, see `warp`.

    Example:

    >>> ranges = AffineRanges(translation=((0.2, 0.2), 0))
    >>> matrices = affine_matrices(ranges, np.zeros((1, 7), "float32"), height=10, width=20)
    >>> keras.ops.convert_to_numpy(matrices[0]).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, -2.0]]
    """
    ops = ops_for(draws)
    draws = ops.convert_to_tensor(draws)
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")

    def between(column, low_high, unit=1.0):
        low, high = (unit * limit for limit in low_high)
        return low + (high - low) * draws[:, column]

    zoom = between(0, ranges.zoom)
    lean = ops.tan(between(1, ranges.shear, math.pi / 180))
    angle = between(2, ranges.rotation, math.pi / 180)
    down = between(3, ranges.translation[0]) * height
    right = between(4, ranges.translation[1]) * width
    mirror_x = flip_signs(ranges.horizontal_flip, draws[:, 5])
    mirror_y = flip_signs(ranges.vertical_flip, draws[:, 6])

    # The inverse of flip, zoom, shear and rotation, in this order, multiplied out.
    cos, sin = ops.cos(angle), ops.sin(angle)
    a, b = mirror_x * (cos + lean * sin) / zoom, mirror_x * (lean * cos - sin) / zoom
    c, d = mirror_y * sin / zoom, mirror_y * cos / zoom
    offset = (-(a * right + b * down), -(c * right + d * down))
    return about_centre(((a, b), (c, d)), offset, height, width)


def about_centre(linear: tuple, offset: tuple, height: Any, width: Any) -> Any:
    """Stacks maps that leave the centre of the image where it is, but for an offset.

    Args:
        linear: The four entries of the linear part, `((a, b), (c, d))`, each of shape (batch,).
        offset: The two entries of the offset in pixels, `(x, y)`, each of shape (batch,).
        height: Float32 scalar tensor.
        width: Float32 scalar tensor.

    Returns:
        A float32 tensor of shape (batch, 2, 3), see `warp`.
    """
    ops = ops_for(linear[0][0])
    centre = ((width - 1) / 2, (height - 1) / 2)
    rows = [
        ops.stack([a, b, centre[i] - (a * centre[0] + b * centre[1]) + offset[i]], axis=-1)
        for i, (a, b) in enumerate(linear)
    ]
    return ops.stack(rows, axis=1)


def composed(first: Any, second: Any) -> Any:
    """Returns the matrices that do in one resampling what two of them do one after the other.

    Args:
        first: Float32 tensor of shape (batch, 2, 3), see `warp`, which is applied first.
        second: The same for what is applied to the result.
    """
    ops = ops_for(first)
    linear = ops.sum(first[:, :, :2, None] * second[:, None], axis=2)
    return linear + first[:, :, 2:] * np.array([0, 0, 1], "float32")


def flip_signs(enabled: bool, draws: Any) -> Any:
    """Returns -1 for the half of the images to be flipped and 1 for the others."""
    ops = ops_for(draws)
    return ops.where(draws < 0.5, -1.0, 1.0) if enabled else ops.ones_like(draws)


def as_range(name: str, value: Any, allowed: str, centre: float = 0.0) -> Range:
    """Reads a number `r`, which stands for (centre - r, centre + r), or a pair (low, high).

    Args:
        name: The argument's name, for the message.
        value: What was given.
        allowed: What is allowed, for the message.
        centre: Number, the middle of the range that a single number stands for.

    Returns:
        A pair of floats with `low <= high`.

    Raises:
        ValueError: If it is neither, or not finite, or the number is negative.
    """
    if _is_number(value) and value >= 0:
        return float(centre - value), float(centre + value)
    if isinstance(value, (tuple, list)) and len(value) == 2 and all(map(_is_number, value)):
        low, high = map(float, value)
        if low <= high:
            return low, high
    raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _angles(name: str, value: Any, limit: float, interval: str) -> Range:
    allowed = (
        f"a number of degrees r >= 0, short for (-r, r), or a pair (low, high), within {interval}"
    )
    low, high = as_range(name, value, allowed)
    if low < -limit or high > limit:
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    return low, high


def _translation(value: Any) -> tuple[Range, Range]:
    allowed = (
        "a share of the size r >= 0, short for (-r, r) on both axes, or a pair (vertical, "
        "horizontal) of such shares or of (low, high) pairs, within [-1, 1]"
    )
    axes = (value, value) if _is_number(value) else value
    if isinstance(axes, (tuple, list)) and len(axes) == 2:
        vertical, horizontal = (as_range("translation", axis, allowed) for axis in axes)
        if all(-1 <= limit <= 1 for limit in (*vertical, *horizontal)):
            return vertical, horizontal
    raise ValueError(f"`translation` must be {allowed}. Received: translation={value!r}")


def _zoom(value: Any) -> Range:
    allowed = (
        "a share r in [0, 1), short for the factors (1 - r, 1 + r), or a pair (low, high) of "
        "factors above 0, where 1 changes nothing"
    )
    low, high = as_range("zoom", value, allowed, centre=1.0)
    if low <= 0:
        raise ValueError(f"`zoom` must be {allowed}. Received: zoom={value!r}")
    return low, high
