"""The graph engine: one affine resampling per image, by gather, on every backend and under XLA."""

from collections.abc import Callable
from typing import Any

import keras

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.core.messages import did_you_mean

INTERPOLATIONS = ("bilinear", "nearest")
FILL_MODES = ("constant", "nearest", "reflect", "wrap")


def warp(
    images: Any,
    matrices: Any,
    interpolation: str = "bilinear",
    fill_mode: str = "reflect",
    fill_value: float = 0.0,
    size: tuple[int, int] | None = None,
) -> Any:
    """Resamples each image of a batch once, along its own affine matrix.

    Pixel (x, y) of an output is read at `matrix @ (x, y, 1)` of its input. Coordinates are those
    of `cv2.warpAffine(..., flags=cv2.WARP_INVERSE_MAP)`: x counts columns and y rows, whole
    numbers are pixel centres, (0, 0) is the centre of the first pixel. What lies outside of the
    image is, for a row of pixels `a b c d`:

    - `"constant"`: `k k k k | a b c d | k k k k` with `k` the fill value; pixels are interpolated
      with it at the edge. SciPy's `"grid-constant"`, OpenCV's `BORDER_CONSTANT`.
    - `"nearest"`: `a a a a | a b c d | d d d d`. SciPy's `"nearest"`, `BORDER_REPLICATE`.
    - `"reflect"`: `d c b a | a b c d | d c b a`. SciPy's `"reflect"`, `BORDER_REFLECT`.
    - `"wrap"`: `a b c d | a b c d | a b c d`. SciPy's `"grid-wrap"`, `BORDER_WRAP`.

    Args:
        images: Tensor of shape (batch, height, width, channels), of any data type.
        matrices: Float32 tensor of shape (batch, 2, 3), see `affine_matrices`.
        interpolation: `"bilinear"`, or `"nearest"`, which rounds halves up and mixes no values.
        fill_mode: One of `"constant"`, `"nearest"`, `"reflect"` and `"wrap"`.
        fill_value: Number, the `k` above.
        size: A pair (height, width) of the output. Defaults to that of the images.

    Returns:
        A tensor of the shape, but for `size`, and data type of `images`. It is computed in float32;
        integers are rounded to the nearest.

    Example:

    >>> image = np.arange(4.0).reshape((1, 1, 4, 1))
    >>> half_a_pixel = np.array([[[1, 0, 0.5], [0, 1, 0]]], "float32")
    >>> row = warp(image, half_a_pixel, fill_mode="nearest")
    >>> keras.ops.convert_to_numpy(row).ravel().tolist()
    [0.5, 1.5, 2.5, 3.0]
    """
    ops = ops_for(images)
    images = ops.convert_to_tensor(images)
    dtype = keras.backend.standardize_dtype(images.dtype)
    batch, height, width, channels = ops.shape(images)
    shape = (batch, *(size or (height, width)), channels)

    # Whole numbers stay floats until they index: integer division is slow and does not vectorize.
    x = ops.reshape(ops.arange(shape[2], dtype="float32"), (1, 1, -1))
    y = ops.reshape(ops.arange(shape[1], dtype="float32"), (1, -1, 1))
    m = ops.cast(matrices, "float32")[:, :, :, None, None]
    x, y = (m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in (0, 1))
    first = ops.reshape(ops.arange(batch, dtype="int32") * (height * width), (-1, 1, 1))
    gather = _gather(images, ops)

    def read(x, y):
        columns = ops.cast(_extend(x, width, fill_mode, ops), "int32")
        rows = ops.cast(_extend(y, height, fill_mode, ops), "int32")
        pixels = gather(first + rows * width + columns)
        if interpolation == "bilinear":
            pixels = ops.cast(pixels, "float32")
        if fill_mode != "constant":
            return pixels
        inside = (x >= 0) & (x < ops.cast(width, "float32"))
        inside = inside & (y >= 0) & (y < ops.cast(height, "float32"))
        return ops.where(inside[..., None], pixels, ops.cast(fill_value, pixels.dtype))

    if interpolation == "nearest":
        return ops.reshape(read(ops.floor(x + 0.5), ops.floor(y + 0.5)), shape)
    left, top = ops.floor(x), ops.floor(y)
    right_share, bottom_share = (x - left)[..., None], (y - top)[..., None]
    above = _blend(read(left, top), read(left + 1, top), right_share)
    below = _blend(read(left, top + 1), read(left + 1, top + 1), right_share)
    pixels = ops.reshape(_blend(above, below, bottom_share), shape)
    if "int" in dtype:
        pixels = ops.round(pixels)
    return ops.cast(pixels, dtype)


def flip(images: Any, matrices: Any) -> Any:
    """Does what `warp` does, at a fraction of the cost, for matrices that flip and nothing else.

    Args:
        images: Tensor of shape (batch, height, width, channels), of any data type.
        matrices: Float32 tensor of shape (batch, 2, 3), each the identity or a flip.

    Returns:
        A tensor of the shape and data type of `images`.
    """
    ops = ops_for(images)
    for axis, scale in ((2, matrices[:, 0, 0]), (1, matrices[:, 1, 1])):
        flipped = ops.flip(images, axis=axis)
        images = ops.where((scale < 0)[:, None, None, None], flipped, images)
    return images


def check_sampling(interpolation: str, fill_mode: str, fill_value: float) -> None:
    """Raises `ValueError` unless `warp` knows what it is asked for."""
    for name, value, allowed in (
        ("interpolation", interpolation, INTERPOLATIONS),
        ("fill_mode", fill_mode, FILL_MODES),
    ):
        if value not in allowed:
            raise ValueError(
                f"`{name}` must be one of {allowed}. {did_you_mean(str(value), allowed)} "
                f"Received: {name}={value!r}"
            )
    if not isinstance(fill_value, (int, float)) or not -3e38 < fill_value < 3e38:
        raise ValueError(
            f"`fill_value` must be a finite number. Received: fill_value={fill_value!r}"
        )


def _extend(index: Any, size: Any, fill_mode: str, ops: Any) -> Any:
    """Maps whole float numbers, in [0, size) or not, to the pixels that they stand for."""
    size = ops.cast(size, "float32")
    if fill_mode == "reflect":
        index = _modulo(index, 2 * size, ops)
        return ops.minimum(index, 2 * size - 1 - index)
    if fill_mode == "wrap":
        return _modulo(index, size, ops)
    return ops.clip(index, 0.0, size - 1)


def _modulo(index: Any, period: Any, ops: Any) -> Any:
    # The half keeps the quotient away from whole numbers, where float32 could round it up.
    return index - period * ops.floor((index + 0.5) / period)


def _blend(a: Any, b: Any, share_of_b: Any) -> Any:
    return a * (1 - share_of_b) + b * share_of_b


def _gather(images: Any, ops: Any) -> Callable[[Any], Any]:
    """Returns a function from the numbers of pixels, counted over the batch, to these pixels."""
    channels = ops.shape(images)[-1]
    if keras.backend.backend() == "jax" and ops is keras.ops:
        # XLA as JAX runs it on a CPU gathers single numbers three times as fast as rows of three.
        numbers, channel = ops.reshape(images, (-1,)), ops.arange(channels, dtype="int32")
        return lambda index: ops.take(numbers, index[..., None] * channels + channel, axis=0)
    pixels = ops.reshape(images, (-1, channels))
    return lambda index: ops.take(pixels, index, axis=0)
