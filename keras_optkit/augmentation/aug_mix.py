"""AugMix: each image is mixed with several chains of operations on itself."""

import dataclasses
import functools
import math
from typing import Any

import numpy as np

from keras_optkit.augmentation.affine_stage import with_channels
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.label_mixing import beta_quantiles, look_up
from keras_optkit.augmentation.policies import interpolated_values, look_up_operations
from keras_optkit.augmentation.policy_layer import (
    PolicyLayer,
    check_count,
    check_number,
    whole_number,
)
from keras_optkit.augmentation.stages import Stage, flatten, fuse, like, run, unflatten
from keras_optkit.core.serialization import register

# Hendrycks et al., 2020, the authors' code (augmentations.py) at a level of 10.
RANGES = {
    "AutoContrast": (0, 0, False),
    "Equalize": (0, 0, False),
    "Posterize": (4, 0, False),
    "Rotate": (0, 30, True),
    "Solarize": (256, 0, False),
    "ShearX": (0, 0.3, True),
    "ShearY": (0, 0.3, True),
    "TranslateX": (0, 1 / 3, True),
    "TranslateY": (0, 1 / 3, True),
}
# The lowest level that is drawn, of 10.
_LOWEST = 0.1
_LONGEST = 3


@register
class AugMix(PolicyLayer):
    """Mixes each image with several chains of operations on itself.

    Each image draws `width` chains of operations, of which each operation draws its own level up to
    `severity`. What comes out of the chains is averaged with weights from a Dirichlet distribution,
    and that is mixed with the image itself by a ratio from a Beta distribution, both with the
    parameter `alpha`. The operations, and their ranges at a level of 10:

    ==================== ============================= =======================================
    Operation            Range                         What the number is
    ==================== ============================= =======================================
    ShearX, ShearY       -0.3 to 0.3                   slope
    TranslateX, -Y       -1/3 to 1/3                   share of the size
    Rotate               -30 to 30                     degrees
    Posterize            4 to 0, and not below 1       bits that stay, of 8
    Solarize             256 to 0                      threshold above which to invert
    AutoContrast, Equalize                             no magnitude
    ==================== ============================= =======================================

    Images of type uint8 come out as uint8, and float images in the compute data type of the layer.
    Masks and boxes stay as they are, since the image itself is a part of each mixture: keep
    `severity` low where they matter. The layer is the identity in inference. See
    `AugmentationLayer` for what it can be called on and when it augments. The loss that makes the
    outputs for several mixtures of one image alike, which the paper adds, is not part of the layer.

    Args:
        width: Integer, 1 or more, the number of chains.
        depth: Integer, 1 or more, the number of operations in a chain, or `None` for 1 to 3, drawn
            for each chain.
        severity: Number in (0, 10], the highest level of an operation. Levels start at 0.1.
        alpha: Number above 0, the parameter of both distributions.
        value_range: Pair of numbers, the black and the white of float images. Those of uint8
            images are 0 and 255.
        interpolation: `"bilinear"` or `"nearest"`.
        fill_mode: What to see beyond the edge: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`,
            see `warp`.
        fill_value: Number that `"constant"` fills with, or `None` for middle grey.
        **kwargs: `seed`, `data_format`, `bounding_box_format`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range, or, in a call, images have other than 1 or 3
            channels or are not as `AugmentationLayer` wants them.

    Example:

    ```python
    dataset = AugMix(width=3, severity=3, seed=0).map(dataset.batch(32))
    ```

    Reference: Hendrycks et al., 2020, https://arxiv.org/abs/1912.02781, algorithm 1, with the
    operations and levels of its authors' code.
    """

    _operations = tuple(RANGES)

    def __init__(
        self,
        width: int = 3,
        depth: int | None = None,
        severity: float = 3,
        alpha: float = 1.0,
        value_range: tuple[float, float] = (0, 255),
        interpolation: str = "bilinear",
        fill_mode: str = "constant",
        fill_value: float | None = None,
        **kwargs,
    ):
        super().__init__(value_range, interpolation, fill_mode, fill_value, **kwargs)
        self.width = check_count("width", width)
        self.depth = None if depth is None else check_count("depth", depth)
        self.severity = check_number("severity", severity, 1e-6, 10, "a number in (0, 10]")
        self.alpha = check_number("alpha", alpha, 1e-2, 1e3, "a number in [0.01, 1000]")
        self._ratios = beta_quantiles(alpha)
        self._weights = gamma_quantiles(alpha)

    def sample(self, draw, height, width):
        longest = self.depth or _LONGEST
        steps = self.width * longest
        draws = draw(3 * steps + 2 * self.width + 1)
        ops = ops_for(draws)
        chosen, levels, signs = (draws[:, i * steps : (i + 1) * steps] for i in range(3))
        lengths, weights, ratio = (
            draws[:, 3 * steps : 3 * steps + self.width],
            draws[:, 3 * steps + self.width : -1],
            draws[:, -1:],
        )
        operations = look_up_operations(
            self._operations, whole_number(chosen, len(self._operations), ops)
        )
        lowest = min(_LOWEST, self.severity)
        values = interpolated_values(
            RANGES,
            operations,
            (lowest + (self.severity - lowest) * levels) / 10,
            ops.where(signs < 0.5, -1.0, 1.0),
            height,
            width,
        )
        posterize = operations == look_up_operations(["Posterize"], 0 * operations)
        values = ops.where(posterize, ops.maximum(values, 1.0), values)
        if self.depth is None:
            place = np.tile(np.arange(longest, dtype="int32"), self.width)[None]
            place = ops.convert_to_tensor(place)
            lengths = ops.repeat(1 + whole_number(lengths, longest, ops), longest, axis=1)
            # The number of `Identity` is 0.
            operations = ops.where(place < lengths, operations, ops.zeros_like(operations))
        weights = look_up(self._weights, weights) + 1e-12
        weights = weights / ops.sum(weights, axis=1, keepdims=True)
        ratio = look_up(self._ratios, ratio)
        return {
            "operations": operations,
            "values": values,
            "weights": ops.concatenate([1 - ratio, ratio * weights], axis=1),
        }

    def stages(self, table, height, width):
        ops = ops_for(table["values"])
        longest = self.depth or _LONGEST
        operations, values = (
            ops.reshape(table[name], (-1, longest)) for name in ("operations", "values")
        )
        chain = fuse(self._operation_stages(operations, values, height, width))
        return [Blend((tuple(_reshaped(chain, (-1, self.width))),), table["weights"])]

    def get_config(self):
        return {
            **super().get_config(),
            "width": self.width,
            "depth": self.depth,
            "severity": self.severity,
            "alpha": self.alpha,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Blend(Stage):
    """Averages each image and what comes out of several chains of stages on it.

    Args:
        chains: Tuple of one tuple of stages, none of which changes the size. All chains are made
            of these stages, whose tensors have the chain as their second axis.
        weights: Float32 tensor of shape (batch, 1 + chains), of the image and of each chain.
    """

    chains: tuple[tuple[Stage, ...]]
    weights: Any

    def gated(self, on):
        ops = ops_for(self.weights)
        itself = np.eye(1, self.weights.shape[1], dtype="float32")
        weights = ops.where(on[:, None], self.weights, ops.convert_to_tensor(itself))
        return Blend(self.chains, weights)

    def on_batch(self, images):
        ops = ops_for(images)
        shape, count = ops.shape(images), self.weights.shape[1] - 1
        results = run(ops.repeat(images, count, axis=0), self._flat)
        results = ops.cast(ops.reshape(results, (-1, count, *shape[1:])), "float32")
        weights = self.weights[:, :, None, None, None]
        total = weights[:, 0] * ops.cast(images, "float32")
        return like(total + ops.sum(weights[:, 1:] * results, axis=1), images)

    def on_image(self, image, i):
        import cv2

        # A weight is a factor on the way to float32, so that each pass is one over the memory.
        total = cv2.addWeighted(image, self.weights[i, 0], image, 0, 0, dtype=cv2.CV_32F)
        for number, weight in enumerate(self.weights[i, 1:]):
            result, row = image, i * (self.weights.shape[1] - 1) + number
            for stage, needed in zip(self._flat, self._to_do, strict=True):
                if needed[row]:
                    result = stage.on_image(result, row)
            total = cv2.addWeighted(total, 1, result, weight, 0, dtype=cv2.CV_32F)
        if image.dtype == np.uint8:
            total = cv2.convertScaleAbs(total)
        return with_channels(total, image)

    def does_nothing(self):
        return self.weights[:, 0] == 1

    def describe(self, i, size):
        count = self.weights.shape[1] - 1
        words = [f"{self.weights[i, 0]:.2f} of itself"]
        for number in range(count):
            row = i * count + number
            steps = [
                stage.describe(row, size)
                for stage, needed in zip(self._flat, self._to_do, strict=True)
                if needed[row]
            ]
            words.append(f"{self.weights[i, number + 1]:.2f} of ({', '.join(steps)})")
        return " + ".join(words)

    @functools.cached_property
    def _flat(self):
        """The stages of the chains, with a row for each chain of each image."""
        return _reshaped(self.chains[0], (-1,), axes=2)

    @functools.cached_property
    def _to_do(self):
        return [~stage.does_nothing() for stage in self._flat]


def _reshaped(stages, first, axes=1):
    """Returns stages with other first axes of their tensors, in the place of so many."""
    tensors = flatten(stages)
    return unflatten(
        stages,
        [ops_for(tensor).reshape(tensor, (*first, *tensor.shape[axes:])) for tensor in tensors],
    )


def gamma_quantiles(alpha: float, steps: int = 4096) -> np.ndarray:
    """Tabulates the inverse of the cumulative Gamma distribution, see `beta_quantiles`.

    Args:
        alpha: Number above 0, the shape parameter. The scale is 1.
        steps: Integer, the number of equal steps of probability.

    Returns:
        A float32 array of shape (steps + 1,). The last step, which has no end, is cut off where a
        share of 1 in 100 of it is left.
    """
    # The logarithm of the variable has a smooth density without poles.
    low = (math.log(1e-9) + math.lgamma(alpha + 1)) / alpha
    high = math.log(alpha + 40 + 10 * math.sqrt(alpha))
    points = np.linspace(low, high, 64 * steps)
    density = np.exp(alpha * points - np.exp(points) - math.lgamma(alpha))
    probability = np.cumsum(density) * (points[1] - points[0])
    wanted = np.linspace(0.0, 1.0, steps + 1)
    wanted[-1] = 1 - 1e-2 / steps
    return np.exp(np.interp(wanted, probability / probability[-1], points)).astype("float32")
