"""What a geometric change of images does to the boxes around what they show."""

from collections.abc import Callable
from typing import Any

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.core.messages import did_you_mean

_ABSOLUTE = ("xyxy", "yxyx", "xywh", "center_xywh", "center_yxhw")
FORMATS = (*_ABSOLUTE, "rel_xyxy", "rel_yxyx", "rel_xywh", "rel_center_xywh")


def check_format(bounding_box_format: str | None) -> str | None:
    """Returns the name of a format in lower case, and raises `ValueError` if it is unknown."""
    if bounding_box_format is None:
        return None
    name = str(bounding_box_format).lower()
    if name not in FORMATS:
        raise ValueError(
            f"`bounding_box_format` must be one of {FORMATS}. {did_you_mean(name, FORMATS)} "
            f"Received: bounding_box_format={bounding_box_format!r}"
        )
    return name


def to_corners(boxes: Any, bounding_box_format: str, height: Any, width: Any) -> Any:
    """Converts boxes to left, top, right and bottom, in pixels.

    Edges lie between pixels: the first pixel of a row reaches from 0 to 1. The formats are those of
    `keras.utils.bounding_boxes.convert_format`.

    Args:
        boxes: Float32 tensor of shape (..., 4).
        bounding_box_format: One of `FORMATS`.
        height: Integer or scalar tensor, the height of the image in pixels.
        width: Integer or scalar tensor, its width.

    Returns:
        A float32 tensor of shape (..., 4).

    Example:

    >>> boxes = np.array([[0.5, 0.5, 0.2, 1.0]], "float32")
    >>> corners = to_corners(boxes, "rel_center_xywh", height=5, width=10)
    >>> keras.ops.convert_to_numpy(corners).round(3).tolist()
    [[4.0, 0.0, 6.0, 5.0]]
    """
    ops = ops_for(boxes)
    boxes = ops.convert_to_tensor(boxes)
    kind = bounding_box_format.removeprefix("rel_")
    a, b, c, d = (boxes[..., i] for i in range(4))
    if kind in ("yxyx", "center_yxhw"):
        a, b, c, d = b, a, d, c
    if kind == "xywh":
        c, d = a + c, b + d
    elif kind.startswith("center"):
        a, b, c, d = a - c / 2, b - d / 2, a + c / 2, b + d / 2
    scale_x, scale_y = _scales(bounding_box_format, height, width, ops)
    return ops.stack([a * scale_x, b * scale_y, c * scale_x, d * scale_y], axis=-1)


def from_corners(corners: Any, bounding_box_format: str, height: Any, width: Any) -> Any:
    """Converts boxes from left, top, right and bottom in pixels; undoes `to_corners`."""
    ops = ops_for(corners)
    corners = ops.convert_to_tensor(corners)
    kind = bounding_box_format.removeprefix("rel_")
    scale_x, scale_y = _scales(bounding_box_format, height, width, ops)
    a, b = corners[..., 0] / scale_x, corners[..., 1] / scale_y
    c, d = corners[..., 2] / scale_x, corners[..., 3] / scale_y
    if kind == "xywh":
        c, d = c - a, d - b
    elif kind.startswith("center"):
        a, b, c, d = (a + c) / 2, (b + d) / 2, c - a, d - b
    if kind in ("yxyx", "center_yxhw"):
        a, b, c, d = b, a, d, c
    return ops.stack([a, b, c, d], axis=-1)


def move_corners(corners: Any, matrices: Any) -> Any:
    """Moves boxes as `warp` moves what is in them.

    A box that is turned or sheared becomes the smallest upright box around it.

    Args:
        corners: Float32 tensor of shape (batch, boxes, 4), see `to_corners`.
        matrices: Float32 tensor of shape (batch, 2, 3), which map pixels of the output to points of
            the input, see `warp`.

    Returns:
        A float32 tensor of the shape of `corners`.

    Example:

    >>> one_to_the_right = np.array([[[1, 0, -1], [0, 1, 0]]], "float32")
    >>> corners = move_corners(np.array([[[0, 0, 2, 3]]], "float32"), one_to_the_right)
    >>> keras.ops.convert_to_numpy(corners).tolist()
    [[[1.0, 0.0, 3.0, 3.0]]]
    """
    ops = ops_for(corners)
    corners = ops.convert_to_tensor(corners)
    m = ops.cast(matrices, "float32")[:, :, :, None, None]
    a, b, c, d = m[:, 0, 0], m[:, 0, 1], m[:, 1, 0], m[:, 1, 1]
    determinant = a * d - b * c
    # Whole numbers are edges here and the centres of pixels in the matrix, half a pixel further on.
    x = ops.take(corners, [0, 2, 0, 2], axis=-1) - 0.5 - m[:, 0, 2]
    y = ops.take(corners, [1, 1, 3, 3], axis=-1) - 0.5 - m[:, 1, 2]
    x, y = (d * x - b * y) / determinant + 0.5, (a * y - c * x) / determinant + 0.5
    limits = [f(side, axis=-1) for f in (ops.min, ops.max) for side in (x, y)]
    return ops.stack(limits, axis=-1)


def clip_corners(corners: Any, labels: Any, height: Any, width: Any) -> tuple:
    """Cuts off what reaches beyond the image, and labels -1 what has no area then.

    Args:
        corners: Float32 tensor of shape (..., boxes, 4), see `to_corners`.
        labels: Tensor of shape (..., boxes), or (..., boxes, n).
        height: Integer or scalar tensor, the height of the image in pixels.
        width: Integer or scalar tensor, its width.

    Returns:
        The corners and the labels, as Keras' `clip_to_image_size` gives them.
    """
    ops = ops_for(corners)
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
    sides = [ops.clip(corners[..., i], 0.0, limit) for i, limit in enumerate([width, height] * 2)]
    left, top, right, bottom = sides
    is_left = (right > left) & (bottom > top)
    if len(labels.shape) == len(corners.shape):
        is_left = is_left[..., None]
    return ops.stack(sides, axis=-1), ops.where(is_left, labels, ops.cast(-1, labels.dtype))


def is_padding(labels: Any, rank: int) -> Any:
    """Says which boxes are padding, that is, have negative labels only.

    Args:
        labels: Tensor of shape (..., boxes), or (..., boxes, n).
        rank: Integer, the rank of the boxes themselves.

    Returns:
        A boolean tensor of shape (..., boxes).
    """
    ops = ops_for(labels)
    negative = labels < 0
    return ops.all(negative, axis=-1) if len(labels.shape) == rank else negative


def move_boxes(
    bounding_boxes: dict[str, Any],
    bounding_box_format: str,
    before: tuple,
    after: tuple,
    move: Callable[[Any], Any] | None,
) -> dict[str, Any]:
    """Moves boxes with what they show, and cuts them off at the edge of the image.

    Args:
        bounding_boxes: Dictionary with `"boxes"` of shape (batch, boxes, 4) and `"labels"` of shape
            (batch, boxes) or (batch, boxes, n), or both without the batch.
        bounding_box_format: One of `FORMATS`.
        before: The height and width of the images that the boxes belong to.
        after: The height and width of what becomes of these.
        move: A function on corners of shape (batch, boxes, 4), or `None` if nothing moves.

    Returns:
        A dictionary like the one that came in, with boxes of type float32. Padding stays as it is.
    """
    boxes, labels = bounding_boxes["boxes"], bounding_boxes["labels"]
    ops = ops_for(boxes)
    boxes = ops.cast(boxes, "float32")
    if move is None:
        return {"boxes": boxes, "labels": labels}
    corners = to_corners(boxes, bounding_box_format, *before)
    single = len(boxes.shape) == 2
    corners = move(ops.expand_dims(corners, 0) if single else corners)
    corners = ops.squeeze(corners, 0) if single else corners
    corners, new_labels = clip_corners(corners, labels, *after)
    moved = from_corners(corners, bounding_box_format, *after)
    padding = is_padding(labels, len(boxes.shape))[..., None]
    return {"boxes": ops.where(padding, boxes, moved), "labels": new_labels}


def check_boxes(bounding_boxes: Any, bounding_box_format: str | None, is_batch: bool) -> None:
    """Raises `ValueError` unless these are boxes in the form that Keras' layers take.

    Args:
        bounding_boxes: What was given.
        bounding_box_format: The format that the layer was told, or `None`.
        is_batch: Whether the images are a batch.
    """
    if bounding_box_format is None:
        raise ValueError(
            "Inputs with 'bounding_boxes' need a layer that knows their format; pass "
            f"`bounding_box_format`, one of {FORMATS}. Received: bounding_box_format=None"
        )
    if not isinstance(bounding_boxes, dict) or set(bounding_boxes) != {"boxes", "labels"}:
        keys = list(bounding_boxes) if isinstance(bounding_boxes, dict) else type(bounding_boxes)
        raise ValueError(
            "'bounding_boxes' must be a dictionary with 'boxes' and 'labels'. "
            f"Received: {'keys ' if isinstance(keys, list) else ''}{keys}"
        )
    boxes, labels = bounding_boxes["boxes"], bounding_boxes["labels"]
    if any("Ragged" in type(x).__name__ for x in (boxes, labels)):
        raise ValueError(
            "'bounding_boxes' must not be ragged; fill them up with "
            "`boxes.to_tensor(-1)` and `labels.to_tensor(-1)`. "
            f"Received: boxes of type {type(boxes).__name__}"
        )
    rank = 2 + is_batch
    boxes_shape, labels_shape = tuple(boxes.shape), tuple(labels.shape)
    if (
        len(boxes_shape) != rank
        or boxes_shape[-1] != 4
        or len(labels_shape) not in (rank - 1, rank)
        or any(
            a != b
            for a, b in zip(boxes_shape[:-1], labels_shape, strict=False)
            if None not in (a, b)
        )
    ):
        batch = "batch, " if is_batch else ""
        raise ValueError(
            f"'boxes' must have the shape ({batch}boxes, 4) and their 'labels' ({batch}boxes) or "
            f"({batch}boxes, n). Received: boxes of shape {boxes_shape} and labels of shape "
            f"{labels_shape}"
        )
    if "uint" in str(labels.dtype) or "bool" in str(labels.dtype):
        raise ValueError(
            "The labels of boxes must be of a type that holds -1, which marks boxes that have left "
            f"the image; cast them to int32. Received: labels of type {labels.dtype}"
        )


def _scales(bounding_box_format: str, height: Any, width: Any, ops: Any) -> tuple:
    if bounding_box_format.startswith("rel_"):
        return ops.cast(width, "float32"), ops.cast(height, "float32")
    return 1.0, 1.0
