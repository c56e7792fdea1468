"""Random erasing: a rectangle of the image is overwritten."""

import numbers

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.erase import Erase
from keras_optkit.augmentation.rectangles import DRAWS, check_rectangles, draw_rectangles
from keras_optkit.core.messages import did_you_mean
from keras_optkit.core.serialization import register

_MODES = {"constant": None, "random": "color", "pixel": "pixel"}


@register
class RandomErasing(AugmentationLayer):
    """Overwrites a rectangle in some of the images.

    Every image draws its own rectangle: a share of the area, uniformly, and a height over width,
    uniformly in its logarithm, until a rectangle fits into the image, ten times at most; then a
    place. Masks and boxes stay as they are. uint8 images come out as uint8, float images in the
    compute data type of the layer. The layer is the identity in inference. See `AugmentationLayer`
    for what it can be called on and when it augments.

    Args:
        probability: Number in [0, 1], the share of the images to erase from.
        scale: Pair of shares of the area, 0 < low <= high <= 1.
        ratio: Pair of heights over widths, 0 < low <= high.
        mode: `"constant"` for `value`, `"random"` for one random color per image, or `"pixel"`
            for noise, a random number in each pixel and channel.
        value: Number, or a list of one number per channel, in `value_range`: what `"constant"`
            overwrites with. The mean color of the data is a good choice.
        value_range: Pair of numbers, the lowest and the highest value of float images. Images of
            type uint8 are in [0, 255], and so is `value` for them.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `bounding_box_format`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    erase = RandomErasing(0.25, mode="pixel", value_range=(0, 1))
    train = erase.map(train)
    ```

    Reference: Zhong et al., "Random Erasing Data Augmentation", 2017,
    https://arxiv.org/abs/1708.04896, of which `scale` and `ratio` are the defaults.
    """

    def __init__(
        self,
        probability: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        mode: str = "constant",
        value: float | tuple[float, ...] = 0.0,
        value_range: tuple[float, float] = (0.0, 255.0),
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, data_format=data_format, value_range=value_range, **kwargs)
        self.probability = check_probability(probability)
        self.scale, self.ratio = check_rectangles(scale, ratio)
        if mode not in _MODES:
            raise ValueError(
                f"`mode` must be one of {tuple(_MODES)}. {did_you_mean(str(mode), _MODES)} "
                f"Received: mode={mode!r}"
            )
        self.mode = mode
        self.value = tuple(value) if isinstance(value, (tuple, list)) else value
        low, high = self.value_range or (0.0, 255.0)
        for number in self._values():
            if not isinstance(number, numbers.Real) or not low <= number <= high:
                raise ValueError(
                    "`value` must be a number, or a list of one number per channel, within "
                    f"`value_range`, which is {(low, high)}. Received: value={value!r}"
                )

    def sample(self, draw, height, width):
        draws = draw(DRAWS + 2)
        ops = ops_for(draws)
        # Widths over heights there.
        ratio = (1 / self.ratio[1], 1 / self.ratio[0])
        boxes, _ = draw_rectangles(draws[:, :DRAWS], self.scale, ratio, height, width)
        boxes = ops.where(draws[:, DRAWS, None] < self.probability, boxes, 0)
        return {"boxes": boxes, "seeds": ops.cast(draws[:, -1] * 2**24, "int32")}

    def stages(self, table, height, width):
        return [Erase(table["boxes"], table["seeds"], _MODES[self.mode], self.value)]

    def get_config(self):
        return {
            **super().get_config(),
            "probability": self.probability,
            "scale": self.scale,
            "ratio": self.ratio,
            "mode": self.mode,
            "value": self.value,
        }

    def _values(self):
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def _check_own(self, data):
        channels = data["images"].shape[-3 if self._channels_first else -1]
        if len(self._values()) not in (1, channels) and channels is not None:
            raise ValueError(
                "`value` must be one number or one for each channel of the images. "
                f"Received: value={self.value!r} for {channels} channels"
            )


def check_probability(probability: float) -> float:
    """Returns a probability, and raises `ValueError` if it is none."""
    if (
        isinstance(probability, bool)
        or not isinstance(probability, numbers.Real)
        or not 0 <= probability <= 1
    ):
        raise ValueError(
            f"`probability` must be a number in [0, 1]. Received: probability={probability!r}"
        )
    return probability
