"""Random crops, resized to one size."""

import numpy as np

from keras_optkit.augmentation.affine_stage import Affine
from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.rectangles import DRAWS, check_rectangles, draw_rectangles
from keras_optkit.core.serialization import register


@register
class RandomResizedCrop(AugmentationLayer):
    """Cuts a random rectangle out of each image and resizes it to one size, in one resampling.

    Every image draws its own rectangle: a share of the area, uniformly, and a width over height,
    uniformly in its logarithm, until a rectangle fits into the image, ten times at most; then a
    place. Where none fits, and in inference for every image, it is the largest rectangle in the
    middle that has the shape of the output. So images of any size come out in one size, always.

    Images are interpolated bilinearly. Where whole images are at least 1.5 times as large as the
    output, each pixel is the mean of several samples (as many a side as the image is times as
    large, rounded), so that nothing aliases. Masks are never mixed. uint8 images come out as uint8,
    float images in the compute data type of the layer. See `AugmentationLayer` for what it can be
    called on and when it augments.

    Args:
        height: Integer, the height of the output in pixels.
        width: Integer, the width of the output in pixels.
        scale: Pair of shares of the area, 0 < low <= high <= 1.
        ratio: Pair of widths over heights, 0 < low <= high.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `bounding_box_format`, `value_range`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> images = np.zeros((4, 40, 60, 3), "uint8")
    >>> tuple(RandomResizedCrop(32, 32)(images).shape)
    (4, 32, 32, 3)

    Reference: Szegedy et al., "Going deeper with convolutions", 2014,
    https://arxiv.org/abs/1409.4842, section 6, of which `scale` and `ratio` are the defaults.
    """

    def __init__(
        self,
        height: int,
        width: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, data_format=data_format, **kwargs)
        for name, size in (("height", height), ("width", width)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise ValueError(
                    f"`{name}` must be an integer of at least 1, in pixels. "
                    f"Received: {name}={size!r}"
                )
        self.height = height
        self.width = width
        self.scale, self.ratio = check_rectangles(scale, ratio)

    def sample(self, draw, height, width):
        draws = draw(DRAWS)
        ops = ops_for(draws)
        boxes, fits = draw_rectangles(draws, self.scale, self.ratio, height, width)
        middle = self._middle(ops.ones_like(draws[:, 0]), height, width)
        return {"boxes": ops.where(fits[:, None], ops.cast(boxes, "float32"), middle)}

    def sample_inference(self, ones, height, width):
        return {"boxes": self._middle(ones, height, width)}

    def output_size(self, height, width):
        return self.height, self.width

    def stages(self, table, height, width):
        top, left, bottom, right = (table["boxes"][:, i] for i in range(4))
        ops = ops_for(top)
        rows = [
            (scale if i == 0 else 0 * scale, scale if i == 1 else 0 * scale, low + scale / 2 - 0.5)
            for i, (low, scale) in enumerate(
                ((left, (right - left) / self.width), (top, (bottom - top) / self.height))
            )
        ]
        matrices = ops.stack([ops.stack(row, axis=-1) for row in rows], axis=1)
        return [
            Affine(
                matrices,
                fill_mode="nearest",
                size=(self.height, self.width),
                only_crops=True,
                oversampling=self._oversampling(height, width),
            )
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "height": self.height,
            "width": self.width,
            "scale": self.scale,
            "ratio": self.ratio,
        }

    def _middle(self, ones, height, width):
        """Returns the largest box of the output's shape in the middle of each image."""
        ops = ops_for(ones)
        height, width = ops.cast(height, "float32"), ops.cast(width, "float32")
        shape = self.width / self.height
        rows = ops.minimum(height, width / shape)
        columns = ops.minimum(width, height * shape)
        top, left = (height - rows) / 2, (width - columns) / 2
        sides = (top, left, top + rows, left + columns)
        return ops.stack([ones * side for side in sides], axis=-1)

    def _oversampling(self, height, width):
        if isinstance(height, (int, np.integer)) and isinstance(width, (int, np.integer)):
            return max(1, round(max(height / self.height, width / self.width)))
        ops = ops_for(height)
        times = ops.maximum(
            ops.cast(height, "float32") / self.height, ops.cast(width, "float32") / self.width
        )
        return ops.cast(ops.maximum(ops.round(times), 1.0), "int32")
