"""The stages that change the values of pixels and leave the pixels where they are.

Values are on a scale of [0, 255]. What depends on the whole numbers of uint8 images treats float
images alike, but for a tolerance of a thousandth of a grey level.
"""

import dataclasses
import functools
from typing import Any, ClassVar

import keras
import numpy as np

from keras_optkit.augmentation.affine_stage import with_channels
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.stages import Stage, like, per_image

# The shares of red, green and blue in grey, ITU-R BT.601. Pillow's mode "L" has the same.
LUMA = (0.299, 0.587, 0.114)
# Float images that were whole numbers once may be this far off.
_TOLERANCE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class ColorMatrix(Stage):
    """A linear map of the colors of each pixel: brightness, contrast, saturation, hue, grey.

    A pixel `p` becomes `matrix @ (p, 1) + mean_weight * m`, limited to [0, 255], where `m` is the
    mean of the grey of the image, a whole number for uint8. A grey image is taken for a color
    image of which all channels are alike.

    Args:
        matrices: Float32 tensor of shape (batch, 3, 4).
        mean_weights: Float32 tensor of shape (batch,), or `None` for zeros.
    """

    matrices: Any
    mean_weights: Any = None

    local: ClassVar[bool] = True

    def gated(self, on):
        ops = ops_for(self.matrices)
        identity = ops.convert_to_tensor(np.eye(3, 4, dtype="float32"))
        weights = self.mean_weights
        return ColorMatrix(
            ops.where(on[:, None, None], self.matrices, identity),
            None if weights is None else ops.where(on, weights, ops.zeros_like(weights)),
        )

    def on_batch(self, images):
        ops = ops_for(images)
        x = ops.cast(images, "float32")
        channels = [x[..., i] for i in range(x.shape[-1])]
        offset = 0.0
        if self.mean_weights is not None:
            grey = sum(share * channel for share, channel in zip(_luma(x), channels, strict=True))
            mean = ops.mean(grey, axis=(1, 2))
            if keras.backend.standardize_dtype(images.dtype) == "uint8":
                mean = ops.floor(mean + 0.5)
            offset = (self.mean_weights * mean)[:, None, None]
        m = self._for_channels(len(channels))[:, :, :, None, None]
        rows = [
            sum(m[:, i, j] * channel for j, channel in enumerate(channels)) + m[:, i, -1] + offset
            for i in range(len(channels))
        ]
        return like(ops.clip(ops.stack(rows, axis=-1), 0, 255), images)

    def on_image(self, image, i):
        import cv2

        matrix = self._for_channels(image.shape[-1])[i]
        if self.mean_weights is not None and self.mean_weights[i]:
            mean = float(np.dot(cv2.mean(image)[: image.shape[-1]], _luma(image)))
            mean = np.floor(mean + 0.5) if image.dtype == np.uint8 else mean
            matrix = matrix.copy()
            matrix[:, -1] += self.mean_weights[i] * mean
        return limited(with_channels(cv2.transform(image, matrix), image))

    def does_nothing(self):
        ops = ops_for(self.matrices)
        still = ops.all(self.matrices == np.eye(3, 4, dtype="float32"), axis=(1, 2))
        return still if self.mean_weights is None else still & (self.mean_weights == 0)

    def describe(self, i, size):
        matrix = self.matrices[i, :, :3]
        factor = matrix.sum() / 3
        weight = 0.0 if self.mean_weights is None else self.mean_weights[i]
        words = []
        if abs(factor + weight - 1) > 1e-3:
            words.append(f"brightness {factor + weight:.2f}")
        if abs(weight) > 1e-3:
            words.append(f"contrast {factor / (factor + weight):.2f}")
        grey = np.array([LUMA] * 3) * factor
        # The colors alone, of which a hue of the same strength makes others.
        strength = np.linalg.norm(matrix - grey) / max(
            np.linalg.norm(np.eye(3) * factor - grey), 1e-9
        )
        if abs(strength - 1) > 1e-2 or abs(np.trace(matrix - grey) - 2 * factor) > 1e-2:
            words.append(f"colors {strength:.2f}")
        return ", ".join(words) or "no change"

    def _for_channels(self, channels):
        return self.matrices if channels == 3 else self._for_grey

    @functools.cached_property
    def _for_grey(self):
        """What the matrices do to a color of which all channels are alike: (batch, 1, 2)."""
        ops = ops_for(self.matrices)
        luma = ops.convert_to_tensor(np.array(LUMA, "float32")[None, :, None])
        rows = ops.sum(self.matrices * luma, axis=1)
        return ops.stack([ops.sum(rows[:, :3], axis=1), rows[:, 3]], axis=-1)[:, None]


@dataclasses.dataclass(frozen=True, eq=False)
class Curve(Stage):
    """A function of each value: addition, gamma, posterizing, solarizing, in this order.

    Fields that are `None` do nothing to any image.

    Args:
        additions: Float32 tensor of shape (batch,), what is added to values below 128, up to 255
            ("solarize add"). 0 does nothing.
        gammas: Float32 tensor of shape (batch,), exponents for values in [0, 1]. 1 does nothing.
        steps: Float32 tensor of shape (batch,), 2, 4, ..., 256: values are rounded down to
            multiples of it. 0 does nothing.
        thresholds: Float32 tensor of shape (batch,), from which on a value is replaced by 255
            minus itself. 256 does nothing, and 0 inverts.
    """

    additions: Any = None
    gammas: Any = None
    steps: Any = None
    thresholds: Any = None

    local: ClassVar[bool] = True

    def gated(self, on):
        still = {"additions": 0.0, "gammas": 1.0, "steps": 0.0, "thresholds": 256.0}
        ops = ops_for(on)
        changes = {
            name: ops.where(on, getattr(self, name), value)
            for name, value in still.items()
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, **changes)

    def on_batch(self, images):
        ops = ops_for(images)
        values = [None if value is None else per_image(value) for value in self._fields]
        x = _curve(ops.cast(images, "float32"), *values, ops=ops)
        return like(x, images)

    def on_image(self, image, i):
        import cv2

        if image.dtype == np.uint8:
            return with_channels(cv2.LUT(image, self._tables[i]), image)
        values = [None if value is None else value[i] for value in self._fields]
        return _curve(image, *values, ops=np)

    def does_nothing(self):
        fields = zip(self._fields, (0, 1, 0, 256), strict=True)
        return _all_of([field == still for field, still in fields if field is not None])

    def describe(self, i, size):
        additions, gammas, steps, thresholds = (
            still if field is None else field[i]
            for field, still in zip(self._fields, (0, 1, 0, 256), strict=True)
        )
        words = []
        if additions:
            words.append(f"add {additions:.0f} below 128")
        if gammas != 1:
            words.append(f"gamma {gammas:.2f}")
        if steps > 1:
            words.append(f"posterize to {8 - np.log2(steps):.0f} bits")
        if thresholds < 256:
            words.append(f"solarize from {thresholds:.0f}" if thresholds > 0 else "invert")
        return ", ".join(words) or "no change"

    @property
    def _fields(self):
        return self.additions, self.gammas, self.steps, self.thresholds

    @functools.cached_property
    def _tables(self):
        """What the 256 values of uint8 become, of shape (batch, 256)."""
        values = [None if value is None else value[:, None] for value in self._fields]
        x = _curve(np.arange(256, dtype="float32")[None], *values, ops=np)
        return np.clip(np.round(x), 0, 255).astype("uint8")


def _curve(x, additions, gammas, steps, thresholds, ops):
    if additions is not None:
        x = ops.where(x < 128 - _TOLERANCE, ops.clip(x + additions, 0, 255), x)
    if gammas is not None:
        powers = 255 * ops.power(ops.maximum(x, 0.0) / 255, gammas)
        x = ops.where(gammas == 1, x, powers)
    if steps is not None:
        size = ops.maximum(steps, 1.0)
        x = ops.where(steps > 0, size * ops.floor((x + _TOLERANCE) / size), x)
    if thresholds is not None:
        x = ops.where(x >= thresholds - _TOLERANCE, 255 - x, x)
    return x


@dataclasses.dataclass(frozen=True, eq=False)
class Levels(Stage):
    """Operations that look at the distribution of the values of each channel of an image.

    Autocontrast stretches the values linearly to [0, 255]. Equalizing gives all values about the
    same number of pixels, as Pillow's `ImageOps.equalize` does; it tells 256 values apart.

    Args:
        autocontrast: Boolean tensor of shape (batch,), or `None` for no image.
        equalize: Boolean tensor of shape (batch,), or `None` for no image. It comes second.
    """

    autocontrast: Any = None
    equalize: Any = None

    def gated(self, on):
        return Levels(
            None if self.autocontrast is None else self.autocontrast & on,
            None if self.equalize is None else self.equalize & on,
        )

    def on_batch(self, images):
        ops = ops_for(images)
        if self.autocontrast is not None:
            x = ops.cast(images, "float32")
            low, high = (f(x, axis=(1, 2), keepdims=True) for f in (ops.min, ops.max))
            wanted = per_image(self.autocontrast) & (high > low)
            factor = ops.where(wanted, 255 / ops.where(wanted, high - low, 1.0), 1.0)
            x = (x - ops.where(wanted, low, 0.0)) * factor
            images = like(ops.clip(x, 0, 255), images)
        if self.equalize is not None:
            images = self._equalized(images, ops)
        return images

    def _equalized(self, images, ops):
        """Goes through the images that are to be equalized, and only through these.

        A histogram costs more than all other stages together, and few images need one.
        """
        batch, height, width, channels = ops.shape(images)
        flags = ops.cast(self.equalize, "int32")
        order, number = ops.argsort(-flags), ops.sum(flags)
        values = ops.cast(ops.round(ops.cast(images, "float32")), "int32")
        values = ops.reshape(ops.clip(values, 0, 255), (batch, height * width, channels))
        values = values + 256 * ops.arange(channels, dtype="int32")
        ones = ops.ones((height * width * channels,), dtype="int32")
        still = ops.broadcast_to(
            ops.reshape(ops.arange(256, dtype="int32"), (1, 1, 256)), (batch, channels, 256)
        )

        def go_on(i, tables):
            return i < number

        def step(i, tables):
            image = ops.take(order, i)
            ids = ops.reshape(ops.take(values, image, axis=0), (-1,))
            counts = ops.segment_sum(ones, ids, num_segments=256 * channels)
            table = _equalizing(ops.reshape(counts, (channels, 256)), ops)
            chosen = ops.arange(batch, dtype="int32") == ops.cast(image, "int32")
            return i + 1, ops.where(chosen[:, None, None], table[None], tables)

        start = ops.convert_to_tensor(0, "int32")
        _, tables = ops.while_loop(go_on, step, (start, still))
        first = ops.reshape(ops.arange(batch, dtype="int32") * (256 * channels), (-1, 1, 1))
        result = ops.take(ops.reshape(tables, (-1,)), values + first)
        result = ops.cast(ops.reshape(result, (batch, height, width, channels)), "float32")
        return ops.where(per_image(self.equalize), like(result, images), images)

    def on_image(self, image, i):
        import cv2

        if self.autocontrast is not None and self.autocontrast[i]:
            image = _autocontrast(image)
        if self.equalize is not None and self.equalize[i]:
            values = image
            if image.dtype != np.uint8:
                values = np.clip(np.round(image), 0, 255).astype("uint8")
            counts = [
                cv2.calcHist([values], [c], None, [256], [0, 256]).ravel()
                for c in range(image.shape[-1])
            ]
            table = _equalizing(np.stack(counts).astype("int32"), np)
            table = np.ascontiguousarray(table.T[None]).astype("uint8")
            image = with_channels(cv2.LUT(values, table), image).astype(image.dtype, copy=False)
        return image

    def does_nothing(self):
        flags = (self.autocontrast, self.equalize)
        return _all_of([ops_for(flag).logical_not(flag) for flag in flags if flag is not None])

    def describe(self, i, size):
        flags = {"autocontrast": self.autocontrast, "equalize": self.equalize}
        words = [name for name, flag in flags.items() if flag is not None and flag[i]]
        return ", ".join(words) or "no change"


def _equalizing(counts, ops):
    """Returns what Pillow's `ImageOps.equalize` makes of the values, from their histograms.

    Args:
        counts: Int32 tensor of shape (channels, 256).
        ops: The namespace of the operations.
    """
    total = ops.sum(counts, axis=1, keepdims=True)
    values = ops.arange(256, dtype="int32")
    highest = ops.max(ops.where(counts > 0, values, 0), axis=1, keepdims=True)
    last = ops.sum(ops.where(values == highest, counts, 0), axis=1, keepdims=True)
    step = (total - last) // 255
    below = ops.cumsum(counts, axis=1) - counts
    divisor = ops.maximum(step, 1)
    table = ops.minimum((step // 2 + below) // divisor, 255)
    return ops.where(step > 0, table, values)


def _autocontrast(image):
    import cv2

    limits = [cv2.minMaxLoc(channel)[:2] for channel in cv2.split(image)]
    low, high = np.array(limits).T
    factor = np.where(high > low, 255 / np.maximum(high - low, 1e-30), 1.0)
    low = np.where(high > low, low, 0.0)
    matrix = np.hstack([np.diag(factor), (-low * factor)[:, None]])
    return limited(with_channels(cv2.transform(image, matrix), image))


@dataclasses.dataclass(frozen=True, eq=False)
class Sharpness(Stage):
    """Blends each image with its smoothed self, as Pillow's `ImageEnhance.Sharpness` does.

    Args:
        factors: Float32 tensor of shape (batch,): 0 is the smoothed image, 1 the image itself, and
            what is above sharpens.
    """

    factors: Any

    def gated(self, on):
        return Sharpness(ops_for(self.factors).where(on, self.factors, 1.0))

    def on_batch(self, images):
        ops = ops_for(images)
        x = ops.cast(images, "float32")
        rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
        box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
        inner = x[:, 1:-1, 1:-1]
        smooth = (box + 4 * inner) / 13
        if keras.backend.standardize_dtype(images.dtype) == "uint8":
            smooth = ops.round(smooth)
        # At the edge the smoothed image is the image.
        change = ops.pad((smooth - inner), ((0, 0), (1, 1), (1, 1), (0, 0)))
        result = x + (1 - per_image(self.factors)) * change
        return like(ops.clip(result, 0, 255), images)

    def on_image(self, image, i):
        import cv2

        factor = float(self.factors[i])
        smooth = with_channels(cv2.filter2D(image, -1, _SMOOTH), image)
        result = with_channels(cv2.addWeighted(image, factor, smooth, 1 - factor, 0), image)
        for edge in ((0,), (-1,), (slice(None), 0), (slice(None), -1)):
            result[edge] = image[edge]
        return limited(result)

    def does_nothing(self):
        return self.factors == 1

    def describe(self, i, size):
        return f"sharpness {self.factors[i]:.2f}"


_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], "float32") / 13


def _all_of(flags: list) -> Any:
    return functools.reduce(lambda a, b: a & b, flags)


def limited(image: np.ndarray) -> np.ndarray:
    """Limits an array of floats, which it may overwrite, to [0, 255]."""
    return image if image.dtype == np.uint8 else np.clip(image, 0, 255, out=image)


def _luma(x):
    return LUMA if x.shape[-1] == 3 else (1.0,)
