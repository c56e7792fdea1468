"""The stage that overwrites a rectangle of an image, with a color or with noise."""

import dataclasses
from typing import Any, ClassVar

from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.rectangles import inside
from keras_optkit.augmentation.stages import Stage, like


@dataclasses.dataclass(frozen=True)
class Erase(Stage):
    """One rectangle per image. Masks and boxes stay as they are.

    Args:
        boxes: Int32 tensor of shape (batch, 4) with top, left, bottom and right, of which the last
            two are not inside. An empty rectangle erases nothing.
        seeds: Int32 tensor of shape (batch,) from which noise is made.
        noise: `None`, `"color"` for one random color per image or `"pixel"` for noise.
        fill_value: Number, or a tuple with one number per channel, that is put in place without
            noise.
    """

    boxes: Any
    seeds: Any
    noise: str | None = None
    fill_value: float | tuple[float, ...] = 0.0

    local: ClassVar[bool] = True
    cheaper_on_host: ClassVar[bool] = True

    @property
    def scaled(self) -> bool:
        """Whether noise, which is from 0 to 255, is put in place."""
        return self.noise is not None

    def gated(self, on):
        boxes = ops_for(self.boxes).where(on[:, None], self.boxes, 0)
        return dataclasses.replace(self, boxes=boxes)

    def on_batch(self, images):
        ops = ops_for(images)
        _, height, width, channels = ops.shape(images)
        erased = inside(self.boxes, height, width)[..., None]
        return ops.where(erased, like(self._fill(height, width, channels, ops), images), images)

    def on_image(self, image, i):
        top, left, bottom, right = self.boxes[i].tolist()
        if top >= bottom or left >= right:
            return image
        image = image.copy()
        one = dataclasses.replace(self, seeds=self.seeds[i : i + 1])
        fill = one._fill(*image.shape, ops_for(image), (top, left, bottom, right))
        image[top:bottom, left:right] = like(fill, image)[0]
        return image

    def does_nothing(self):
        return (self.boxes[:, 0] >= self.boxes[:, 2]) | (self.boxes[:, 1] >= self.boxes[:, 3])

    def describe(self, i, size):
        top, left, bottom, right = self.boxes[i].tolist()
        return f"erase {right - left} x {bottom - top} px"

    def _fill(self, height, width, channels, ops, box=None):
        """Returns what to put in place, for whole images or for a box of them."""
        if self.noise is None:
            fill = ops.cast(ops.convert_to_tensor(self.fill_value), "float32")
            return ops.reshape(fill, (1, 1, 1, -1))
        channel = ops.arange(channels, dtype="int32")
        if self.noise == "color":
            return random_bytes(self.seeds[:, None, None, None], channel)
        top, left, bottom, right = box or (0, 0, height, width)
        y, x = ops.arange(top, bottom, dtype="int32"), ops.arange(left, right, dtype="int32")
        place = (y[:, None, None] * width + x[:, None]) * channels + channel
        return random_bytes(self.seeds[:, None, None, None], place)


def random_bytes(seeds: Any, places: Any) -> Any:
    """Returns random numbers from 0 to 255, the same ones for the same place on every backend.

    The numbers are a hash of seed and place. The hash is that of Chris Wellons,
    https://nullprogram.com/blog/2018/07/31/ ("lowbias32"), in arithmetic with 32 bits.

    Args:
        seeds: Int32 tensor.
        places: Int32 tensor that broadcasts against `seeds`.

    Returns:
        A float32 tensor of whole numbers.

    Example:

    >>> seeds, places = np.zeros((1, 1), "int32"), np.arange(1, 4, dtype="int32")
    >>> keras.ops.convert_to_numpy(random_bytes(seeds, places)).tolist()
    [[192.0, 129.0, 221.0]]
    """
    ops = ops_for(places)

    def shifted(x, bits):
        # Shifts of negative numbers fill up with ones; these bits are taken away.
        return ops.bitwise_and(ops.right_shift(x, bits), 2 ** (32 - bits) - 1)

    # The seed goes through the hash first, so that neighbouring seeds share nothing.
    x = seeds
    for following in (places, None):
        x = ops.bitwise_xor(x, shifted(x, 16)) * 0x7FEB352D
        x = ops.bitwise_xor(x, shifted(x, 15)) * (0x846CA68B - 2**32)
        x = ops.bitwise_xor(x, shifted(x, 16))
        x = x if following is None else x + following
    return ops.cast(ops.bitwise_and(x, 255), "float32")
