"""The base of the layers that choose operations from a list."""

import numbers
from typing import Any

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.policies import operation_stages
from keras_optkit.augmentation.warp import check_sampling


class PolicyLayer(AugmentationLayer):
    """Applies operations to each image that are chosen and measured out for it.

    A subclass draws a table of `"operations"` (int32) and `"values"` (float32), each of shape
    (batch, steps), see `policies`.

    Args:
        value_range: Pair of numbers, the black and the white of float images. Those of uint8
            images are 0 and 255.
        interpolation: `"bilinear"` or `"nearest"`. Masks are always `"nearest"`.
        fill_mode: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`, see `warp`.
        fill_value: Number that `"constant"` fills with, or `None` for middle grey.
        **kwargs: See `AugmentationLayer`.

    Raises:
        ValueError: If an argument is none of these.
    """

    # The operations that the table may hold.
    _operations: tuple[str, ...] = ()

    def __init__(
        self,
        value_range: tuple[float, float] = (0, 255),
        interpolation: str = "bilinear",
        fill_mode: str = "constant",
        fill_value: float | None = None,
        **kwargs,
    ):
        super().__init__(value_range=value_range, **kwargs)
        check_sampling(interpolation, fill_mode, 0.0 if fill_value is None else fill_value)
        self.interpolation = interpolation
        self.fill_mode = fill_mode
        self.fill_value = fill_value

    def stages(self, table, height, width):
        return self._operation_stages(table["operations"], table["values"], height, width)

    def get_config(self):
        return {
            **super().get_config(),
            "value_range": self.value_range,
            "interpolation": self.interpolation,
            "fill_mode": self.fill_mode,
            "fill_value": self.fill_value,
        }

    def _operation_stages(self, operations, values, height, width):
        return operation_stages(
            operations,
            values,
            height,
            width,
            self._operations,
            self.interpolation,
            self.fill_mode,
            self.fill_value,
        )

    def _check(self, data):
        super()._check(data)
        check_channels(self, data["images"])


def check_channels(layer: AugmentationLayer, images: Any) -> None:
    """Raises `ValueError` unless images are grey or in three colors."""
    axis = -3 if layer.data_format == "channels_first" else -1
    if images.shape[axis] not in (1, 3):
        raise ValueError(
            f"{type(layer).__name__} changes colors, so images must have 1 channel (grey) or 3 "
            f"(red, green, blue). Received: images of shape {tuple(images.shape)} with "
            f"data_format={layer.data_format!r}"
        )


def check_number(name: str, value: Any, low: float, high: float, allowed: str) -> float:
    """Returns a number if it is in [low, high], and raises `ValueError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not low <= value <= high:
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    return value


def check_count(name: str, value: Any, low: int = 1) -> int:
    """Returns an integer if it is at least `low`, and raises `ValueError` otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ValueError(
            f"`{name}` must be an integer of {low} or more. Received: {name}={value!r}"
        )
    return int(value)


def whole_number(draws: Any, count: int, ops: Any) -> Any:
    """Turns random numbers in [0, 1) into int32 numbers in [0, count)."""
    return ops.cast(ops.minimum(ops.floor(draws * count), count - 1), "int32")
