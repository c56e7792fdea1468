"""CutMix: a patch of another image of the batch is put into each one, and labels follow."""

from keras_optkit.augmentation.label_mixing import cut_boxes
from keras_optkit.augmentation.label_mixing_layer import LabelMixingLayer
from keras_optkit.core.serialization import register


@register
class CutMix(LabelMixingLayer):
    """Puts a patch of another image of the batch into each image, and mixes labels by its area.

    Every image draws a ratio of its own from Beta(alpha, alpha), and a patch of `1 - ratio` of the
    area around a random centre, which is cut off at the edge of the image. The labels are mixed by
    the share of the pixels that are really the partner's. What goes in and comes out is as in
    `MixUp`, but that segmentation masks of any type are cut as the images are.

    Args:
        alpha: Number in [0.01, 100]. 1 makes all ratios equally likely, as in the paper.
        num_classes: Integer, the number of classes if labels are integers, see `MixUp`.
        per: `"image"` for a patch per image, or `"batch"` for one that all share.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range, or, in a call, if labels can't be mixed.

    Example:

    ```python
    cut_mix = CutMix(1.0, num_classes=10)
    train = cut_mix.map(train.batch(32))  # (images, one-hot labels)
    model.compile("adam", "categorical_crossentropy")
    ```

    Reference: Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
    Localizable Features", 2019, https://arxiv.org/abs/1905.04899
    """

    def __init__(
        self,
        alpha: float = 1.0,
        num_classes: int | None = None,
        per: str = "image",
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(alpha, num_classes, per, seed, data_format, **kwargs)

    def _with_patches(self, table, draws, height, width):
        boxes, ratio = cut_boxes(table["ratio"], draws, height, width)
        return {**table, "boxes": boxes, "ratio": ratio}
