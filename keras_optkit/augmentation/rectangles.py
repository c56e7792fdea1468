"""Upright rectangles of random size, shape and place: what a crop keeps and erasing overwrites."""

import math
from typing import Any

from keras_optkit.augmentation.affine import as_range
from keras_optkit.augmentation.backend import ops_for

# As often as torchvision tries to find a rectangle that fits into the image.
ATTEMPTS = 10
# How many random numbers an image takes.
DRAWS = 2 * ATTEMPTS + 2


def draw_rectangles(
    draws: Any, scale: tuple, ratio: tuple, height: Any, width: Any
) -> tuple[Any, Any]:
    """Draws one rectangle per image.

    Its share of the area is uniform in `scale` and the logarithm of its width over its height in
    `ratio`. The first of 10 such pairs that fits into the image is taken, and then a place.

    Args:
        draws: Float32 tensor of shape (batch, 22) in [0, 1).
        scale: Pair (low, high) of shares of the area.
        ratio: Pair (low, high) of widths over heights.
        height: Integer or scalar tensor, the height of the images in pixels.
        width: Integer or scalar tensor, their width.

    Returns:
        An int32 tensor of shape (batch, 4) with top, left, bottom and right, of which the last two
        are not inside, and a boolean tensor of shape (batch,): whether any of the pairs fitted.
        A rectangle that did not is empty.

    Example:

    >>> draws = np.full((1, 22), 0.5, "float32")
    >>> boxes, fits = draw_rectangles(draws, (0.25, 0.25), (1, 1), height=8, width=12)
    >>> keras.ops.convert_to_numpy(boxes).tolist()
    [[2, 4, 7, 9]]
    """
    ops = ops_for(draws)
    draws = ops.convert_to_tensor(draws)
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
    share = scale[0] + (scale[1] - scale[0]) * draws[:, :ATTEMPTS]
    low, high = map(math.log, ratio)
    aspect = ops.exp(low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    area = share * height * width
    rows, columns = ops.round(ops.sqrt(area / aspect)), ops.round(ops.sqrt(area * aspect))
    fits = (rows >= 1) & (rows <= height) & (columns >= 1) & (columns <= width)
    # One where the first that fits stands, and zero elsewhere.
    numbered = ops.where(fits, ops.arange(ATTEMPTS, dtype="float32"), float(ATTEMPTS))
    first = ops.cast(fits & (numbered == ops.min(numbered, axis=1, keepdims=True)), "float32")
    rows, columns = ops.sum(first * rows, axis=1), ops.sum(first * columns, axis=1)
    top = ops.floor(draws[:, -2] * (height - rows + 1))
    left = ops.floor(draws[:, -1] * (width - columns + 1))
    boxes = ops.stack([top, left, top + rows, left + columns], axis=-1)
    return ops.cast(boxes, "int32"), ops.any(fits, axis=1)


def inside(boxes: Any, height: Any, width: Any) -> Any:
    """Says which pixels are inside of rectangles.

    Args:
        boxes: Int32 tensor of shape (batch, 4), see `draw_rectangles`.
        height: Integer or scalar tensor, the height of the images in pixels.
        width: Integer or scalar tensor, their width.

    Returns:
        A boolean tensor of shape (batch, height, width).
    """
    ops = ops_for(boxes)
    boxes = ops.convert_to_tensor(boxes)
    top, left, bottom, right = (boxes[:, i, None] for i in range(4))
    y, x = ops.arange(height, dtype="int32"), ops.arange(width, dtype="int32")
    return ((y >= top) & (y < bottom))[:, :, None] & ((x >= left) & (x < right))[:, None, :]


def check_rectangles(scale: Any, ratio: Any) -> tuple:
    """Returns the ranges of areas and shapes, and raises `ValueError` if they are none."""
    allowed = "a pair of shares of the area 0 < low <= high <= 1"
    share = as_range("scale", _pair(scale), allowed)
    if not 0 < share[0] <= share[1] <= 1:
        raise ValueError(f"`scale` must be {allowed}. Received: scale={scale!r}")
    allowed = "a pair of ratios 0 < low <= high"
    shape = as_range("ratio", _pair(ratio), allowed)
    if shape[0] <= 0:
        raise ValueError(f"`ratio` must be {allowed}. Received: ratio={ratio!r}")
    return share, shape


def _pair(value: Any) -> Any:
    # A single number stands for no pair here; a text is refused by `as_range`.
    return value if isinstance(value, (tuple, list)) else repr(value)
