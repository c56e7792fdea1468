"""The augmentation of Keras' `ImageDataGenerator`, as a layer."""

import dataclasses
import math
import numbers
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from keras_optkit.augmentation.affine import about_centre, as_range, flip_signs
from keras_optkit.augmentation.affine_stage import Affine
from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.stages import Stage, like, per_image
from keras_optkit.augmentation.warp import check_sampling
from keras_optkit.core.serialization import register

_NORMALIZATION = "use `keras.layers.Normalization`, adapted to the data, behind the layer"


def from_image_data_generator(
    featurewise_center: bool = False,
    samplewise_center: bool = False,
    featurewise_std_normalization: bool = False,
    samplewise_std_normalization: bool = False,
    zca_whitening: bool = False,
    zca_epsilon: float = 1e-6,
    rotation_range: float = 0,
    width_shift_range: Any = 0.0,
    height_shift_range: Any = 0.0,
    brightness_range: tuple[float, float] | None = None,
    shear_range: float = 0.0,
    zoom_range: float | tuple[float, float] = 0.0,
    channel_shift_range: float = 0.0,
    fill_mode: str = "nearest",
    cval: float = 0.0,
    horizontal_flip: bool = False,
    vertical_flip: bool = False,
    rescale: float | None = None,
    preprocessing_function: Callable | None = None,
    data_format: str | None = None,
    validation_split: float = 0.0,
    interpolation_order: int = 1,
    dtype: str | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> "ImageDataGeneratorLayer":
    """Turns the arguments of an `ImageDataGenerator` into one layer that does the same.

    It takes the arguments of `ImageDataGenerator`, with their names, their order and their
    defaults, and those that no layer can do raise an error that says what to use. `seed` and
    `name` are the layer's. What the layer does, and where it differs, is told in
    `ImageDataGeneratorLayer`.

    Args:
        featurewise_center: Refused: it is `keras.layers.Normalization`.
        samplewise_center: Boolean, whether to set the mean of each image to 0.
        featurewise_std_normalization: Refused: it is `keras.layers.Normalization`.
        samplewise_std_normalization: Boolean, whether to divide each image by its deviation.
        zca_whitening: Refused: it needs a matrix that is fitted to the data.
        zca_epsilon: Number, which only `zca_whitening` would use.
        rotation_range: Degrees r, for (-r, r).
        width_shift_range: A float below 1 is a share r of the width, for (-r, r), and one from 1
            on is in pixels. An integer n stands for whole pixels in the open interval (-n, n). A
            list holds the shifts to choose from, in pixels, or shares if all are below 1.
        height_shift_range: The same for the height.
        brightness_range: A pair (low, high) of factors >= 0.
        shear_range: Degrees r, for (-r, r).
        zoom_range: A share r for (1 - r, 1 + r), or a pair (low, high). Height and width draw
            their own, and what is above 1 shrinks, as it always did.
        channel_shift_range: Number r: something in (-r, r) is added to all pixels of an image,
            which are then clipped to where they were.
        fill_mode: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`.
        cval: Number that `"constant"` fills with.
        horizontal_flip: Boolean, whether to mirror half of the images left to right.
        vertical_flip: Boolean, whether to mirror half of the images top to bottom.
        rescale: Number to multiply with at the end, or `None`.
        preprocessing_function: Refused: it is a step behind the layer.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        validation_split: Refused: it is for whatever reads the files.
        interpolation_order: 0 (nearest) or 1 (bilinear).
        dtype: The data type of the outputs. Defaults to the setting of Keras.
        seed: Integer, or `None` for draws that differ from run to run.
        name: String, the name of the layer.

    Returns:
        An `ImageDataGeneratorLayer`.

    Raises:
        ValueError: If an argument is refused or out of range.

    Example:

    ```python
    augment = from_image_data_generator(
        rotation_range=20,
        width_shift_range=0.2,
        height_shift_range=0.2,
        horizontal_flip=True,
        vertical_flip=True,
        rescale=1 / 255,
    )
    train = augment.map(train)
    validation = validation.map(lambda x, y: (augment(x, training=False), y))
    ```
    """
    refused = {
        "featurewise_center": (featurewise_center, _NORMALIZATION),
        "featurewise_std_normalization": (featurewise_std_normalization, _NORMALIZATION),
        "zca_whitening": (
            zca_whitening,
            "fit the whitening matrix with NumPy and multiply by it in a layer behind this one",
        ),
        "preprocessing_function": (
            preprocessing_function,
            "call it on the layer's outputs, as in `dataset.map(lambda x, y: (f(layer(x)), y))`, "
            "and move `rescale`, which comes after it, behind it too",
        ),
        "validation_split": (
            validation_split,
            "split the data where it is read, as in `keras.utils.image_dataset_from_directory("
            "..., validation_split=0.2, subset='both', seed=0)`",
        ),
    }
    for argument, (value, instead) in refused.items():
        if value:
            raise ValueError(
                f"`{argument}` can't be a part of the layer; {instead}. "
                f"Received: {argument}={value!r}"
            )
    return ImageDataGeneratorLayer(
        samplewise_center=samplewise_center,
        samplewise_std_normalization=samplewise_std_normalization,
        rotation_range=rotation_range,
        width_shift_range=width_shift_range,
        height_shift_range=height_shift_range,
        brightness_range=brightness_range,
        shear_range=shear_range,
        zoom_range=zoom_range,
        channel_shift_range=channel_shift_range,
        fill_mode=fill_mode,
        cval=cval,
        horizontal_flip=horizontal_flip,
        vertical_flip=vertical_flip,
        rescale=rescale,
        data_format=data_format,
        interpolation_order=interpolation_order,
        dtype=dtype,
        seed=seed,
        name=name,
    )


@register
class ImageDataGeneratorLayer(AugmentationLayer):
    """Augments and rescales images as Keras' `ImageDataGenerator` did.

    In training an image is zoomed, sheared, shifted and rotated, in one resampling, then its
    channels are shifted, it is flipped, and its brightness is changed. In training and inference
    it is then rescaled, centred and divided by its deviation. It comes out in the compute data type
    of the layer, whatever went in. See `AugmentationLayer` for what it can be called on and when
    it augments.

    It follows the generator's documentation where its code does not: the code swaps the height
    and the width of images that are not square, and shifts them along the wrong axis. At the
    edge, `"constant"` and `"wrap"` are what `warp` says they are (the generator's `"constant"`
    doesn't interpolate with the fill value, and its `"wrap"` skips a pixel), and changing the
    brightness doesn't round to whole numbers first.

    Args:
        samplewise_center: See `from_image_data_generator` for this and all of the following.
        samplewise_std_normalization: Boolean. It centres, too.
        rotation_range: Number in [0, 360].
        width_shift_range: Number >= 0 or a list of numbers.
        height_shift_range: Number >= 0 or a list of numbers.
        brightness_range: A pair of numbers, 0 <= low <= high, or `None`.
        shear_range: Number in [0, 90].
        zoom_range: Number in [0, 1), or a pair of numbers, 0 < low <= high.
        channel_shift_range: Number >= 0.
        fill_mode: String.
        cval: Number.
        horizontal_flip: Boolean.
        vertical_flip: Boolean.
        rescale: Number, or `None`.
        interpolation_order: 0 or 1.
        **kwargs: `seed`, `data_format`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range.
    """

    _DRAWS = 12

    def __init__(
        self,
        samplewise_center: bool = False,
        samplewise_std_normalization: bool = False,
        rotation_range: float = 0,
        width_shift_range: Any = 0.0,
        height_shift_range: Any = 0.0,
        brightness_range: tuple[float, float] | None = None,
        shear_range: float = 0.0,
        zoom_range: float | tuple[float, float] = 0.0,
        channel_shift_range: float = 0.0,
        fill_mode: str = "nearest",
        cval: float = 0.0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        rescale: float | None = None,
        interpolation_order: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if interpolation_order not in (0, 1):
            raise ValueError(
                "`interpolation_order` must be 0 (nearest) or 1 (bilinear). "
                f"Received: interpolation_order={interpolation_order!r}"
            )
        self._interpolation = ("nearest", "bilinear")[interpolation_order]
        check_sampling(self._interpolation, fill_mode, cval)
        self._zoom = as_range("zoom_range", zoom_range, _ZOOM, centre=1.0)
        if self._zoom[0] <= 0:
            raise ValueError(f"`zoom_range` must be {_ZOOM}. Received: zoom_range={zoom_range!r}")
        self._brightness = _brightness(brightness_range)
        self._shifts = (
            _Shift("height_shift_range", height_shift_range),
            _Shift("width_shift_range", width_shift_range),
        )
        self.samplewise_center = samplewise_center
        self.samplewise_std_normalization = samplewise_std_normalization
        self.rotation_range = _number("rotation_range", rotation_range, 0, 360)
        self.width_shift_range = self._shifts[1].value
        self.height_shift_range = self._shifts[0].value
        self.brightness_range = brightness_range
        self.shear_range = _number("shear_range", shear_range, 0, 90)
        self.zoom_range = zoom_range
        self.channel_shift_range = _number("channel_shift_range", channel_shift_range, low=0)
        self.fill_mode = fill_mode
        self.cval = cval
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.rescale = None if rescale is None else _number("rescale", rescale)
        self.interpolation_order = interpolation_order

    @property
    def normalizes(self):
        return True

    def sample(self, draw, height, width):
        draws = draw(self._DRAWS)
        ops = ops_for(draws)
        height, width = ops.cast(height, "float32"), ops.cast(width, "float32")

        def between(column, low, high):
            return low + (high - low) * draws[:, column]

        turn, lean = math.radians(self.rotation_range), math.radians(self.shear_range)
        angle, lean = between(0, -turn, turn), between(1, -lean, lean)
        down = self._shifts[0].draw(draws[:, 2], draws[:, 3], height)
        right = self._shifts[1].draw(draws[:, 4], draws[:, 5], width)
        scale_x = between(6, *self._zoom) * flip_signs(self.horizontal_flip, draws[:, 8])
        scale_y = between(7, *self._zoom) * flip_signs(self.vertical_flip, draws[:, 9])

        # The generator's inverse: rotation @ shift @ shear @ zoom, and then the flip.
        cos, sin = ops.cos(angle), ops.sin(angle)
        a, b = cos * scale_x, -ops.sin(angle + lean) * scale_y
        c, d = sin * scale_x, ops.cos(angle + lean) * scale_y
        offset = (cos * right - sin * down, sin * right + cos * down)
        table = {"matrices": about_centre(((a, b), (c, d)), offset, height, width)}
        if self.channel_shift_range:
            table["channel_shift"] = between(
                10, -self.channel_shift_range, self.channel_shift_range
            )
        if self._brightness:
            table["brightness"] = between(11, *self._brightness)
        return table

    def begin_images(self, images):
        return ops_for(images).cast(images, "float32")

    def stages(self, table, height, width):
        stages = [Affine(table["matrices"], self._interpolation, self.fill_mode, self.cval)]
        if "channel_shift" in table:
            stages.append(ChannelShift(table["channel_shift"]))
        if "brightness" in table:
            stages.append(Brightness(table["brightness"]))
        return stages

    def finish_images(self, images):
        ops = ops_for(images)
        images = ops.cast(images, "float32")
        if self.rescale:
            images = images * self.rescale
        if self.samplewise_center or self.samplewise_std_normalization:
            images = images - ops.mean(images, axis=(1, 2, 3), keepdims=True)
        if self.samplewise_std_normalization:
            images = images / (ops.std(images, axis=(1, 2, 3), keepdims=True) + 1e-6)
        return ops.cast(images, self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "samplewise_center": self.samplewise_center,
            "samplewise_std_normalization": self.samplewise_std_normalization,
            "rotation_range": self.rotation_range,
            "width_shift_range": self.width_shift_range,
            "height_shift_range": self.height_shift_range,
            "brightness_range": self.brightness_range,
            "shear_range": self.shear_range,
            "zoom_range": self.zoom_range,
            "channel_shift_range": self.channel_shift_range,
            "fill_mode": self.fill_mode,
            "cval": self.cval,
            "horizontal_flip": self.horizontal_flip,
            "vertical_flip": self.vertical_flip,
            "rescale": self.rescale,
            "interpolation_order": self.interpolation_order,
        }

    def _output_dtype(self, dtype):
        return self.compute_dtype


class _Shift:
    """One of the generator's two shift ranges, which mean different things by their type."""

    def __init__(self, name: str, value: Any):
        self.value = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        self._choices = None
        if isinstance(self.value, (tuple, list)):
            self._choices = [_number(name, choice) for choice in self.value]
        else:
            self._range = _number(name, self.value, low=0)
            if isinstance(self.value, int):
                self._choices = list(range(self.value))
        largest = self._range if self._choices is None else max(self._choices, default=0)
        self._in_pixels = largest >= 1

    def draw(self, draws, signs, size):
        """Returns a shift in pixels for each image, from two draws and the size in pixels."""
        ops = ops_for(draws)
        if self._choices is None:
            shift = self._range * (2 * draws - 1)
        elif self._choices:
            index = ops.cast(ops.floor(draws * len(self._choices)), "int32")
            choices = ops.convert_to_tensor(np.array(self._choices, "float32"))
            shift = ops.take(choices, ops.minimum(index, len(self._choices) - 1), axis=0)
            shift = ops.where(signs < 0.5, -shift, shift)
        else:
            shift = ops.zeros_like(draws)
        return shift if self._in_pixels else shift * size


_ZOOM = "a share r in [0, 1), short for (1 - r, 1 + r), or a pair 0 < low <= high"


def _brightness(value: Any) -> tuple[float, float] | None:
    allowed = "None, or a pair of factors 0 <= low <= high"
    if value is None:
        return None
    low, high = as_range("brightness_range", value, allowed)
    if low < 0 or not isinstance(value, (tuple, list)):
        raise ValueError(
            f"`brightness_range` must be {allowed}. Received: brightness_range={value!r}"
        )
    return low, high


def _number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> Any:
    """Returns the value if it is a finite number in [low, high], and raises otherwise."""
    if (
        isinstance(value, bool)
        or not isinstance(value, numbers.Real)
        or not math.isfinite(value)
        or not low <= value <= high
    ):
        where = f" in [{low:g}, {high:g}]" if low > -math.inf else ""
        raise ValueError(f"`{name}` must be a finite number{where}. Received: {name}={value!r}")
    return value


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelShift(Stage):
    """Adds something to the values of each image, within the limits that these had.

    Args:
        shifts: Float32 tensor of shape (batch,).
    """

    shifts: Any

    scaled: ClassVar[bool] = False
    cheaper_on_host: ClassVar[bool] = False

    def gated(self, on):
        return ChannelShift(ops_for(self.shifts).where(on, self.shifts, 0.0))

    def on_batch(self, images):
        ops = ops_for(images)
        x = ops.cast(images, "float32")
        low, high = (f(x, axis=(1, 2, 3), keepdims=True) for f in (ops.min, ops.max))
        return like(ops.clip(x + per_image(self.shifts), low, high), images)

    def on_image(self, image, i):
        import cv2

        low, high = cv2.minMaxLoc(image.reshape(len(image), -1))[:2]
        result = np.clip(image + np.float32(self.shifts[i]), low, high)
        return like(result, image)

    def does_nothing(self):
        return self.shifts == 0

    def describe(self, i, size):
        return f"values {self.shifts[i]:+.1f}"


@dataclasses.dataclass(frozen=True, eq=False)
class Brightness(Stage):
    """Multiplies the values of each image, which it takes to be in [0, 255] unless one is not.

    In an image with others it multiplies the distances to the lowest value, up to the highest.

    Args:
        factors: Float32 tensor of shape (batch,).
    """

    factors: Any

    scaled: ClassVar[bool] = False
    cheaper_on_host: ClassVar[bool] = False

    def gated(self, on):
        return Brightness(ops_for(self.factors).where(on, self.factors, 1.0))

    def on_batch(self, images):
        ops = ops_for(images)
        x = ops.cast(images, "float32")
        low, high = (f(x, axis=(1, 2, 3), keepdims=True) for f in (ops.min, ops.max))
        other = (low < 0) | (high > 255)
        low, high = ops.where(other, low, 0.0), ops.where(other, high, 255.0)
        return like(ops.clip((x - low) * per_image(self.factors) + low, low, high), images)

    def on_image(self, image, i):
        import cv2

        low, high = cv2.minMaxLoc(image.reshape(len(image), -1))[:2]
        if low >= 0 and high <= 255:
            low, high = 0.0, 255.0
        low, high = np.float32(low), np.float32(high)
        return like(np.clip((image - low) * self.factors[i] + low, low, high), image)

    def does_nothing(self):
        return self.factors == 1

    def describe(self, i, size):
        return f"brightness {self.factors[i]:.2f}"
