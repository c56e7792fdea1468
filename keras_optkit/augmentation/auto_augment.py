"""AutoAugment: pairs of operations that a search found to be good for a dataset."""

import functools

import numpy as np

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.policies import interpolated_values, look_up_operations
from keras_optkit.augmentation.policy_layer import PolicyLayer, whole_number
from keras_optkit.core.messages import did_you_mean
from keras_optkit.core.serialization import register

# Cubuk et al., 2019, table 6: the magnitudes 0 to 9 are spaced evenly over these. For the
# enhancements the magnitude is no strength: 0 is a factor of 0.1.
RANGES = {
    "ShearX": (0, 0.3, True),
    "ShearY": (0, 0.3, True),
    "TranslateX": (0, 150 / 331, True),
    "TranslateY": (0, 150 / 331, True),
    "Rotate": (0, 30, True),
    "AutoContrast": (0, 0, False),
    "Invert": (0, 0, False),
    "Equalize": (0, 0, False),
    "Solarize": (256, 0, False),
    "Posterize": (8, 4, False),
    "Contrast": (0.1, 1.9, False),
    "Color": (0.1, 1.9, False),
    "Brightness": (0.1, 1.9, False),
    "Sharpness": (0.1, 1.9, False),
}

# Cubuk et al., 2019, appendix, tables 7 to 9. A line is a sub-policy: twice an operation, its
# probability in tenths, and its magnitude, which some don't have.
POLICIES = {
    "imagenet": """
        Posterize 4 8, Rotate 6 9
        Solarize 6 5, AutoContrast 6
        Equalize 8, Equalize 6
        Posterize 6 7, Posterize 6 6
        Equalize 4, Solarize 2 4
        Equalize 4, Rotate 8 8
        Solarize 6 3, Equalize 6
        Posterize 8 5, Equalize 10
        Rotate 2 3, Solarize 6 8
        Equalize 6, Posterize 4 6
        Rotate 8 8, Color 4 0
        Rotate 4 9, Equalize 6
        Equalize 0, Equalize 8
        Invert 6, Equalize 10
        Color 6 4, Contrast 10 8
        Rotate 8 8, Color 10 2
        Color 8 8, Solarize 8 7
        Sharpness 4 7, Invert 6
        ShearX 6 5, Equalize 10
        Color 4 0, Equalize 6
        Equalize 4, Solarize 2 4
        Solarize 6 5, AutoContrast 6
        Invert 6, Equalize 10
        Color 6 4, Contrast 10 8
        Equalize 8, Equalize 6
    """,
    "cifar10": """
        Invert 1, Contrast 2 6
        Rotate 7 2, TranslateX 3 9
        Sharpness 8 1, Sharpness 9 3
        ShearY 5 8, TranslateY 7 9
        AutoContrast 5, Equalize 9
        ShearY 2 7, Posterize 3 7
        Color 4 3, Brightness 6 7
        Sharpness 3 9, Brightness 7 9
        Equalize 6, Equalize 5
        Contrast 6 7, Sharpness 6 5
        Color 7 7, TranslateX 5 8
        Equalize 3, AutoContrast 4
        TranslateY 4 3, Sharpness 2 6
        Brightness 9 6, Color 2 8
        Solarize 5 2, Invert 0
        Equalize 2, AutoContrast 6
        Equalize 2, Equalize 6
        Color 9 9, Equalize 6
        AutoContrast 8, Solarize 2 8
        Brightness 1 3, Color 7 0
        Solarize 4 5, AutoContrast 9
        TranslateY 9 9, TranslateY 7 9
        AutoContrast 9, Solarize 8 3
        Equalize 8, Invert 1
        TranslateY 7 9, AutoContrast 9
    """,
    "svhn": """
        ShearX 9 4, Invert 2
        ShearY 9 8, Invert 7
        Equalize 6, Solarize 6 6
        Invert 9, Equalize 6
        Equalize 6, Rotate 9 3
        ShearX 9 4, AutoContrast 8
        ShearY 9 8, Invert 4
        ShearY 9 5, Solarize 2 6
        Invert 9, AutoContrast 8
        Equalize 6, Rotate 9 3
        ShearX 9 4, Solarize 3 3
        ShearY 8 8, Invert 7
        Equalize 9, TranslateY 6 6
        Invert 9, Equalize 6
        Contrast 3 3, Rotate 8 4
        Invert 8, TranslateY 0 2
        ShearY 7 6, Solarize 4 8
        Invert 6, Rotate 8 4
        ShearY 3 7, TranslateX 9 3
        ShearX 1 6, Invert 6
        Solarize 7 2, TranslateY 6 7
        ShearY 8 4, Invert 8
        ShearX 7 9, TranslateY 8 3
        ShearY 8 5, AutoContrast 7
        ShearX 7 2, Invert 1
    """,
}


@register
class AutoAugment(PolicyLayer):
    """Applies pairs of operations that were found by a search on a dataset.

    Each image draws one of the 25 sub-policies of a policy. A sub-policy is two operations, each of
    which has a probability and a magnitude. Shears, translations and rotations go into either
    direction with the same probability.

    Images of type uint8 come out as uint8, and float images in the compute data type of the layer.
    Masks and boxes follow the geometric operations. The layer is the identity in inference. See
    `AugmentationLayer` for what it can be called on and when it augments.

    Args:
        policy: `"imagenet"`, `"cifar10"` or `"svhn"`.
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
    dataset = AutoAugment("cifar10", seed=0).map(dataset.batch(32))
    ```

    Reference: Cubuk et al., 2019, https://arxiv.org/abs/1805.09501, tables 6 (magnitudes) and 7 to
    9 (policies). The directions of `Posterize` and `Solarize`, which the paper leaves open, are
    such that they are the stronger the larger the magnitude.
    """

    def __init__(
        self,
        policy: str = "imagenet",
        value_range: tuple[float, float] = (0, 255),
        interpolation: str = "bilinear",
        fill_mode: str = "constant",
        fill_value: float | None = None,
        **kwargs,
    ):
        super().__init__(value_range, interpolation, fill_mode, fill_value, **kwargs)
        if policy not in POLICIES:
            raise ValueError(
                f"`policy` must be one of {tuple(POLICIES)}. "
                f"{did_you_mean(str(policy), POLICIES)} Received: policy={policy!r}"
            )
        self.policy = policy
        names = {name for steps in _sub_policies(policy) for name, _, _ in steps}
        self._operations = tuple(name for name in RANGES if name in names)

    def sample(self, draw, height, width):
        draws = draw(5)
        ops = ops_for(draws)
        sub_policies = _sub_policies(self.policy)
        chosen = whole_number(draws[:, 0], len(sub_policies), ops)

        def column(part, dtype):
            table = np.array([[step[part] for step in steps] for steps in sub_policies], dtype)
            return ops.take(ops.convert_to_tensor(table), chosen, axis=0)

        numbers = np.array(
            [[self._operations.index(name) for name, _, _ in steps] for steps in sub_policies]
        )
        numbers = ops.take(ops.convert_to_tensor(numbers.astype("int32")), chosen, axis=0)
        operations = look_up_operations(self._operations, numbers)
        # The number of `Identity` is 0.
        happens = draws[:, 1:3] < column(1, "float32")
        operations = ops.where(happens, operations, ops.zeros_like(operations))
        levels = column(2, "float32") / 9
        signs = ops.where(draws[:, 3:] < 0.5, -1.0, 1.0)
        values = interpolated_values(RANGES, operations, levels, signs, height, width)
        return {"operations": operations, "values": values}

    def get_config(self):
        return {**super().get_config(), "policy": self.policy}


@functools.cache
def _sub_policies(policy: str) -> list[list[tuple[str, float, int]]]:
    """Returns a policy as sub-policies of (operation, probability, magnitude)."""
    sub_policies = []
    for line in POLICIES[policy].strip().splitlines():
        steps = [step.split() for step in line.split(",")]
        sub_policies.append(
            [(name, int(tenths) / 10, int((*rest, 0)[0])) for name, tenths, *rest in steps]
        )
    return sub_policies
