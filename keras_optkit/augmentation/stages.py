"""What a sampled table turns into: a list of stages, which both engines apply one after the other.

A stage is one pass over a batch in which every image has its own parameters, those that change
nothing included. The graph engine (`apply`) runs it on a batch of tensors, the host engine (`host`)
on one NumPy array after the other, and leaves out what does nothing for an image.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from keras_optkit.augmentation.backend import is_compiled_for_cpu, ops_for

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """The base of all stages.

    The fields of a stage are tensors with the batch as their first axis, or settings that all
    images share: strings, numbers, tuples of numbers, `None`, or tuples of tuples of stages.
    """

    # Whether it moves pixels, so that masks and boxes have to follow.
    geometric: ClassVar[bool] = False
    # Whether an image depends on others of its batch. The host engine then calls `on_arrays`.
    whole_batch: ClassVar[bool] = False
    # Whether it knows values by a scale of [0, 255], to which images of other ranges are brought.
    scaled: ClassVar[bool] = True
    # Whether a pixel of the result depends on the same pixel alone. Otherwise whatever comes before
    # it should be done by then, or XLA does it again for each pixel that is read.
    local: ClassVar[bool] = False
    # Whether the host engine is worth the way to it for this stage.
    cheaper_on_host: ClassVar[bool] = True

    def gated(self, on: Any) -> "Stage":
        """Returns the same stage, doing nothing to the images where `on` is `False`.

        Args:
            on: Boolean tensor of shape (batch,).
        """
        raise NotImplementedError

    def on_batch(self, images: Any) -> Any:
        """Applies the stage to tensors.

        Args:
            images: Tensor of shape (batch, height, width, channels), uint8 or float32.

        Returns:
            A tensor of the same data type.
        """
        raise NotImplementedError

    def on_masks(self, masks: Any) -> Any:
        """Applies the stage, if it is geometric, to masks of shape (batch, height, width, n)."""
        return masks

    def on_boxes(self, corners: Any) -> Any:
        """Applies the stage, if it is geometric, to boxes of shape (batch, boxes, 4).

        Args:
            corners: Float32 tensor, see `to_corners`.
        """
        return corners

    def on_image(self, image: Any, i: int) -> Any:
        """Applies the stage, of which the tensors are NumPy arrays, to one image.

        Args:
            image: Array of shape (height, width, channels), uint8 or float32. It stays as it is.
            i: Integer, the row of the image in the batch.

        Returns:
            An array of the same data type, which may be `image` itself.
        """
        raise NotImplementedError

    def does_nothing(self) -> Any:
        """Returns a boolean tensor of shape (batch,): the images that it leaves as they are."""
        raise NotImplementedError

    def describe(self, i: int, size: tuple[int, int]) -> str:
        """Returns in a few words what the stage, with NumPy arrays for tensors, does to one image.

        Args:
            i: Integer, the row of the image in the batch.
            size: The height and width of the image.
        """
        return type(self).__name__.lower()

    def fused(self, following: "Stage") -> "Stage | None":
        """Returns one stage for this one and the one behind it, or `None` where it takes two."""
        return None


def fuse(stages: Sequence[Stage]) -> list[Stage]:
    """Composes neighbouring stages into one where they can be.

    Neighbouring affine stages with the same edges and interpolation become one resampling. It is
    less blurred than two, and what one moves out of the picture the next one may move back in.

    Args:
        stages: The stages in their order.

    Returns:
        A list of stages, none longer than the first.
    """
    result: list[Stage] = []
    for stage in stages:
        both = result[-1].fused(stage) if result else None
        if both is None:
            result.append(stage)
        else:
            result[-1] = both
    return result


def apply(images: Any, stages: Sequence[Stage], value_range: Range | None = None) -> Any:
    """The graph engine: applies stages to a batch of tensors, on every backend and under XLA.

    Args:
        images: Tensor of shape (batch, height, width, channels), uint8 or float.
        stages: The stages in their order.
        value_range: A pair (low, high), the black and the white of float images. Those of uint8
            images are 0 and 255. `None` for stages that need to know neither.

    Returns:
        A tensor of type uint8 for images of type uint8 and else float32. Between the stages uint8
        images are rounded.
    """
    ops = ops_for(images)
    if not stages:
        return images
    whole = keras.backend.standardize_dtype(images.dtype) == "uint8"
    if not whole:
        images = ops.cast(images, "float32")
    if whole or not needs_scale(stages, value_range):
        return run(images, stages)
    low, high = value_range
    scale = (high - low) / 255
    images = run((images - low) / scale, [rescaled(stage, value_range) for stage in stages])
    # A rounding error must not take an image out of its range.
    return ops.clip(images * scale + low, low, high)


def output_shape(shape: Any, stages: Sequence[Stage]) -> list:
    """Returns the shape of a batch, with `None` for what is not known, behind the stages."""
    batch, height, width, channels = shape
    for stage in stages:
        height, width = getattr(stage, "size", None) or (height, width)
    return [batch, height, width, channels]


def run(images: Any, stages: Sequence[Stage]) -> Any:
    """Applies stages to a batch of tensors on the scale that the stages know."""
    for whole_batch, group in itertools.groupby(stages, lambda stage: stage.whole_batch):
        group = list(group)
        if (
            not whole_batch
            and not all(stage.local for stage in group[1:])
            and is_compiled_for_cpu(images)
        ):
            images = _image_by_image(images, group)
        else:
            for stage in group:
                images = stage.on_batch(images)
    return images


def _image_by_image(images: Any, stages: list[Stage]) -> Any:
    """Applies stages in a loop over the images, in which each leaves out what does nothing to it.

    A processor without many lanes gains from what is left out. And no stage can be merged with the
    one before it, which XLA would then compute once for each pixel that a resampling reads.
    """
    ops = ops_for(images)
    batch, *size = output_shape(ops.shape(images), stages)
    needed = [ops.logical_not(stage.does_nothing()) for stage in stages]
    tensors = flatten(stages)

    def row(tensor, i):
        start = (i, *(0 for _ in tensor.shape[1:]))
        return ops.slice(tensor, start, (1, *ops.shape(tensor)[1:]))

    def step(i, outputs):
        image = row(images, i)
        own = unflatten(stages, [row(tensor, i) for tensor in tensors])
        for stage, flags in zip(own, needed, strict=True):
            image = _applied_if(ops.reshape(row(flags, i), ()), stage, image, ops)
        return i + 1, ops.slice_update(outputs, (i, 0, 0, 0), image)

    start = ops.convert_to_tensor(0, "int32")
    outputs = ops.zeros((batch, *size), images.dtype)
    return ops.while_loop(lambda i, _: i < batch, step, (start, outputs))[1]


def _applied_if(flag: Any, stage: Stage, image: Any, ops: Any) -> Any:
    if getattr(stage, "size", None) is not None:
        return stage.on_batch(image)
    return ops.cond(flag, lambda: stage.on_batch(image), lambda: image)


def needs_scale(stages: Sequence[Stage], value_range: Range | None) -> bool:
    """Whether float images have to be brought to [0, 255] for the stages."""
    return value_range not in (None, (0.0, 255.0)) and any(stage.scaled for stage in stages)


def rescaled(stage: Stage, value_range: Range) -> Stage:
    """Returns the stage for images that were brought from a range to [0, 255]."""
    low, high = value_range

    def brought(value):
        return None if value is None else (value - low) * 255 / (high - low)

    if hasattr(stage, "fill_value"):
        value = stage.fill_value
        value = tuple(map(brought, value)) if isinstance(value, tuple) else brought(value)
        return dataclasses.replace(stage, fill_value=value)
    return stage


def like(values: Any, images: Any) -> Any:
    """Returns float32 values in the data type of images, rounded and limited if it is uint8."""
    if keras.backend.standardize_dtype(images.dtype) != "uint8":
        return values
    ops = ops_for(values)
    return ops.cast(ops.clip(ops.round(values), 0, 255), "uint8")


def per_image(values: Any) -> Any:
    """Gives values of shape (batch,) the shape (batch, 1, 1, 1)."""
    return values[:, None, None, None]


def flatten(stages: Sequence[Stage]) -> list[Any]:
    """Returns all tensors of the stages, in an order that `unflatten` knows."""
    tensors = []
    for stage in stages:
        for field in dataclasses.fields(stage):
            value = getattr(stage, field.name)
            if _is_nest(value):
                tensors += [tensor for chain in value for tensor in flatten(chain)]
            elif _is_tensor(value):
                tensors.append(value)
    return tensors


def unflatten(stages: Sequence[Stage], tensors: Sequence[Any]) -> list[Stage]:
    """Returns the stages with other tensors in the places of their own.

    Args:
        stages: The stages that were given to `flatten`.
        tensors: As many tensors or arrays as `flatten` returned.
    """
    return _unflatten(stages, iter(tensors))


def _unflatten(stages, tensors):
    result = []
    for stage in stages:
        changes = {}
        for field in dataclasses.fields(stage):
            value = getattr(stage, field.name)
            if _is_nest(value):
                changes[field.name] = tuple(tuple(_unflatten(chain, tensors)) for chain in value)
            elif _is_tensor(value):
                changes[field.name] = next(tensors)
        result.append(dataclasses.replace(stage, **changes))
    return result


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _is_nest(value: Any) -> bool:
    return isinstance(value, tuple) and any(
        isinstance(chain, tuple) and any(isinstance(stage, Stage) for stage in chain)
        for chain in value
    )
