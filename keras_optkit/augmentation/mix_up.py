"""MixUp: every image is blended with another one of its batch, and so are their labels."""

from keras_optkit.augmentation.label_mixing_layer import LabelMixingLayer
from keras_optkit.core.serialization import register


@register
class MixUp(LabelMixingLayer):
    """Blends each image with another one of its batch, and their labels by the same ratio.

    Every image draws a ratio of its own from Beta(alpha, alpha) and becomes
    `ratio * image + (1 - ratio) * partner`; the partners are a random permutation of the batch.
    Labels come out as float32 of shape (batch, num_classes), in inference too, so a model that is
    trained on them takes a loss for such labels, as `"categorical_crossentropy"`. uint8 images come
    out as uint8, rounded, and float images in the compute data type of the layer.

    The layer changes labels, so it stands in front of a model and not inside: it is called on a
    dictionary with `"images"` and `"labels"`, or on `layer(images, labels)`, and
    `layer.map(dataset)` and `dataset.map(layer)` take batches of (images, labels). Images without
    labels are refused in training and pass through in inference. Segmentation masks that are
    floats, such as one-hot masks with a channel per class, are blended too, and masks of integers
    are refused, since classes have no average. See `AugmentationLayer` for the rest.

    Args:
        alpha: Number in [0.01, 100]. The smaller, the nearer most ratios are to 0 or 1.
        num_classes: Integer, the number of classes if labels are integers of shape (batch,) or
            (batch, 1). `None` is for labels that are one-hot or soft already, and 1 for one
            probability per image, of shape (batch, 1).
        per: `"image"` for a ratio per image, or `"batch"` for one that all share, as in the paper.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range, or, in a call, if labels can't be mixed.

    Example:

    >>> images, labels = np.zeros((4, 8, 8, 1), "uint8"), np.array([0, 1, 2, 2])
    >>> _, mixed = MixUp(0.2, num_classes=3, seed=0)(images, labels)
    >>> keras.ops.convert_to_numpy(mixed).sum(axis=1).round(3).tolist()
    [1.0, 1.0, 1.0, 1.0]

    Reference: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017,
    https://arxiv.org/abs/1710.09412, with alpha from 0.1 to 0.4 on ImageNet.
    """

    def __init__(
        self,
        alpha: float = 0.2,
        num_classes: int | None = None,
        per: str = "image",
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(alpha, num_classes, per, seed, data_format, **kwargs)

    def _check_own(self, data):
        super()._check_own(data)
        masks = data.get("segmentation_masks")
        if masks is not None and "float" not in str(masks.dtype):
            raise ValueError(
                "MixUp can't blend masks of classes, which have no average. Pass one-hot masks of "
                "a float type with a channel per class, or use CutMix. "
                f"Received: masks of type {masks.dtype}"
            )
