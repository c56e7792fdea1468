"""RandAugment: a few operations from a list, all of one magnitude."""

import math

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.policies import (
    check_operations,
    interpolated_values,
    look_up_operations,
)
from keras_optkit.augmentation.policy_layer import (
    PolicyLayer,
    check_count,
    check_number,
    whole_number,
)
from keras_optkit.core.serialization import register

# Cubuk et al., 2019 (AutoAugment), table 6, translations as shares of its images of 331 pixels.
# The strength grows with the magnitude, and 0 does nothing.
RANGES = {
    "Identity": (0, 0, False),
    "AutoContrast": (0, 0, False),
    "Equalize": (0, 0, False),
    "Rotate": (0, 30, True),
    "Solarize": (256, 0, False),
    "Color": (1, 1.9, True),
    "Posterize": (8, 4, False),
    "Contrast": (1, 1.9, True),
    "Brightness": (1, 1.9, True),
    "Sharpness": (1, 1.9, True),
    "ShearX": (0, 0.3, True),
    "ShearY": (0, 0.3, True),
    "TranslateX": (0, 150 / 331, True),
    "TranslateY": (0, 150 / 331, True),
}


@register
class RandAugment(PolicyLayer):
    """Applies a few operations, drawn from a list for each image, one after the other.

    Each image draws `num_ops` of the 14 operations of the paper, with repetition. They have all
    the same magnitude, from 0, which does nothing (to `AutoContrast` and `Equalize` it makes no
    difference), to 10. An operation goes into either direction with the same probability:

    ==================== ============================= =======================================
    Operation            Range at a magnitude of 10    What the number is
    ==================== ============================= =======================================
    ShearX, ShearY       -0.3 to 0.3                   slope
    TranslateX, -Y       -0.453 to 0.453               share of the size (150 of 331 pixels)
    Rotate               -30 to 30                     degrees
    Color, Contrast,     0.1 to 1.9                    factor, 1 does nothing
    Brightness, Sharpness
    Posterize            4                             bits that stay, of 8
    Solarize             0                             threshold, of 256, above which to invert
    AutoContrast, Equalize, Identity                   no magnitude
    ==================== ============================= =======================================

    Images of type uint8 come out as uint8, and float images in the compute data type of the layer.
    Two geometric operations in a row resample an image once. Masks and boxes follow the geometric
    operations. The layer is the identity in inference. See `AugmentationLayer` for what it can be
    called on and when it augments.

    Args:
        num_ops: Integer, 1 or more, how many operations each image goes through.
        magnitude: Number in [0, 10].
        magnitude_std: Number, 0 or more: each operation's magnitude is drawn from a normal
            distribution around `magnitude`, limited to [0, 10].
        operations: List of names of operations to choose from. Defaults to those above.
        value_range: Pair of numbers, the black and the white of float images. Those of uint8
            images are 0 and 255.
        interpolation: `"bilinear"` or `"nearest"`. Masks are always `"nearest"`.
        fill_mode: What to see beyond the edge: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`,
            see `warp`.
        fill_value: Number that `"constant"` fills with, or `None` for middle grey.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `bounding_box_format`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range, or, in a call, images have other than 1 or 3
            channels or are not as `AugmentationLayer` wants them.

    Example:

    ```python
    augment = RandAugment(num_ops=2, magnitude=9, seed=0)
    dataset = augment.map(dataset.batch(32))
    ```

    Reference: Cubuk et al., 2020, https://arxiv.org/abs/1909.13719, section 3. It takes the ranges
    of Cubuk et al., 2019, https://arxiv.org/abs/1805.09501, table 6.
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: float = 9,
        magnitude_std: float = 0.0,
        operations: list[str] | None = None,
        value_range: tuple[float, float] = (0, 255),
        interpolation: str = "bilinear",
        fill_mode: str = "constant",
        fill_value: float | None = None,
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(
            value_range=value_range,
            interpolation=interpolation,
            fill_mode=fill_mode,
            fill_value=fill_value,
            seed=seed,
            data_format=data_format,
            **kwargs,
        )
        names = tuple(RANGES)
        self.num_ops = check_count("num_ops", num_ops)
        self.magnitude = check_number("magnitude", magnitude, 0, 10, "a number in [0, 10]")
        self.magnitude_std = check_number(
            "magnitude_std", magnitude_std, 0, math.inf, "a number of 0 or more"
        )
        self.operations = operations
        self._operations = names if operations is None else check_operations(operations, names)

    def sample(self, draw, height, width):
        n, normal = self.num_ops, self.magnitude_std > 0
        draws = draw((4 if normal else 2) * n)
        ops = ops_for(draws)
        chosen = whole_number(draws[:, :n], len(self._operations), ops)
        operations = look_up_operations(self._operations, chosen)
        signs = ops.where(draws[:, n : 2 * n] < 0.5, -1.0, 1.0)
        levels = ops.full_like(signs, self.magnitude / 10)
        if normal:
            # Box and Muller's way from two uniform numbers to a normal one.
            radius = ops.sqrt(-2 * ops.log(1 - draws[:, 2 * n : 3 * n]))
            noise = radius * ops.cos(2 * math.pi * draws[:, 3 * n :])
            levels = ops.clip(levels + self.magnitude_std / 10 * noise, 0.0, 1.0)
        values = interpolated_values(RANGES, operations, levels, signs, height, width)
        return {"operations": operations, "values": values}

    def get_config(self):
        return {
            **super().get_config(),
            "num_ops": self.num_ops,
            "magnitude": self.magnitude,
            "magnitude_std": self.magnitude_std,
            "operations": self.operations,
        }
