"""A small search space of networks for tables."""

from typing import Any

import keras
import keras_tuner
from keras import layers

from keras_optkit.normalization.dense_bn_act import DenseBNAct
from keras_optkit.tuning.heads import check_classes, compiled


class HyperMLP(keras_tuner.HyperModel):
    """Dense networks for tables of numbers.

    A BatchNorm of the columns, so that they need not be on one scale, some Dense layers with
    BatchNorm and ReLU, dropout, and a Dense layer. What is searched:

    | name | range | what it is |
    | --- | --- | --- |
    | `units` | 32, 64, 128, 256 | width of each layer |
    | `layers` | 1 to 4 | how many there are |
    | `dropout` | 0 to 0.5 | in front of the last layer |
    | `learning_rate` | 3e-4 to 1e-2, on a log scale | of Adam |

    Wrap it in `OptkitHyperModel` to search schedules, weight decay and the like as well.

    Args:
        input_shape: Tuple `(columns,)`, or an integer.
        num_classes: Integer >= 2 for classes, of which the last layer returns logits; or `None` for
            a number: one output, mean squared error, and the mean absolute error as the metric.
        **kwargs: `name` and `tunable` of `keras_tuner.HyperModel`.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    ```python
    hypermodel = keras_optkit.tuning.HyperMLP((30,), num_classes=2)
    tuner = keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=10)
    ```

    Reference:
        Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data", 2021 (such networks as
        a baseline, searched over depth, width, dropout and learning rate).
    """

    def __init__(self, input_shape: int | tuple[int], num_classes: int | None = None, **kwargs):
        shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
        if len(shape) != 1 or not isinstance(shape[0], int) or shape[0] < 1:
            raise ValueError(
                "`input_shape` must be the number of columns, as in (30,). "
                f"Received: input_shape={input_shape!r}"
            )
        self.input_shape = shape
        self.num_classes = None if num_classes is None else check_classes(num_classes)
        super().__init__(**kwargs)

    def build(self, hp: Any) -> keras.Model:
        """Builds and compiles the model of a trial.

        Args:
            hp: `keras_tuner.HyperParameters`.
        """
        units = hp.Choice("units", [32, 64, 128, 256], default=64)
        count = hp.Int("layers", 1, 4, default=2)
        inputs = keras.Input(self.input_shape)
        x = layers.BatchNormalization(momentum=0.9)(inputs)
        for _ in range(count):
            x = DenseBNAct(units, momentum=0.9)(x)
        return compiled(hp, inputs, x, self.num_classes)
