"""Several augmentation layers and the normalization behind them, as one layer."""

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.composite_layer import CompositeLayer
from keras_optkit.core.serialization import register


@register
class AugmentationPipeline(CompositeLayer):
    """Applies layers one after the other, in as few passes as possible, and normalizes.

    What the members do to an image is fused: neighbours that move pixels are composed into one
    resampling, and neighbours that change colors into one pass. So two `RandomAffine` blur an
    image as little as one, and what the first moves out of the picture the second may move back in.

    In training and inference alike, images are then normalized: they come out as
    `(rescale * image - mean) / std` in the compute data type of the layer. Without any of the three
    uint8 images stay uint8. In inference that is all that happens, but that a `RandomResizedCrop`
    among the members cuts out the middle. `MixUp` and `CutMix` may be members, and then the layer
    stands in front of the model, as these do. See `AugmentationLayer` for what it can be called on
    and when it augments.

    Args:
        layers: List of augmentation layers. Their own seeds are not used.
        rescale: Number to multiply images with, or `None`.
        mean: Number, or a list with one number per channel, to subtract from rescaled images.
        std: Number, or a list with one number per channel, to divide by then.
        value_range: Pair of numbers, the lowest and the highest value of float images. Defaults to
            that of the members, and without one to (0, 255) if `rescale` is 1 / 255.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `bounding_box_format`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range, or the members do not fit together.

    Example:

    ```python
    augment = AugmentationPipeline(
        [RandomResizedCrop(224, 224), RandomAffine(rotation=10, horizontal_flip=True)],
        mean=[0.485, 0.456, 0.406],
        std=[0.229, 0.224, 0.225],
    )
    train = augment.map(train)
    validation = validation.map(lambda x, y: augment(x, y, training=False))
    ```
    """

    _takes_all = True

    def __init__(
        self,
        layers: Sequence[AugmentationLayer],
        rescale: float | None = 1 / 255,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        value_range: tuple[float, float] | None = None,
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        if rescale is not None and (not _is_number(rescale) or rescale == 0):
            raise ValueError(
                "`rescale` must be a finite number other than 0, or None. "
                f"Received: rescale={rescale!r}"
            )
        super().__init__(layers, value_range, seed=seed, data_format=data_format, **kwargs)
        if self.value_range is None and rescale == 1 / 255:
            self.value_range = (0.0, 255.0)
        self.rescale = rescale
        self.mean = _per_channel("mean", mean)
        self.std = _per_channel("std", std, above_zero=True)

    @property
    def normalizes(self):
        return not (self.rescale is None and self.mean is None and self.std is None)

    def sample(self, draw, height, width):
        table = {}
        for i, layer in enumerate(self.layers):
            table[str(i)] = layer.sample(draw, height, width)
            height, width = layer.output_size(height, width)
        return table

    def sample_inference(self, ones, height, width):
        table = {}
        for i, layer in enumerate(self.layers):
            still = layer.sample_inference(ones, height, width)
            if still is not None:
                table[str(i)] = still
            height, width = layer.output_size(height, width)
        return table or None

    def output_size(self, height, width):
        for layer in self.layers:
            height, width = layer.output_size(height, width)
        return height, width

    def stages(self, table, height, width):
        stages = []
        for i, layer in enumerate(self.layers):
            if str(i) in table:
                stages += layer.stages(table[str(i)], height, width)
            height, width = layer.output_size(height, width)
        return stages

    def augment_labels(self, labels, table):
        for i, layer in enumerate(self.layers):
            if layer._changes_labels:
                labels = layer.augment_labels(labels, (table or {}).get(str(i)))
        return labels

    def finish_images(self, images):
        if not self.normalizes:
            return super().finish_images(images)
        ops = ops_for(images)
        mean, std = (np.asarray(x, "float64") for x in (self.mean or 0.0, self.std or 1.0))
        scale, offset = (self.rescale or 1.0) / std, -mean / std
        images = ops.cast(images, "float32") * scale.astype("float32") + offset.astype("float32")
        return ops.cast(images, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "rescale": self.rescale,
            "mean": self.mean,
            "std": self.std,
        }

    def _output_dtype(self, dtype):
        return self.compute_dtype if self.normalizes else super()._output_dtype(dtype)

    def _check_own(self, data):
        super()._check_own(data)
        channels = data["images"].shape[-3 if self._channels_first else -1]
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and channels not in (None, len(value)):
                raise ValueError(
                    f"`{name}` must be one number or one for each channel of the images. "
                    f"Received: {name}={value} for {channels} channels"
                )

    def _check_label_values(self, labels):
        next(layer for layer in self.layers if layer._changes_labels)._check_label_values(labels)

    def _label_columns(self, shape):
        first = next(layer for layer in self.layers if layer._changes_labels)
        return first._label_columns(shape)


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, numbers.Real) and not isinstance(value, bool) and bool(np.isfinite(value))
    )


def _per_channel(name: str, value: Any, above_zero: bool = False) -> Any:
    if value is None:
        return None
    value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    value = tuple(value) if isinstance(value, (tuple, list)) else value
    values = value if isinstance(value, tuple) else (value,)
    if not values or not all(_is_number(x) and (x > 0 or not above_zero) for x in values):
        raise ValueError(
            f"`{name}` must be a finite number{' above 0' if above_zero else ''}, or a list with "
            f"one for each channel. Received: {name}={value!r}"
        )
    return value
