"""What the ready hypermodels share: their end, their rate, and checks of their arguments."""

import math
from typing import Any

import keras
import keras_tuner
from keras import layers

_SMALLEST = 8


def compiled(hp: Any, inputs: Any, features: Any, num_classes: int | None) -> keras.Model:
    """Puts the last layers on features, and compiles the model with Adam.

    Args:
        hp: `keras_tuner.HyperParameters`.
        inputs: The model's input.
        features: Tensor `(batch, features)`.
        num_classes: Integer, or `None` for one number.
    """
    dropout = hp.Float("dropout", 0.0, 0.5)
    # From half a decade below Adam's default to one above it, which BatchNorm allows.
    rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log", default=1e-3)
    # In float32, whatever the policy: a loss of half precision is none.
    end = layers.Dense(num_classes or 1, dtype="float32", name="head")
    model = keras.Model(inputs, end(layers.Dropout(dropout, name="dropout")(features)))
    if num_classes is None:
        model.compile(keras.optimizers.Adam(rate), "mean_squared_error", metrics=["mae"])
    else:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


class ImageHyperModel(keras_tuner.HyperModel):
    """The arguments of the hypermodels for images.

    Args:
        input_shape: Tuple `(height, width, channels)`.
        num_classes: Integer >= 2.
        scale: Number, what images are multiplied by first.
        **kwargs: `name` and `tunable` of `keras_tuner.HyperModel`.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        scale: float = 1 / 255,
        **kwargs,
    ):
        self.input_shape = check_image_shape(input_shape)
        self.num_classes = check_classes(num_classes)
        self.scale = scale
        super().__init__(**kwargs)


def stages_of(hp: Any, input_shape: tuple[int, int, int]) -> int:
    """Asks for the number of stages, each of half the size of the one before.

    Args:
        hp: `keras_tuner.HyperParameters`.
        input_shape: What `check_image_shape` returned.
    """
    most = min(4, int(math.log2(min(_sides(input_shape)) / 4)) + 1)
    return hp.Int("stages", 2, most, default=min(3, most)) if most > 2 else 2


def check_image_shape(shape: Any) -> tuple[int, int, int]:
    """Returns the shape of an image, or raises if it is none of at least 8 by 8 places."""
    numbers = isinstance(shape, tuple | list) and all(isinstance(side, int) for side in shape)
    if not numbers or len(shape) != 3 or min(shape) < 1 or min(_sides(shape)) < _SMALLEST:
        raise ValueError(
            f"`input_shape` must be (height, width, channels) with sides of at least {_SMALLEST} "
            f"pixels, in the order of `keras.config.image_data_format()`. "
            f"Received: input_shape={shape!r}"
        )
    return tuple(shape)


def check_classes(count: Any) -> int:
    """Returns a number of classes, or raises if it is none."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 2:
        raise ValueError(f"`num_classes` must be an integer >= 2. Received: num_classes={count!r}")
    return count


def _sides(shape) -> tuple[int, int]:
    first = keras.config.image_data_format() == "channels_first"
    return tuple(shape[1:] if first else shape[:2])
