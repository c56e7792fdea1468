"""A layer that augments some of the images only."""

import keras

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.composite_layer import CompositeLayer
from keras_optkit.augmentation.random_erasing import check_probability
from keras_optkit.core.serialization import register


@register
class RandomApply(CompositeLayer):
    """Applies a layer to each image with a probability, and leaves the others as they are.

    Every image decides on its own. On the host, an image that is left alone costs nothing. See
    `AugmentationLayer` for what it can be called on and when it augments.

    Args:
        layer: An augmentation layer that changes neither the size of images nor labels. Its own
            seed is not used.
        probability: Number in [0, 1].
        seed: Integer, or `None` for draws that differ from run to run.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the setting of Keras.
        **kwargs: `bounding_box_format`, `value_range`, `name` and `dtype`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    sometimes = RandomApply(RandomAffine(rotation=30), probability=0.3)
    ```
    """

    def __init__(
        self,
        layer: AugmentationLayer,
        probability: float = 0.5,
        seed: int | None = None,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__([layer], seed=seed, data_format=data_format, **kwargs)
        self.probability = check_probability(probability)

    def sample(self, draw, height, width):
        on = draw(1)[:, 0] < self.probability
        return {"on": on, "0": self.layers[0].sample(draw, height, width)}

    def stages(self, table, height, width):
        stages = self.layers[0].stages(table["0"], height, width)
        return [stage.gated(table["on"]) for stage in stages]

    def get_config(self):
        config = super().get_config()
        (layer,) = config.pop("layers")
        return {**config, "layer": layer, "probability": self.probability}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})
