"""The host engine: stages on NumPy arrays, image by image, by OpenCV."""

import itertools
from collections.abc import Sequence

import numpy as np

from keras_optkit.augmentation.backend import on_the_host
from keras_optkit.augmentation.stages import Range, Stage, needs_scale, rescaled


def apply_on_host(
    images: np.ndarray, stages: Sequence[Stage], value_range: Range | None = None
) -> np.ndarray:
    """Applies stages to a batch, as `apply` does, with nothing done where nothing changes.

    Args:
        images: Array of shape (batch, height, width, channels), uint8 or float. It stays as it is.
        stages: The stages in their order, with NumPy arrays for tensors.
        value_range: A pair (low, high), the black and the white of float images.

    Returns:
        A new array of type uint8 for images of type uint8 and else float32.
    """
    whole = images.dtype == np.uint8
    if not whole:
        images = images.astype("float32", copy=False)
    scaled = not whole and needs_scale(stages, value_range)
    if scaled:
        low, high = value_range
        scale = np.float32((high - low) / 255)
        images = (images - np.float32(low)) / scale
        stages = [rescaled(stage, value_range) for stage in stages]
    with on_the_host():
        for whole_batch, group in itertools.groupby(stages, lambda stage: stage.whole_batch):
            if whole_batch:
                for stage in group:
                    images = stage.on_arrays(images)
            else:
                images = _image_by_image(images, list(group))
    if scaled:
        # A rounding error must not take an image out of its range.
        images = np.clip(images * scale + np.float32(low), *np.float32(value_range))
    return images


def _image_by_image(images: np.ndarray, stages: list[Stage]) -> np.ndarray:
    to_do = [~stage.does_nothing() for stage in stages]
    outputs = None
    for i in range(len(images)):
        image = images[i]
        for stage, needed in zip(stages, to_do, strict=True):
            if needed[i]:
                image = stage.on_image(image, i)
        if outputs is None:
            outputs = np.empty((len(images), *image.shape), image.dtype)
        outputs[i] = image
    return images if outputs is None else outputs
