"""Random changes of brightness, contrast, saturation, hue and the like, in two passes."""

import math

import numpy as np

from keras_optkit.augmentation.affine import as_range
from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.color_stages import ColorMatrix, Curve
from keras_optkit.augmentation.policies import saturation_matrices
from keras_optkit.augmentation.policy_layer import check_channels, check_number, whole_number
from keras_optkit.core.serialization import register

# From red, green, blue to luma and two axes of color (YIQ, of NTSC), and back.
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_FROM_YIQ = np.linalg.inv(_TO_YIQ)


@register
class RandomColor(AugmentationLayer):
    """Changes the colors of each image at random.

    Every image draws its own parameters, uniformly and independently. It goes through brightness,
    contrast, saturation, hue and grayscale, in this order and as one linear map, is limited to
    `value_range`, and goes through gamma, posterize, solarize and invert. What is not asked for
    costs nothing. Brightness blends with black, contrast with the mean grey of the image and
    saturation with its grey, as Pillow's `ImageEnhance` does. Hue turns colors around the grey
    axis and leaves their luma as it is.

    Images of type uint8 come out as uint8, and float images in the compute data type of the layer.
    A grey image, of one channel, stays grey. The layer is the identity in inference. See
    `AugmentationLayer` for what it can be called on and when it augments.

    Args:
        brightness: A number r >= 0 for factors in (1 - r, 1 + r), not below 0, or a pair (low,
            high) of factors of 0 or more. 1 changes nothing.
        contrast: The same.
        saturation: The same.
        hue: Shares of a full turn: a number r in [0, 0.5] for (-r, r), or a pair (low, high) within
            [-0.5, 0.5].
        grayscale: Probability in [0, 1] that an image loses its colors. It keeps its channels.
        gamma: A number r in [0, 1) for exponents in (1 - r, 1 + r), or a pair (low, high) of
            exponents above 0, for values between a black of 0 and a white of 1.
        posterize: Integer in [1, 8], the least number of bits that stay. An image draws a number
            between this and 8.
        solarize: Probability in [0, 1] that the upper half of the values is inverted.
        invert: Probability in [0, 1] that all values are inverted.
        value_range: Pair of numbers, the black and the white of float images. Those of uint8
            images are 0 and 255.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `bounding_box_format`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range, or, in a call, images have other than 1 or 3
            channels or are not as `AugmentationLayer` wants them.

    Example:

    ```python
    augment = RandomColor(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale=0.2)
    dataset = augment.map(dataset.batch(32))
    ```
    """

    def __init__(
        self,
        brightness: float | tuple[float, float] = 0.0,
        contrast: float | tuple[float, float] = 0.0,
        saturation: float | tuple[float, float] = 0.0,
        hue: float | tuple[float, float] = 0.0,
        grayscale: float = 0.0,
        gamma: float | tuple[float, float] = 0.0,
        posterize: int = 8,
        solarize: float = 0.0,
        invert: float = 0.0,
        value_range: tuple[float, float] = (0, 255),
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(value_range=value_range, seed=seed, data_format=data_format, **kwargs)
        self._factors = {
            "brightness": _factors("brightness", brightness),
            "contrast": _factors("contrast", contrast),
            "saturation": _factors("saturation", saturation),
        }
        self._hue = _turns(hue)
        self._gamma = _exponents(gamma)
        probability = "a probability in [0, 1]"
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue
        self.grayscale = check_number("grayscale", grayscale, 0, 1, probability)
        self.gamma = gamma
        self.posterize = check_number("posterize", posterize, 1, 8, "an integer in [1, 8]")
        if posterize != int(posterize):
            raise ValueError(
                f"`posterize` must be an integer in [1, 8]. Received: posterize={posterize!r}"
            )
        self.solarize = check_number("solarize", solarize, 0, 1, probability)
        self.invert = check_number("invert", invert, 0, 1, probability)

    def sample(self, draw, height, width):
        draws = draw(9)
        ops = ops_for(draws)

        def between(column, low, high):
            return low + (high - low) * draws[:, column]

        table = {
            name: between(column, *limits)
            for column, (name, limits) in enumerate(self._factors.items())
        }
        table["hue"] = between(3, *self._hue)
        table["saturation"] = ops.where(draws[:, 4] < self.grayscale, 0.0, table["saturation"])
        if self._gamma != (1.0, 1.0):
            table["gamma"] = between(5, *self._gamma)
        if self.posterize < 8:
            bits = self.posterize + whole_number(draws[:, 6], 9 - self.posterize, ops)
            table["bits"] = ops.cast(bits, "float32")
        if self.solarize:
            table["solarize"] = draws[:, 7] < self.solarize
        if self.invert:
            table["invert"] = draws[:, 8] < self.invert
        return table

    def stages(self, table, height, width):
        ops = ops_for(table["hue"])
        stages = []
        if self._is_linear:
            contrast, brightness = table["contrast"], table["brightness"]
            matrices = saturation_matrices(table["saturation"], brightness * contrast)
            if self._hue != (0.0, 0.0):
                matrices = _turned(table["hue"], matrices, ops)
            still = self._factors["contrast"] == (1.0, 1.0)
            stages.append(ColorMatrix(matrices, None if still else brightness * (1 - contrast)))
        curve = {}
        if "gamma" in table:
            curve["gammas"] = table["gamma"]
        if "bits" in table:
            curve["steps"] = ops.power(2.0, 8 - table["bits"])
        if "solarize" in table:
            curve["thresholds"] = ops.where(table["solarize"], 128.0, 256.0)
        if curve:
            stages.append(Curve(**curve))
        if "invert" in table:
            stages.append(Curve(thresholds=ops.where(table["invert"], 0.0, 256.0)))
        return stages

    def get_config(self):
        return {
            **super().get_config(),
            "brightness": self.brightness,
            "contrast": self.contrast,
            "saturation": self.saturation,
            "hue": self.hue,
            "grayscale": self.grayscale,
            "gamma": self.gamma,
            "posterize": self.posterize,
            "solarize": self.solarize,
            "invert": self.invert,
        }

    @property
    def _is_linear(self) -> bool:
        still = set(self._factors.values()) == {(1.0, 1.0)} and self._hue == (0.0, 0.0)
        return bool(self.grayscale) or not still

    def _check(self, data):
        super()._check(data)
        check_channels(self, data["images"])


def _turned(hue, matrices, ops):
    """Returns color matrices that are followed by a turn of the colors, in shares of one turn."""
    angle = hue * (2 * math.pi)
    cos, sin = ops.cos(angle), ops.sin(angle)
    # A turn is a sum of three matrices, of which two are weighed by the cosine and the sine.
    parts = [
        _FROM_YIQ @ middle @ _TO_YIQ
        for middle in (
            np.diag([1, 0, 0]),
            np.diag([0, 1, 1]),
            np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]),
        )
    ]
    still, by_cos, by_sin = (ops.convert_to_tensor(part.astype("float32")) for part in parts)
    turn = still + cos[:, None, None] * by_cos + sin[:, None, None] * by_sin
    return ops.sum(turn[:, :, :, None] * matrices[:, None], axis=2)


def _factors(name, value):
    allowed = (
        "a number r >= 0, short for factors in (1 - r, 1 + r), or a pair (low, high) of factors "
        "of 0 or more, where 1 changes nothing"
    )
    low, high = as_range(name, value, allowed, centre=1.0)
    if isinstance(value, (tuple, list)) and low < 0:
        raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")
    return max(low, 0.0), high


def _turns(value):
    allowed = (
        "a share of a full turn r in [0, 0.5], short for (-r, r), or a pair (low, high) within "
        "[-0.5, 0.5]"
    )
    low, high = as_range("hue", value, allowed)
    if low < -0.5 or high > 0.5:
        raise ValueError(f"`hue` must be {allowed}. Received: hue={value!r}")
    return low, high


def _exponents(value):
    allowed = (
        "a number r in [0, 1), short for exponents in (1 - r, 1 + r), or a pair (low, high) of "
        "exponents above 0, where 1 changes nothing"
    )
    low, high = as_range("gamma", value, allowed, centre=1.0)
    if low <= 0:
        raise ValueError(f"`gamma` must be {allowed}. Received: gamma={value!r}")
    return low, high
