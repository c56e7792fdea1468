"""What augmentation layers take: which inputs there are, their shapes, types and layout."""

from collections.abc import Callable
from typing import Any

import keras

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.core.messages import did_you_mean

KEYS = ("images", "labels", "segmentation_masks", "bounding_boxes")
FLOATS = ("float16", "bfloat16", "float32", "float64")


def is_uint8(images: Any) -> bool:
    """Whether images are of type uint8."""
    return keras.backend.standardize_dtype(images.dtype) == "uint8"


def static_shape(tensor: Any) -> tuple | None:
    """Returns a shape with `None` for what is not known, or `None` where the rank is not."""
    try:
        return tuple(tensor.shape)
    except ValueError:
        return None


def sizes(images: Any, channels_first: bool) -> tuple:
    """Returns how many images there are, their height and their width.

    Args:
        images: Tensor of rank 3 (one image) or 4 (a batch).
        channels_first: Whether the channels come before the height.
    """
    shape = ops_for(images).shape(images)
    axis = -2 if channels_first else -3
    return shape[0] if len(shape) == 4 else 1, shape[axis], shape[axis + 1]


def as_batch(
    x: Any, channels_first: bool, rank: int | None = None
) -> tuple[Any, Callable[[Any], Any]]:
    """Returns images or masks as a batch with the channels last, and how to undo this.

    Args:
        x: Tensor, one image or mask or a batch of them. Masks may have no axis of channels.
        channels_first: Whether the channels come before the height.
        rank: Integer, the rank of the images that masks belong to; that of `x` for images.

    Returns:
        A pair: a tensor of shape (batch, height, width, channels), and a function that gives such
        a tensor the layout of `x`.
    """
    ops = ops_for(x)
    single = (rank or len(x.shape)) == 3
    flat = rank is not None and len(x.shape) == rank - 1
    first = channels_first and not flat
    if single:
        x = ops.expand_dims(x, 0)
    if flat:
        x = ops.expand_dims(x, -1)
    if first:
        x = ops.transpose(x, (0, 2, 3, 1))

    def undo(x):
        if first:
            x = ops.transpose(x, (0, 3, 1, 2))
        if flat:
            x = ops.squeeze(x, -1)
        return ops.squeeze(x, 0) if single else x

    return x, undo


def check_keys(data: dict[str, Any], who: str) -> None:
    """Raises `ValueError` unless a dictionary has images, and nothing that is unknown.

    Args:
        data: The dictionary.
        who: The name of the caller, for the message.
    """
    for key in data:
        if key not in KEYS:
            raise ValueError(
                f"{who} does not know what to do with {key!r}. Known are {KEYS}. "
                f"{did_you_mean(str(key), KEYS)} Received: keys {list(data)}"
            )
    if "images" not in data:
        raise ValueError(f"{who} needs a dictionary with 'images'. Received: keys {list(data)}")


def check_images(images: Any, who: str) -> None:
    """Raises `ValueError` unless images have a shape and a data type that a layer takes.

    Args:
        images: Tensor.
        who: The name of the caller, for the message.
    """
    shape, dtype = static_shape(images), keras.backend.standardize_dtype(images.dtype)
    if shape is None or len(shape) not in (3, 4):
        raise ValueError(
            f"{who} takes one image of rank 3 or a batch of images of rank 4. "
            f"Received: images of shape {shape or 'unknown'}"
        )
    if 0 in shape[-3:]:
        raise ValueError(
            "Images must have at least one pixel and one channel. "
            f"Received: images of shape {shape}"
        )
    if dtype != "uint8" and dtype not in FLOATS:
        raise ValueError(
            "Images must be of type uint8 or float; cast them to one of these. "
            f"Received: images of type {dtype}"
        )


def check_masks(masks: Any, images: Any, channels_first: bool) -> None:
    """Raises `ValueError` unless masks have a shape that fits to the images.

    Args:
        masks: Tensor.
        images: Tensor of rank 3 or 4.
        channels_first: Whether the channels come before the height.
    """
    shape, masks_shape = static_shape(images), static_shape(masks)
    expected = shape[:-3] + (shape[-2:] if channels_first else shape[-3:-1])
    received = masks_shape
    if masks_shape is not None and len(masks_shape) == len(shape):
        received = shape[:-3] and masks_shape[:1]
        received += masks_shape[-2:] if channels_first else masks_shape[-3:-1]
    if (
        received is None
        or len(received) != len(expected)
        or any(a != b for a, b in zip(received, expected, strict=True) if None not in (a, b))
    ):
        raise ValueError(
            "Segmentation masks must have the height and width of the images, and the batch "
            f"and channel axes where these have them (the latter may be left out). Received: "
            f"masks of shape {masks_shape or 'unknown'} for images of shape {shape}"
        )
