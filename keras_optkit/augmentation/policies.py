"""The operations that AutoAugment and its successors choose from, and how they are applied.

An operation has one value: what it does, in a unit of its own. A table of a policy holds, for each
image, the numbers of its operations in `OPERATIONS` and their values.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_optkit.augmentation.affine import about_centre, composed
from keras_optkit.augmentation.affine_stage import Affine
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.color_stages import LUMA, ColorMatrix, Curve, Levels, Sharpness
from keras_optkit.augmentation.stages import Stage
from keras_optkit.core.messages import did_you_mean

# The units: of the two shears a slope, of the translations pixels (they read from the right, or
# from below), of the rotation degrees counter-clockwise, of posterizing the bits that stay, of
# solarizing the threshold, and of the enhancements Pillow's factor, 1 of which does nothing.
OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "AutoContrast",
    "Equalize",
    "Invert",
    "Posterize",
    "Solarize",
    "SolarizeAdd",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
)
_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def check_operations(operations: Any, allowed: Sequence[str] = OPERATIONS) -> tuple[str, ...]:
    """Returns a list of names of operations as a tuple, or raises `ValueError`."""
    if isinstance(operations, str) or not isinstance(operations, (tuple, list)) or not operations:
        raise ValueError(
            f"`operations` must be a list of one name or more. Received: operations={operations!r}"
        )
    for name in operations:
        if name not in allowed:
            raise ValueError(
                f"`operations` must be names of operations. {did_you_mean(str(name), allowed)} "
                f"Received: {name!r} in operations={list(operations)!r}"
            )
    return tuple(operations)


def look_up_operations(names: Sequence[str], index: Any) -> Any:
    """Returns numbers of operations in `OPERATIONS`, given those in a list of names.

    Args:
        names: Strings.
        index: Int32 tensor.
    """
    ops = ops_for(index)
    numbers = np.array([_NUMBER[name] for name in names], "int32")
    return ops.take(ops.convert_to_tensor(numbers), index, axis=0)


def interpolated_values(
    ranges: dict[str, tuple[float, float, bool]],
    operations: Any,
    levels: Any,
    signs: Any,
    height: Any,
    width: Any,
) -> Any:
    """Turns levels into values: a level of 0 is the start of an operation's range, 1 its end.

    Args:
        ranges: For the names of operations (start, end, signed). A signed operation goes to the
            end or as far into the other direction. Translations are in shares of the size.
        operations: Int32 tensor, numbers of operations.
        levels: Float32 tensor of the same shape, in [0, 1].
        signs: Float32 tensor of the same shape, -1 or 1.
        height: The height of the images in pixels, for translations.
        width: The width of the images in pixels.

    Returns:
        A float32 tensor of the same shape.
    """
    ops = ops_for(levels)
    columns = np.zeros((3, len(OPERATIONS)), "float32")
    for name, column in ranges.items():
        columns[:, _NUMBER[name]] = column
    start, end, signed = (
        ops.take(ops.convert_to_tensor(column), operations, axis=0) for column in columns
    )
    values = start + ops.where(signed > 0, signs, 1.0) * (end - start) * levels
    sizes = ops.where(
        operations == _NUMBER["TranslateX"],
        ops.cast(width, "float32"),
        ops.where(operations == _NUMBER["TranslateY"], ops.cast(height, "float32"), 1.0),
    )
    whole = (operations == _NUMBER["Posterize"]) | (operations == _NUMBER["SolarizeAdd"])
    return ops.where(whole, ops.round(values), values * sizes)


def operation_stages(
    operations: Any,
    values: Any,
    height: Any,
    width: Any,
    names: Sequence[str] = OPERATIONS,
    interpolation: str = "bilinear",
    fill_mode: str = "constant",
    fill_value: float | None = None,
) -> list[Stage]:
    """Turns operations, which each image goes through one after the other, into stages.

    Two operations of an image need one resampling at most: the colors of the first one come
    before it and those of the second one behind it. Two geometric operations in a row are composed
    into it, where pixels that the first one alone would move out of the picture may come back.

    Args:
        operations: Int32 tensor of shape (batch, steps), numbers of operations.
        values: Float32 tensor of shape (batch, steps).
        height: The height of the images in pixels.
        width: The width of the images in pixels.
        names: The operations that there may be. Others are not looked for.
        interpolation: See `warp`, as for the following.
        fill_mode: String.
        fill_value: Number, or `None` for middle grey.

    Returns:
        A list of stages.
    """
    stages = []
    steps = [(operations[:, i], values[:, i]) for i in range(operations.shape[1])]
    for first in range(0, len(steps), 2):
        pair = steps[first : first + 2]
        stages += _color_stages(*pair[0], names)
        if set(names) & set(_GEOMETRIC):
            matrices = [_matrices(*step, height, width, names) for step in pair]
            matrices = matrices[0] if len(matrices) == 1 else composed(*matrices)
            stages.append(Affine(matrices, interpolation, fill_mode, fill_value))
        if len(pair) == 2:
            stages += _color_stages(*pair[1], names)
    return stages


def _color_stages(operations, values, names):
    ops = ops_for(values)
    names = set(names)

    def value_of(name, otherwise):
        if name not in names:
            return otherwise
        return ops.where(operations == _NUMBER[name], values, otherwise)

    def chosen(name):
        return operations == _NUMBER[name] if name in names else None

    stages = []
    if names & {"Color", "Contrast", "Brightness"}:
        ones = ops.ones_like(values)
        contrast = value_of("Contrast", ones)
        color, factor = value_of("Color", ones), value_of("Brightness", ones) * contrast
        weights = 1 - contrast if "Contrast" in names else None
        stages.append(ColorMatrix(saturation_matrices(color, factor), weights))
    if names & {"Posterize", "Solarize", "SolarizeAdd", "Invert"}:
        steps = thresholds = None
        if "Posterize" in names:
            bits = value_of("Posterize", 8 * ops.ones_like(values))
            steps = ops.where(chosen("Posterize"), ops.power(2.0, 8 - bits), 0.0)
        if names & {"Solarize", "Invert"}:
            thresholds = value_of("Solarize", 256 * ops.ones_like(values))
            if "Invert" in names:
                thresholds = ops.where(chosen("Invert"), ops.zeros_like(values), thresholds)
        additions = value_of("SolarizeAdd", ops.zeros_like(values))
        additions = additions if "SolarizeAdd" in names else None
        stages.append(Curve(additions=additions, steps=steps, thresholds=thresholds))
    if names & {"AutoContrast", "Equalize"}:
        stages.append(Levels(chosen("AutoContrast"), chosen("Equalize")))
    if "Sharpness" in names:
        stages.append(Sharpness(value_of("Sharpness", ops.ones_like(values))))
    return stages


def saturation_matrices(saturations: Any, factors: Any) -> Any:
    """Returns color matrices that blend with grey and then multiply.

    Args:
        saturations: Float32 tensor of shape (batch,): 0 is grey, 1 the image itself.
        factors: Float32 tensor of shape (batch,).

    Returns:
        A float32 tensor of shape (batch, 3, 4), see `ColorMatrix`.
    """
    ops = ops_for(saturations)
    identity = ops.convert_to_tensor(np.eye(3, 4, dtype="float32"))
    grey = ops.convert_to_tensor(np.array([[*LUMA, 0]] * 3, "float32"))
    saturations, factors = saturations[:, None, None], factors[:, None, None]
    # A saturation of 1 has to be exactly the identity, which costs nothing.
    return factors * (saturations * identity + (1 - saturations) * grey)


def _matrices(operations, values, height, width, names):
    """Returns the matrices of geometric operations, and the identity for all others."""
    ops = ops_for(values)
    zeros = ops.zeros_like(values)
    height, width = ops.cast(height, "float32"), ops.cast(width, "float32")

    def value_of(name):
        if name not in names:
            return zeros
        return ops.where(operations == _NUMBER[name], values, zeros)

    angle = value_of("Rotate") * (math.pi / 180)
    cos, sin = ops.cos(angle), ops.sin(angle)
    turn = about_centre(((cos, -sin), (sin, cos)), (zeros, zeros), height, width)
    shear_x, shear_y = value_of("ShearX"), value_of("ShearY")
    # A shear leaves the upper left corner where it is, which is half a pixel off the first pixel.
    move = ops.stack(
        [
            ops.stack([zeros, shear_x, shear_x / 2 + value_of("TranslateX")], axis=-1),
            ops.stack([shear_y, zeros, shear_y / 2 + value_of("TranslateY")], axis=-1),
        ],
        axis=1,
    )
    return turn + move
