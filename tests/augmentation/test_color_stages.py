"""The stages of color on both engines, against Pillow."""

import keras
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from keras_optkit.augmentation.backend import on_the_host
from keras_optkit.augmentation.color_stages import LUMA, ColorMatrix, Curve, Levels, Sharpness
from keras_optkit.augmentation.host import apply_on_host
from keras_optkit.augmentation.stages import apply, flatten, unflatten

FACTORS = (0.0, 0.1, 0.5, 1.0, 1.4, 1.9)


def pictures():
    """Images of 17x23 pixels with few values, many values, edges, and one value only."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:17, :23]
    waves = [128 + 90 * np.sin(x / (3 + c)) * np.cos(y / 4) for c in range(3)]
    return np.stack(
        [
            rng.integers(0, 256, (17, 23, 3)),
            np.stack(waves, axis=-1),
            rng.integers(60, 90, (17, 23, 3)),
            rng.choice([0, 7, 200, 255], (17, 23, 3)),
            np.full((17, 23, 3), 77),
        ]
    ).astype("uint8")


def blends(factors, degenerate):
    """Color matrices that blend with what a matrix of shape (3, 3) makes of an image."""
    factors = factors[:, None, None]
    matrices = np.eye(3) * factors + (1 - factors) * degenerate
    return np.concatenate([matrices, np.zeros((len(factors), 3, 1))], axis=2).astype("float32")


GREY = np.tile(np.array(LUMA, "float32"), (3, 1))
BLACK = np.zeros((3, 3))

# Name: parameters, what Pillow does to an image, and the stage for a batch.
CASES = {
    "brightness": (
        FACTORS,
        lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
        lambda factors: ColorMatrix(blends(factors, BLACK)),
    ),
    "color": (
        FACTORS,
        lambda image, factor: ImageEnhance.Color(image).enhance(factor),
        lambda factors: ColorMatrix(blends(factors, GREY)),
    ),
    "contrast": (
        FACTORS,
        lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
        lambda factors: ColorMatrix(blends(factors, BLACK), 1 - factors),
    ),
    "sharpness": (
        FACTORS,
        lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
        lambda factors: Sharpness(factors),
    ),
    "posterize": (
        range(1, 9),
        ImageOps.posterize,
        lambda bits: Curve(steps=2 ** (8 - bits)),
    ),
    "solarize": (
        (0, 1, 77, 128, 255, 256),
        ImageOps.solarize,
        lambda thresholds: Curve(thresholds=thresholds),
    ),
    "solarize add": (
        (0, 11, 110),
        lambda image, n: image.point(lambda x: min(x + n, 255) if x < 128 else x),
        lambda additions: Curve(additions=additions),
    ),
    "gamma": (
        (0.4, 1, 2.2),
        lambda image, gamma: image.point(lambda x: round(255 * (x / 255) ** gamma)),
        lambda gammas: Curve(gammas=gammas),
    ),
    "invert": (
        (0,),
        lambda image, _: ImageOps.invert(image),
        lambda zeros: Curve(thresholds=zeros),
    ),
    "autocontrast": (
        (1,),
        lambda image, _: ImageOps.autocontrast(image),
        lambda ones: Levels(autocontrast=ones > 0),
    ),
    "equalize": (
        (1,),
        lambda image, _: ImageOps.equalize(image),
        lambda ones: Levels(equalize=ones > 0),
    ),
}
# Where Pillow cuts off what is behind the point, and this package rounds.
ROUNDED = ("brightness", "color", "contrast", "sharpness", "autocontrast")


def batch_of(name):
    """Returns each picture with each parameter: images, parameters as a column, the stage."""
    parameters, _, make = CASES[name]
    images = np.repeat(pictures(), len(parameters), axis=0)
    column = np.tile(np.array(parameters, "float32"), len(pictures()))
    return images, column, make(column)


def engines(images, stage, value_range=None):
    tensors = unflatten([stage], [keras.ops.convert_to_tensor(x) for x in flatten([stage])])
    on_tensors = apply(keras.ops.convert_to_tensor(images), tensors, value_range)
    return {
        "graph": keras.ops.convert_to_numpy(on_tensors),
        "host": apply_on_host(images, [stage], value_range),
    }


def difference(a, b):
    return np.abs(a.astype("float64") - b.astype("float64")).max()


@pytest.mark.parametrize("grey", [False, True], ids=["rgb", "grey"])
@pytest.mark.parametrize("name", CASES)
def test_against_pillow(name, grey):
    images, parameters, stage = batch_of(name)
    if grey:
        images = images[..., :1]
    types = (float, int)[name in ("posterize", "solarize", "solarize add")]
    pillows = [Image.fromarray(x[..., 0] if grey else x) for x in images]
    function = CASES[name][1]
    expected = [
        np.asarray(function(image, types(parameter))).reshape(images.shape[1:])
        for image, parameter in zip(pillows, parameters, strict=True)
    ]
    given = images.copy()
    for result in engines(images, stage).values():
        assert result.dtype == "uint8"
        assert difference(result, np.stack(expected)) <= (name in ROUNDED)
    np.testing.assert_array_equal(images, given)


@pytest.mark.parametrize("value_range", [(0.0, 255.0), (-1.0, 1.0)])
@pytest.mark.parametrize("name", CASES)
def test_float_images_are_treated_as_uint8_images_are(name, value_range):
    images, _, stage = batch_of(name)
    expected = apply_on_host(images, [stage])
    low, high = value_range
    floats = (images / 255 * (high - low) + low).astype("float32")
    results = engines(floats, stage, value_range)
    for result in results.values():
        assert result.dtype == "float32"
        # Half a level is rounding, of the smoothed image too. The rest is the contrast's mean.
        assert difference((result - low) / (high - low) * 255, expected) <= 1.1
    assert difference(*results.values()) <= 1e-3 * (high - low)


@pytest.mark.parametrize("name", CASES)
def test_gated(name):
    images, _, stage = batch_of(name)
    on = np.arange(len(images)) % 2 == 0
    with on_the_host():
        gated = stage.gated(on)
        assert gated.does_nothing()[~on].all()
    wholes = engines(images, stage)
    for engine, result in engines(images, gated).items():
        expected = np.where(on[:, None, None, None], wholes[engine], images)
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (ColorMatrix(blends(np.full(1, 1.3, "float32"), BLACK)), "brightness 1.30"),
        (ColorMatrix(blends(np.full(1, 0.5, "float32"), GREY)), "colors 0.50"),
        (
            ColorMatrix(blends(np.full(1, 0.8, "float32"), BLACK), np.full(1, 0.2, "float32")),
            "contrast 0.80",
        ),
        (ColorMatrix(blends(np.ones(1, "float32"), BLACK)), "no change"),
        (
            Curve(gammas=[1.2], steps=[16.0], thresholds=[0.0]),
            "gamma 1.20, posterize to 4 bits, invert",
        ),
        (Curve(additions=[11.0], thresholds=[128.0]), "add 11 below 128, solarize from 128"),
        (Levels([True], [True]), "autocontrast, equalize"),
        (Sharpness([1.9]), "sharpness 1.90"),
    ],
)
def test_describe(stage, words):
    assert stage.describe(0, (5, 9)) == words
