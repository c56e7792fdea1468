"""What MixUp and CutMix share: partners, ratios and labels."""

import numbers

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.label_mixing import (
    beta_quantiles,
    check_label_values,
    check_labels,
    look_up,
    mix,
    soft_labels,
)
from keras_optkit.augmentation.mix import Mix


class LabelMixingLayer(AugmentationLayer):
    """The base of `MixUp` and `CutMix`: partners, ratios and labels.

    A subclass says where patches are cut (`sample`), if they are.

    Args:
        alpha: Number above 0. The ratio is drawn from Beta(alpha, alpha).
        num_classes: Integer, or `None`.
        per: `"image"` or `"batch"`.
        seed: Integer, or `None`.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `value_range`, `name` and `dtype`.
    """

    _changes_labels = True

    def __init__(
        self,
        alpha: float,
        num_classes: int | None = None,
        per: str = "image",
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, data_format=data_format, **kwargs)
        if not isinstance(alpha, numbers.Real) or not 0.01 <= alpha <= 100:
            raise ValueError(
                "`alpha` must be a number in [0.01, 100]; 0.2 is usual for MixUp and 1 for CutMix. "
                f"Received: alpha={alpha!r}"
            )
        if num_classes is not None and (
            isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1
        ):
            raise ValueError(
                "`num_classes` must be an integer of at least 1, or None for labels that are "
                f"one-hot or soft already. Received: num_classes={num_classes!r}"
            )
        if per not in ("image", "batch"):
            raise ValueError(f"`per` must be 'image' or 'batch'. Received: per={per!r}")
        self.alpha = alpha
        self.num_classes = num_classes
        self.per = per
        self._quantiles = beta_quantiles(alpha)

    def sample(self, draw, height, width):
        # The partner, the ratio, and two numbers that place a patch.
        draws = draw(4)
        ops = ops_for(draws)
        partner = ops.cast(ops.argsort(draws[:, 0]), "int32")
        if self.per == "batch":
            draws = draws[:1] + ops.zeros_like(draws)
        table = {"partner": partner, "ratio": look_up(self._quantiles, draws[:, 1])}
        return self._with_patches(table, draws[:, 2:], height, width)

    def stages(self, table, height, width):
        return [Mix(table["partner"], table["ratio"], table.get("boxes"))]

    def augment_labels(self, labels, table):
        labels = soft_labels(labels, self.num_classes)
        return labels if table is None else mix(labels, table["partner"], table["ratio"])

    def get_config(self):
        return {
            **super().get_config(),
            "alpha": self.alpha,
            "num_classes": self.num_classes,
            "per": self.per,
        }

    def _with_patches(self, table, draws, height, width):
        return table

    def _check_own(self, data):
        if "bounding_boxes" in data:
            raise ValueError(
                f"{type(self).__name__} can't mix boxes: a loss knows no share of a box. Leave "
                "them out. Received: a dictionary with 'bounding_boxes'"
            )
        if "labels" in data:
            images = data["images"]
            batch = images.shape[0] if len(images.shape) == 4 else None
            check_labels(data["labels"], self.num_classes, batch)

    def _check_label_values(self, labels):
        check_label_values(labels, self.num_classes)

    def _label_columns(self, shape):
        if self.num_classes is not None:
            return self.num_classes
        return shape[1] if len(shape) == 2 else None
