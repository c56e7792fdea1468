"""The stage that resamples images along an affine matrix each."""

import dataclasses
import math
from typing import Any, ClassVar

import numpy as np

from keras_optkit.augmentation.affine import composed
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.bounding_boxes import move_corners
from keras_optkit.augmentation.stages import Stage, like
from keras_optkit.augmentation.warp import flip, warp

# What `cv2` calls them. It is imported late.
_BORDERS = {
    "constant": "BORDER_CONSTANT",
    "nearest": "BORDER_REPLICATE",
    "reflect": "BORDER_REFLECT",
    "wrap": "BORDER_WRAP",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Stage):
    """One resampling, see `warp` for the meaning of the fields.

    Args:
        matrices: Float32 tensor of shape (batch, 2, 3), from pixels of the output to those of the
            input.
        interpolation: `"bilinear"` or `"nearest"`. Masks are always `"nearest"`.
        fill_mode: `"constant"`, `"nearest"`, `"reflect"` or `"wrap"`.
        fill_value: Number that `"constant"` fills images with, or `None` for 128 on the scale of
            [0, 255]. Masks are filled with 0.
        size: A pair (height, width) of the output. Defaults to that of the input.
        only_flips: Boolean, whether all matrices are flips or the identity.
        only_crops: Boolean, whether nothing is read from beyond the edge of the input.
        oversampling: Integer or scalar tensor. Each pixel of an output, but not of a mask, is the
            mean of this number squared of samples inside of it, for strong shrinking.
    """

    matrices: Any
    interpolation: str = "bilinear"
    fill_mode: str = "reflect"
    fill_value: float | None = 0.0
    size: tuple[int, int] | None = None
    only_flips: bool = False
    only_crops: bool = False
    oversampling: Any = 1

    geometric: ClassVar[bool] = True
    # OpenCV resamples as fast as XLA does, so what brings images there costs more than it saves.
    cheaper_on_host: ClassVar[bool] = False

    @property
    def scaled(self):
        return self.fill_value is None

    def gated(self, on):
        if self.size is not None:
            raise ValueError(
                "What changes the size of images can't be left out for some of them. "
                f"Received: size={self.size}"
            )
        ops = ops_for(self.matrices)
        identity = ops.convert_to_tensor(np.eye(2, 3, dtype="float32"))
        matrices = ops.where(on[:, None, None], self.matrices, identity)
        return dataclasses.replace(self, matrices=matrices)

    def on_batch(self, images):
        if self.only_flips and self.size is None:
            return flip(images, self.matrices)
        settings = (self.interpolation, self.fill_mode, self._fill)
        if not self._is_oversampled:
            return warp(images, self.matrices, *settings, self.size)
        ops, times = ops_for(images), self.oversampling
        batch, height, width, channels = ops.shape(images)
        height, width = self.size or (height, width)
        fine = warp(images, self._fine_matrices(), *settings, (times * height, times * width))
        fine = ops.cast(fine, "float32")
        fine = ops.reshape(fine, (batch, height, times, width, times, channels))
        return like(ops.mean(fine, axis=(2, 4)), images)

    @property
    def _fill(self):
        return 128.0 if self.fill_value is None else self.fill_value

    def on_masks(self, masks):
        if self.only_flips and self.size is None:
            return flip(masks, self.matrices)
        return warp(masks, self.matrices, "nearest", self.fill_mode, size=self.size)

    def on_boxes(self, corners):
        return move_corners(corners, self.matrices)

    def does_nothing(self):
        ops = ops_for(self.matrices)
        if self.size is not None:
            return ops.zeros_like(self.matrices[:, 0, 0], dtype="bool")
        return ops.all(self.matrices == np.eye(2, 3, dtype="float32"), axis=(1, 2))

    def on_image(self, image, i):
        import cv2

        matrix = self._fine_matrices()[i]
        height, width = image.shape[:2]
        flipped = None if self.size else _as_flip(matrix, height, width)
        if flipped is not None:
            return with_channels(cv2.flip(image, flipped), image)
        flags = cv2.INTER_LINEAR if self.interpolation == "bilinear" else cv2.INTER_NEAREST
        result = cv2.warpAffine(
            image,
            matrix,
            tuple(int(self.oversampling) * n for n in (self.size or (height, width))[::-1]),
            flags=flags | cv2.WARP_INVERSE_MAP,
            borderMode=getattr(cv2, _BORDERS[self.fill_mode]),
            borderValue=(self._fill,) * 4,
        )
        if self._is_oversampled:
            size = (self.size or (height, width))[::-1]
            result = cv2.resize(result, size, interpolation=cv2.INTER_AREA)
        return with_channels(result, image)

    def describe(self, i, size):
        matrix = self.matrices[i].astype("float64")
        # What moves a point of the input to where it is seen in the output.
        forward = np.linalg.inv(matrix[:, :2])
        height, width = self.size or size
        centre = matrix[:, :2] @ ((width - 1) / 2, (height - 1) / 2) + matrix[:, 2]
        if self.size is not None:
            factor = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
            words = [f"{factor * width:.0f} x {factor * height:.0f} px around"]
            words.append(f"({centre[0]:.0f}, {centre[1]:.0f})")
            return " ".join(words)
        right, down = -forward @ (centre - ((width - 1) / 2, (height - 1) / 2))
        mirrored = np.linalg.det(forward) < 0
        x = forward[:, 0] * (-1 if mirrored else 1)
        turn, zoom = -math.degrees(math.atan2(x[1], x[0])), abs(np.linalg.det(forward)) ** 0.5
        words = {
            "flip": mirrored,
            f"turn {round(turn):+d}\N{DEGREE SIGN}": abs(turn) >= 0.5,
            f"zoom {zoom:.2f}": abs(zoom - 1) >= 0.005,
            f"shift {round(right):+d}, {round(down):+d} px": max(abs(right), abs(down)) >= 0.5,
        }
        words = [word for word, is_seen in words.items() if is_seen]
        return " ".join(words) or "moved a little"

    def fused(self, following):
        if not isinstance(following, Affine):
            return None
        settings = [
            (stage.interpolation, stage.fill_mode, stage.fill_value) for stage in (self, following)
        ]
        # What only flips mixes no pixels, and what only crops reads nothing from beyond the edge,
        # so the settings of the other one hold.
        stages = [self, following]
        stages.sort(key=lambda stage: stage.only_flips or stage.only_crops)
        if settings[0] != settings[1] and not stages[1].only_flips:
            if self.interpolation != following.interpolation or not stages[1].only_crops:
                return None
        both = (self, following)
        return dataclasses.replace(
            stages[0],
            matrices=composed(self.matrices, following.matrices),
            size=following.size or self.size,
            only_flips=all(stage.only_flips for stage in both),
            only_crops=all(stage.only_flips or stage.only_crops for stage in both),
            oversampling=self.oversampling * following.oversampling,
        )

    @property
    def _is_oversampled(self):
        return not isinstance(self.oversampling, int) or self.oversampling > 1

    def _fine_matrices(self):
        """Returns the matrices for an output with `oversampling` times as many pixels a side."""
        if not self._is_oversampled:
            return self.matrices
        ops = ops_for(self.matrices)
        share = 1 / ops.cast(self.oversampling, "float32")
        linear = self.matrices[:, :, :2]
        first = self.matrices[:, :, 2:] + ops.sum(linear, axis=2, keepdims=True) * (share - 1) / 2
        return ops.concatenate([linear * share, first], axis=2)


def with_channels(result: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Returns what `cv2` made of an image with the axis of channels, which it drops if it is 1."""
    return result if result.ndim == image.ndim else result[..., None]


def _as_flip(matrix: np.ndarray, height: int, width: int) -> int | None:
    """Returns the code of `cv2.flip` for a matrix that only flips, and else `None`."""
    (a, b, x), (c, d, y) = matrix.tolist()
    if b or c or abs(a) != 1 or abs(d) != 1:
        return None
    if (x, y) != ((0.0 if a == 1 else width - 1.0), (0.0 if d == 1 else height - 1.0)):
        return None
    return {(-1, 1): 1, (1, -1): 0, (-1, -1): -1}.get((int(a), int(d)))
