"""A small search space of residual networks."""

from typing import Any

import keras
from keras import layers

from keras_optkit.normalization.conv_bn_act import ConvBNAct
from keras_optkit.normalization.residual_bn_block import ResidualBNBlock
from keras_optkit.tuning.heads import ImageHyperModel, compiled, stages_of


class HyperResNet(ImageHyperModel):
    """Residual networks for small and middle-sized images, as He et al. built them for CIFAR-10.

    A convolution of 3 by 3, stages of residual blocks of version 2 (norm and ReLU first), each
    stage with twice the channels and half the size of the one before, a last norm and ReLU, the
    mean over all places, dropout and a Dense layer. What is searched:

    | name | range | what it is |
    | --- | --- | --- |
    | `filters` | 16, 32, 64 | channels of the first stage |
    | `stages` | 2 to as many as keep 4 by 4 places, at most 4 | |
    | `blocks` | 1 to 3 | residual blocks in each stage |
    | `stochastic_depth` | 0, 0.1, 0.2 | probability that a sample skips a block |
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
    hypermodel = keras_optkit.tuning.HyperResNet((32, 32, 3), num_classes=10)
    tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=10)
    ```

    Reference:
        He et al., "Identity Mappings in Deep Residual Networks", 2016. Huang et al., "Deep Networks
        with Stochastic Depth", 2016.
    """

    def build(self, hp: Any) -> keras.Model:
        """Builds and compiles the model of a trial.

        Args:
            hp: `keras_tuner.HyperParameters`.
        """
        filters = hp.Choice("filters", [16, 32, 64], default=16)
        stages = stages_of(hp, self.input_shape)
        blocks = hp.Int("blocks", 1, 3)
        depth = hp.Choice("stochastic_depth", [0.0, 0.1, 0.2])
        inputs = keras.Input(self.input_shape)
        x = layers.Rescaling(self.scale)(inputs)
        x = ConvBNAct(filters, 3, padding="same", activation=None, momentum=0.9)(x)
        for stage in range(stages):
            for block in range(blocks):
                x = ResidualBNBlock(
                    filters * 2**stage,
                    strides=2 if stage and not block else 1,
                    version=2,
                    momentum=0.9,
                    stochastic_depth=depth,
                )(x)
        axis = 1 if keras.config.image_data_format() == "channels_first" else -1
        x = layers.ReLU()(layers.BatchNormalization(axis, momentum=0.9)(x))
        return compiled(hp, inputs, layers.GlobalAveragePooling2D()(x), self.num_classes)
