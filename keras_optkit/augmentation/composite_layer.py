"""What layers that are made of other augmentation layers share."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.value_range import check_value_range


class CompositeLayer(AugmentationLayer):
    """The base of layers that apply the stages of other layers.

    The members give their samplers and their stages. They draw from the composite's stream, and
    seeds of their own are not used.

    Args:
        layers: The members, `AugmentationLayer`s that come to stages.
        value_range: Pair of numbers, or `None` for that of the members.
        **kwargs: `seed`, `data_format`, `bounding_box_format`, `name` and `dtype`.

    Raises:
        ValueError: If a member is no such layer, or does not fit to the others.
    """

    # Whether members may change the size of images, and labels.
    _takes_all = False

    def __init__(
        self,
        layers: Sequence[AugmentationLayer],
        value_range: tuple[float, float] | None = None,
        **kwargs,
    ):
        layers = list(layers) if isinstance(layers, (tuple, list)) else [layers]
        for layer in layers:
            _check_member(layer, type(self))
        super().__init__(value_range=_common_range(layers, value_range), **kwargs)
        for layer in layers:
            if layer.data_format != self.data_format:
                raise ValueError(
                    f"All layers must have the same `data_format`. Received: {self.data_format!r} "
                    f"for {self.name!r} and {layer.data_format!r} for {layer.name!r}"
                )
        self.layers = layers
        self._changes_labels = any(layer._changes_labels for layer in layers)

    def build(self, input_shape):
        # The members have nothing to build, and are never called.
        for layer in self.layers:
            layer.build(input_shape)

    def get_config(self):
        return {
            **super().get_config(),
            "layers": [keras.saving.serialize_keras_object(layer) for layer in self.layers],
        }

    @classmethod
    def from_config(cls, config):
        layers = [keras.saving.deserialize_keras_object(layer) for layer in config["layers"]]
        return cls(**{**config, "layers": layers})

    def _check_own(self, data):
        for layer in self.layers:
            layer._check_own(data)


def _check_member(layer: Any, composite: type) -> None:
    who = composite.__name__
    if not isinstance(layer, AugmentationLayer):
        raise ValueError(
            f"{who} takes augmentation layers of keras_optkit; put other layers in front of it or "
            f"behind it. Received: {layer!r}"
        )
    if layer.normalizes:
        raise ValueError(
            f"{who} takes no layers that end in a normalization of their own; rescale behind it, "
            f"as `AugmentationPipeline(..., rescale=1/255)` does. Received: {layer.name!r}"
        )
    if type(layer).stages is AugmentationLayer.stages:
        raise ValueError(
            f"{who} takes layers that have `stages`. Received: {type(layer).__name__}, which has "
            "none"
        )
    changes_size = layer.output_size(None, None) != (None, None)
    if not composite._takes_all and (layer._changes_labels or changes_size):
        what = "the size of images" if changes_size else "labels"
        raise ValueError(
            f"{who} can't apply a layer to some images only that changes {what}. Put it into an "
            f"AugmentationPipeline. Received: {layer.name!r}, a {type(layer).__name__}"
        )


def _common_range(layers: Sequence[AugmentationLayer], value_range: Any) -> Any:
    given = {"the layer itself": check_value_range(value_range)}
    given.update({layer.name: layer.value_range for layer in layers})
    given = {name: limits for name, limits in given.items() if limits is not None}
    if len(set(given.values())) > 1:
        raise ValueError(
            "All layers must have the same `value_range`; pass it to each of them. "
            f"Received: {given}"
        )
    return next(iter(given.values()), None)
