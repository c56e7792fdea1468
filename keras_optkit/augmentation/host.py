"""The host engine: stages on NumPy arrays, image by image, by OpenCV."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_optkit.augmentation.backend import on_the_host, ops_for
from keras_optkit.augmentation.inputs import is_uint8
from keras_optkit.augmentation.stages import (
    Range,
    Stage,
    flatten,
    needs_scale,
    output_shape,
    rescaled,
    unflatten,
)


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


def apply_on_host_eagerly(
    images: Any, stages: Sequence[Stage], value_range: Range | None = None
) -> Any:
    """Does what `apply_on_host` does with tensors that have values now, in the memory of the CPU.

    Args:
        images: Tensor of shape (batch, height, width, channels), uint8 or float.
        stages: The stages in their order.
        value_range: A pair (low, high), or `None`.

    Returns:
        A tensor of the backend.
    """
    ops = ops_for(images)
    arrays = [ops.convert_to_numpy(tensor) for tensor in flatten(stages)]
    stages = unflatten(stages, arrays)
    return ops.convert_to_tensor(apply_on_host(ops.convert_to_numpy(images), stages, value_range))


def apply_on_host_from_graph(
    images: Any, stages: Sequence[Stage], value_range: Range | None = None
) -> Any:
    """Puts `apply_on_host` into a graph of TensorFlow, such as that of a `tf.data` pipeline.

    Args:
        images: Tensor of TensorFlow of shape (batch, height, width, channels), uint8 or float.
        stages: The stages in their order.
        value_range: A pair (low, high), or `None`.

    Returns:
        A tensor of TensorFlow.
    """
    import tensorflow as tf

    def augment(images, *tensors):
        return apply_on_host(images, unflatten(stages, tensors), value_range)

    dtype = images.dtype if is_uint8(images) else tf.float32
    outputs = tf.numpy_function(augment, [images, *flatten(stages)], dtype, stateful=False)
    outputs.set_shape(output_shape(images.shape, stages))
    return outputs


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
