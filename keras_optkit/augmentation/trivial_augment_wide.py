"""TrivialAugment with its wide ranges: one operation of any magnitude."""

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.policies import (
    interpolated_values,
    look_up_operations,
)
from keras_optkit.augmentation.policy_layer import PolicyLayer, whole_number
from keras_optkit.core.serialization import register

# Mueller and Hutter, 2021, table 5, the wide ranges. Translations are in pixels there and here.
RANGES = {
    "Identity": (0, 0, False),
    "ShearX": (0, 0.99, True),
    "ShearY": (0, 0.99, True),
    "TranslateX": (0, 32, True),
    "TranslateY": (0, 32, True),
    "Rotate": (0, 135, True),
    "Brightness": (1, 1.99, True),
    "Color": (1, 1.99, True),
    "Contrast": (1, 1.99, True),
    "Sharpness": (1, 1.99, True),
    "Posterize": (8, 2, False),
    "Solarize": (256, 0, False),
    "AutoContrast": (0, 0, False),
    "Equalize": (0, 0, False),
}
_BINS = 31


@register
class TrivialAugmentWide(PolicyLayer):
    """Applies one operation to each image, of a magnitude that is drawn too.

    There is nothing to tune. Each image draws one of the 14 operations below and one of 31
    magnitudes, from 0, which does nothing (to `AutoContrast` and `Equalize` it makes no
    difference), to the end of the range, and either direction with the same probability:

    ==================== ============================= =======================================
    Operation            Range                         What the number is
    ==================== ============================= =======================================
    ShearX, ShearY       -0.99 to 0.99                 slope
    TranslateX, -Y       -32 to 32                     pixels
    Rotate               -135 to 135                   degrees
    Color, Contrast,     0.01 to 1.99                  factor, 1 does nothing
    Brightness, Sharpness
    Posterize            8 to 2                        bits that stay, of 8
    Solarize             256 to 0                      threshold above which to invert
    AutoContrast, Equalize, Identity                   no magnitude
    ==================== ============================= =======================================

    Images of type uint8 come out as uint8, and float images in the compute data type of the layer.
    Masks and boxes follow the geometric operations. The layer is the identity in inference. See
    `AugmentationLayer` for what it can be called on and when it augments.

    Args:
        value_range: Pair of numbers, the black and the white of float images. Those of uint8
            images are 0 and 255.
        interpolation: `"bilinear"` or `"nearest"`. Masks are always `"nearest"`.
        fill_mode: What to see beyond the edge: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`,
            see `warp`.
        fill_value: Number that `"constant"` fills with, or `None` for middle grey.
        **kwargs: `seed`, `data_format`, `bounding_box_format`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is none of these, or, in a call, images have other than 1 or 3
            channels or are not as `AugmentationLayer` wants them.

    Example:

    ```python
    dataset = TrivialAugmentWide(seed=0).map(dataset.batch(32))
    ```

    Reference: Mueller and Hutter, 2021, https://arxiv.org/abs/2103.10158, table 5.
    """

    _operations = tuple(RANGES)

    def sample(self, draw, height, width):
        draws = draw(3)
        ops = ops_for(draws)
        operations = look_up_operations(
            self._operations, whole_number(draws[:, :1], len(self._operations), ops)
        )
        signs = ops.where(draws[:, 1:2] < 0.5, -1.0, 1.0)
        levels = ops.cast(whole_number(draws[:, 2:], _BINS, ops), "float32") / (_BINS - 1)
        values = interpolated_values(RANGES, operations, levels, signs, 1, 1)
        return {"operations": operations, "values": values}
