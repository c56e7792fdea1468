"""The stage that mixes each image of a batch with another one of it."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.label_mixing import mix
from keras_optkit.augmentation.rectangles import inside
from keras_optkit.augmentation.stages import Stage, like


@dataclasses.dataclass(frozen=True)
class Mix(Stage):
    """Blends images with their partners, or puts a patch of the partner into them.

    Args:
        partner: Int32 tensor of shape (batch,), the rows of the partners.
        ratio: Float32 tensor of shape (batch,), the share of the image itself.
        boxes: Int32 tensor of shape (batch, 4), the patches, see `draw_rectangles`, or `None` to
            blend.
    """

    partner: Any
    ratio: Any
    boxes: Any = None

    geometric: ClassVar[bool] = True
    whole_batch: ClassVar[bool] = True
    scaled: ClassVar[bool] = False

    def on_batch(self, images):
        if self.boxes is None:
            return like(mix(images, self.partner, self.ratio), images)
        ops = ops_for(images)
        _, height, width, _ = ops.shape(images)
        patch = inside(self.boxes, height, width)[..., None]
        return ops.where(patch, ops.take(images, self.partner, axis=0), images)

    def on_masks(self, masks):
        if self.boxes is None:
            return ops_for(masks).cast(mix(masks, self.partner, self.ratio), masks.dtype)
        return self.on_batch(masks)

    def on_arrays(self, images: np.ndarray) -> np.ndarray:
        """Applies the stage, of which the tensors are NumPy arrays, to a batch of images."""
        import cv2

        result = np.array(images)
        for i, partner in enumerate(self.partner.tolist()):
            if self.boxes is None:
                share = float(self.ratio[i])
                cv2.addWeighted(images[i], share, images[partner], 1 - share, 0, dst=result[i])
            else:
                top, left, bottom, right = self.boxes[i].tolist()
                patch = slice(top, bottom), slice(left, right)
                result[i][patch] = images[partner][patch]
        return result

    def describe(self, i, size):
        what = "mix with" if self.boxes is None else "patch of"
        return f"{what} {self.partner[i]}, keep {self.ratio[i]:.2f}"

    def does_nothing(self):
        return (self.ratio == 1) | (self.partner == np.arange(len(self.partner)))
