"""A layer that applies one of several layers to each image."""

import numbers
from collections.abc import Sequence

import numpy as np

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.backend import ops_for
from keras_optkit.augmentation.composite_layer import CompositeLayer
from keras_optkit.core.serialization import register


@register
class OneOf(CompositeLayer):
    """Applies one of several layers to each image.

    Every image chooses on its own. On the host, what an image did not choose costs nothing; in a
    graph, where all images take the same way, all layers are computed. See `AugmentationLayer` for
    what it can be called on and when it augments.

    Args:
        layers: List of augmentation layers that change neither the size of images nor labels. Their
            own seeds are not used.
        weights: List of numbers >= 0, one per layer: how often it is chosen, in proportion.
            Defaults to equally often.
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `bounding_box_format`, `value_range`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    either = OneOf([RandomAffine(rotation=30), RandomErasing(1.0)], weights=[3, 1])
    ```
    """

    def __init__(
        self,
        layers: Sequence[AugmentationLayer],
        weights: Sequence[float] | None = None,
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(layers, seed=seed, data_format=data_format, **kwargs)
        if not self.layers:
            raise ValueError("`layers` must hold at least one layer. Received: layers=[]")
        shares = [1] * len(self.layers) if weights is None else list(weights)
        if (
            len(shares) != len(self.layers)
            or not all(isinstance(share, numbers.Real) and share >= 0 for share in shares)
            or not 0 < sum(shares) < float("inf")
        ):
            raise ValueError(
                f"`weights` must be {len(self.layers)} numbers >= 0, one for each layer, and not "
                f"all 0. Received: weights={weights!r}"
            )
        # `weights` is a name of Keras' own.
        self._weights = None if weights is None else shares
        self._limits = np.cumsum(shares)[:-1] / sum(shares)

    def sample(self, draw, height, width):
        draws = draw(1)
        ops = ops_for(draws)
        limits = ops.convert_to_tensor(self._limits.astype("float32"))
        table = {"choice": ops.sum(ops.cast(draws >= limits, "int32"), axis=1)}
        for i, layer in enumerate(self.layers):
            table[str(i)] = layer.sample(draw, height, width)
        return table

    def stages(self, table, height, width):
        return [
            stage.gated(table["choice"] == i)
            for i, layer in enumerate(self.layers)
            for stage in layer.stages(table[str(i)], height, width)
        ]

    def get_config(self):
        return {**super().get_config(), "weights": self._weights}
