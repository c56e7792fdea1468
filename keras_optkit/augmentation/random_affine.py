"""Random rotations, shifts, shears, zooms and flips, in one resampling."""

import keras

from keras_optkit.augmentation.affine import AffineRanges, affine_matrices
from keras_optkit.augmentation.affine_stage import Affine
from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.warp import check_sampling
from keras_optkit.core.serialization import register


@register
class RandomAffine(AugmentationLayer):
    """Flips, zooms, shears, rotates and moves each image at random, resampling it once.

    Every image draws its own parameters, uniformly and independently. An image is flipped, then
    zoomed, sheared and rotated about its centre, and then moved. Images of type uint8 come out as
    uint8, rounded, and float images in the compute data type of the layer (float32 unless a
    policy says otherwise); coordinates are float32 whatever the policy. Masks come out in their
    own data type, with no value that was not in them (under `fill_mode="constant"`, and 0).
    The layer is the identity in inference. See `AugmentationLayer` for what it can be called on
    and when it augments.

    The layer runs in a model, compiled by XLA too, and in a `tf.data` pipeline whatever the
    backend. `layer.map(dataset)` is the fast way to do the latter, and the reproducible one.

    Args:
        rotation: Degrees, a number `r` for (-r, r) or a pair (low, high) within [-360, 360].
            Positive turns counter-clockwise.
        translation: Share of the height and width, a number `r` for (-r, r) on both axes or a pair
            (vertical, horizontal) of which each is a number or a (low, high) pair, within [-1, 1].
            Positive moves down and to the right.
        shear: Degrees, a number `r` for (-r, r) or a pair (low, high) within (-90, 90). Positive
            leans vertical lines to the right, as italics do.
        zoom: A share `r` in [0, 1) for factors in (1 - r, 1 + r), or a pair (low, high) of factors
            above 0. A factor of 2 shows everything twice as large.
        horizontal_flip: Boolean, whether to mirror half of the images left to right.
        vertical_flip: Boolean, whether to mirror half of the images top to bottom.
        fill_mode: What to see beyond the edge of a row of pixels `a b c d`: `"reflect"`
            (`d c b a | a b c d | d c b a`), `"nearest"` (`a a a a | a b c d | d d d d`), `"wrap"`
            (`a b c d | a b c d | a b c d`), or `"constant"`. `warp` defines them.
        interpolation: `"bilinear"` or `"nearest"`. Masks are always `"nearest"`.
        fill_value: Number that `fill_mode="constant"` fills images with. Masks are filled with 0.
        seed: Integer, or `None` for draws that differ from run to run. The same seed gives the
            same draws on the same backend.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range, or, in a call, images are neither uint8 nor
            float, of another rank than 3 or 4, or empty.

    Example:

    ```python
    augment = RandomAffine(rotation=20, translation=0.1, zoom=0.2, horizontal_flip=True, seed=0)
    model = keras.Sequential([keras.Input((32, 32, 3)), augment, keras.layers.Conv2D(8, 3)])

    # Or in front of the model, on a tf.data.Dataset of (images, labels):
    dataset = augment.map(dataset.batch(32))
    ```
    """

    def __init__(
        self,
        rotation: float | tuple[float, float] = 0.0,
        translation: float | tuple = 0.0,
        shear: float | tuple[float, float] = 0.0,
        zoom: float | tuple[float, float] = 0.0,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        fill_mode: str = "reflect",
        interpolation: str = "bilinear",
        fill_value: float = 0.0,
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, data_format=data_format, **kwargs)
        self._ranges = AffineRanges(
            rotation, translation, shear, zoom, bool(horizontal_flip), bool(vertical_flip)
        )
        check_sampling(interpolation, fill_mode, fill_value)
        self.rotation = rotation
        self.translation = translation
        self.shear = shear
        self.zoom = zoom
        self.horizontal_flip = horizontal_flip
        self.vertical_flip = vertical_flip
        self.fill_mode = fill_mode
        self.interpolation = interpolation
        self.fill_value = fill_value

    def sample(self, draw, height, width):
        draws = draw(AffineRanges.DRAWS)
        return {"matrices": affine_matrices(self._ranges, draws, height, width)}

    def stages(self, table, height, width):
        return [
            Affine(
                table["matrices"],
                self.interpolation,
                self.fill_mode,
                self.fill_value,
                only_flips=self._ranges.only_flips,
            )
        ]

    def get_config(self):
        return {
            **super().get_config(),
            "rotation": self.rotation,
            "translation": self.translation,
            "shear": self.shear,
            "zoom": self.zoom,
            "horizontal_flip": self.horizontal_flip,
            "vertical_flip": self.vertical_flip,
            "fill_mode": self.fill_mode,
            "interpolation": self.interpolation,
            "fill_value": self.fill_value,
        }

    def _check(self, data):
        super()._check(data)
        dtype = keras.backend.standardize_dtype(data["images"].dtype)
        if dtype == "uint8" and not 0 <= self.fill_value <= 255:
            raise ValueError(
                "`fill_value` must be in [0, 255] for images of type uint8. "
                f"Received: fill_value={self.fill_value!r}"
            )
