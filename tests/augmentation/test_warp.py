import cv2
import keras
import numpy as np
import pytest
from scipy import ndimage

from keras_optkit.augmentation.affine import AffineRanges, affine_matrices
from keras_optkit.augmentation.warp import check_sampling, flip, warp

BATCH, HEIGHT, WIDTH = 12, 5, 9
SCIPY_MODES = {
    "constant": "grid-constant",
    "nearest": "nearest",
    "reflect": "reflect",
    "wrap": "grid-wrap",
}
CV2_MODES = {
    "constant": cv2.BORDER_CONSTANT,
    "nearest": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
}


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def random_matrices(rng, **ranges):
    draws = rng.random((BATCH, AffineRanges.DRAWS)).astype("float32")
    return numpy(affine_matrices(AffineRanges(**ranges), draws, HEIGHT, WIDTH))


def scipy_warp(images, matrices, order, fill_mode, fill_value):
    """The reference: SciPy in float64, which counts rows first."""
    outputs = np.empty(images.shape)
    for image, output, matrix in zip(images, outputs, matrices.astype("float64"), strict=True):
        for c in range(images.shape[-1]):
            output[..., c] = ndimage.affine_transform(
                image[..., c].astype("float64"),
                matrix[::-1, 1::-1],
                matrix[::-1, 2],
                order=order,
                mode=SCIPY_MODES[fill_mode],
                cval=fill_value,
            )
    return outputs


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("fill_mode", list(SCIPY_MODES))
@pytest.mark.parametrize(("interpolation", "order"), [("bilinear", 1), ("nearest", 0)])
def test_equals_scipy_inside_and_far_outside(channels, fill_mode, interpolation, order):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(BATCH, HEIGHT, WIDTH, channels)).astype("float32")
    for ranges in (
        {"rotation": 10, "zoom": (1.2, 1.6)},  # next to nothing from outside
        {"rotation": 180, "translation": 1, "shear": 60, "zoom": (0.3, 3), "vertical_flip": True},
    ):
        matrices = random_matrices(rng, **ranges)
        outputs = warp(images, matrices, interpolation, fill_mode, 7.0)
        expected = scipy_warp(images, matrices, order, fill_mode, 7.0)
        np.testing.assert_allclose(numpy(outputs), expected, atol=2e-5)


@pytest.mark.parametrize("fill_mode", list(CV2_MODES))
def test_equals_opencv(fill_mode):
    # Multiples of 1/4, which OpenCV's fixed-point coordinates hold exactly.
    matrix = np.array([[0.5, 0.25, -4.75], [-0.25, 1.5, -3.5]], "float32")
    image = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, 3)).astype("float32")
    expected = cv2.warpAffine(
        image,
        matrix,
        (WIDTH, HEIGHT),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=CV2_MODES[fill_mode],
        borderValue=(7.0, 7.0, 7.0),
    )
    (output,) = numpy(warp(image[None], matrix[None], "bilinear", fill_mode, 7.0))
    np.testing.assert_allclose(output, expected, atol=1e-5)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("fill_mode", list(SCIPY_MODES))
def test_flips_and_whole_pixels_are_exact(interpolation, fill_mode):
    images = np.random.default_rng(0).normal(size=(4, HEIGHT, WIDTH, 3)).astype("float32")
    matrices = np.array(
        [
            [[1, 0, 0], [0, 1, 0]],
            [[-1, 0, WIDTH - 1], [0, 1, 0]],
            [[1, 0, 0], [0, -1, HEIGHT - 1]],
            [[-1, 0, WIDTH - 1], [0, -1, HEIGHT - 1]],
        ],
        "float32",
    )
    expected = [
        images[0],
        images[1, :, ::-1],
        images[2, ::-1],
        images[3, ::-1, ::-1],
    ]
    np.testing.assert_array_equal(numpy(warp(images, matrices, interpolation, fill_mode)), expected)
    np.testing.assert_array_equal(numpy(flip(images, matrices)), expected)


# 41 * (1 / 41) is below 1 in float32.
@pytest.mark.parametrize("size", [1, 2, 41])
@pytest.mark.parametrize("fill_mode", ["nearest", "reflect", "wrap"])
def test_every_pixel_outside_is_found(size, fill_mode):
    shifts = np.arange(-3 * size - 1, 3 * size + 2)
    matrices = np.zeros((len(shifts), 2, 3), "float32")
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    matrices[:, 0, 2] = shifts
    row = np.arange(size)
    images = np.broadcast_to(row.astype("float32")[None, None, :, None], (len(shifts), 1, size, 1))
    mode = {"nearest": "edge", "reflect": "symmetric", "wrap": "wrap"}[fill_mode]
    padded = np.pad(row, 4 * size + 1, mode)
    start = shifts + 4 * size + 1
    expected = padded[start[:, None] + row]
    np.testing.assert_array_equal(
        numpy(warp(images, matrices, "nearest", fill_mode))[:, 0, :, 0], expected
    )


def test_integers_are_rounded_and_keep_their_type():
    images = np.array([0, 3, 200, 255], "uint8").reshape((1, 1, 4, 1))
    shift = np.array([[[1, 0, 0.9], [0, 1, 0]]], "float32")
    output = warp(images, shift, "bilinear", "nearest")
    assert keras.backend.standardize_dtype(output.dtype) == "uint8"
    # 2.7, 180.3, 249.5 and 255: truncation would give 2, and 249 for what is above 249.5.
    np.testing.assert_array_equal(np.ravel(numpy(output))[[0, 1, 3]], [3, 180, 255])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "float16", "float32"])
def test_nearest_keeps_every_type_and_invents_no_value(dtype):
    rng = np.random.default_rng(0)
    masks = rng.choice([0, 1, 7], size=(BATCH, HEIGHT, WIDTH, 1)).astype(dtype)
    matrices = random_matrices(rng, rotation=90, zoom=0.5)
    for fill_mode in SCIPY_MODES:
        output = warp(masks, matrices, "nearest", fill_mode)
        assert keras.backend.standardize_dtype(output.dtype) == dtype
        assert set(np.unique(numpy(output))) <= set(np.unique(masks))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bilinear", "reflct", 0), r"`fill_mode` must be one of .*Did you mean 'reflect'\?"),
        (("cubic", "reflect", 0), "`interpolation` must be one of .*Received: interpolation='cub"),
        (("bilinear", None, 0), "`fill_mode` must be one of .*Received: fill_mode=None"),
        (("bilinear", "constant", float("nan")), "`fill_value` must be a finite number"),
        (("bilinear", "constant", "0"), "`fill_value` must be a finite number"),
    ],
)
def test_bad_sampling_says_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_sampling(*arguments)
