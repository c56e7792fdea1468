"""A small search space of plain convolutional networks."""

from typing import Any

import keras
from keras import layers

from keras_optkit.normalization.conv_bn_act import ConvBNAct
from keras_optkit.tuning.heads import ImageHyperModel, compiled, stages_of


class HyperConvNet(ImageHyperModel):
    """Convolutional networks for small and middle-sized images.

    Stages of two convolutions of 3 by 3 with BatchNorm and ReLU, each stage with twice the channels
    and half the size of the one before, then the mean over all places, dropout and a Dense layer.
    What is searched:

    | name | range | what it is |
    | --- | --- | --- |
    | `filters` | 16, 32, 64 | channels of the first stage |
    | `stages` | 2 to as many as keep 4 by 4 places, at most 4 | |
    | `dropout` | 0 to 0.5 | in front of the last layer |
    | `learning_rate` | 3e-4 to 1e-2, on a log scale | of Adam |

    Wrap it in `OptkitHyperModel` to search augmentation, schedules and the like as well.

    Args:
        input_shape: Tuple `(height, width, channels)`, in the order of Keras' image data format.
            Sizes are at least 8.
        num_classes: Integer >= 2. The last layer returns logits.
        scale: Number, what images are multiplied by first. Defaults to 1 / 255, for the range
            [0, 255] of Keras' and this package's loaders.
        **kwargs: `name` and `tunable` of `keras_tuner.HyperModel`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    ```python
    hypermodel = keras_optkit.tuning.HyperConvNet((28, 28, 1), num_classes=10)
    tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=10)
    ```

    Reference:
        Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
        Recognition", 2014 (stages of 3 by 3). Lin, Chen and Yan, "Network In Network", 2013 (the
        mean over all places).
    """

    def build(self, hp: Any) -> keras.Model:
        """Builds and compiles the model of a trial.

        Args:
            hp: `keras_tuner.HyperParameters`.
        """
        filters = hp.Choice("filters", [16, 32, 64], default=32)
        stages = stages_of(hp, self.input_shape)
        inputs = keras.Input(self.input_shape)
        x = layers.Rescaling(self.scale)(inputs)
        for stage in range(stages):
            if stage:
                x = layers.MaxPooling2D()(x)
            for _ in range(2):
                x = ConvBNAct(filters * 2**stage, 3, padding="same", momentum=0.9)(x)
        return compiled(hp, inputs, layers.GlobalAveragePooling2D()(x), self.num_classes)
