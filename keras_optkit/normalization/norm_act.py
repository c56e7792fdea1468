"""The base of the blocks: a linear layer, a norm that makes its bias useless, an activation."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_optkit.normalization.ghost_batch_normalization import GhostBatchNormalization
from keras_optkit.normalization.sync_batch_normalization import SyncBatchNormalization

# The sizes that Masters and Luschi, "Revisiting Small Batch Training for Deep Neural Networks",
# 2018, found best end here.
_VIRTUAL_BATCH_SIZE = 32

_NORMS: dict[str, Callable[..., keras.layers.Layer]] = {
    "batch": keras.layers.BatchNormalization,
    "ghost": functools.partial(GhostBatchNormalization, _VIRTUAL_BATCH_SIZE),
    "sync": SyncBatchNormalization,
}


def get_norm(norm: Any) -> str | keras.layers.Layer | None:
    """Returns what a block keeps of its argument `norm`.

    Args:
        norm: `"batch"`, `"ghost"`, `"sync"`, `None`, a Keras layer, the config of one, or a
            function without arguments that returns one.

    Returns:
        A name, a layer or `None`.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get_norm(keras.layers.LayerNormalization)
    <LayerNormalization name=layer_normalization..., built=False>
    """
    made = norm
    if isinstance(norm, dict):
        made = keras.saving.deserialize_keras_object(norm)
    elif callable(norm) and not isinstance(norm, keras.layers.Layer):
        made = norm()
    if made is None or isinstance(made, keras.layers.Layer):
        return made
    if isinstance(made, str) and made in _NORMS:
        return made
    raise ValueError(
        '`norm` must be "batch", "ghost", "sync", None, a Keras layer such as '
        "`keras.layers.GroupNormalization(8)`, or a function that makes one. "
        f"Received: norm={norm!r}"
    )


def make_norm(name: str, axis: int, momentum: float, **kwargs) -> keras.layers.Layer:
    """Returns the norm layer that one of the names stands for."""
    return _NORMS[name](axis=axis, momentum=momentum, **kwargs)


def check_momentum(momentum: float) -> float:
    """Returns `momentum`, or raises a `ValueError` if it is not in [0, 1)."""
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum!r}")
    return momentum


def call_layer(layer: keras.layers.Layer, inputs: Any, training: bool | None) -> Any:
    """Calls a layer, with `training` if that is something to it."""
    if layer._call_has_training_arg:
        return layer(inputs, training=training)
    return layer(inputs)


def build_activation(activation: Any, shape: tuple) -> None:
    """Builds an activation if it is a layer, such as `keras.layers.PReLU`, and not built yet."""
    if isinstance(activation, keras.layers.Layer) and not activation.built:
        activation.build(shape)


class NormAct(keras.layers.Layer):
    """A linear layer, then a norm, then an activation.

    A subclass stores the arguments of its linear layer under their own names, lists them in
    `linear_arguments`, and writes `_make_linear(input_shape)`.

    Args:
        activation: String, callable or `None`, what follows the norm.
        norm: See `get_norm`.
        momentum: Float in [0, 1), how slowly the moving statistics of a norm given by its name
            follow.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    linear_arguments: tuple[str, ...] = ()

    def __init__(
        self, activation: Any = "relu", norm: Any = "batch", momentum: float = 0.99, **kwargs
    ):
        super().__init__(**kwargs)
        self.norm = get_norm(norm)
        self.momentum = check_momentum(momentum)
        self.activation = keras.activations.get(activation)
        self._linear: keras.layers.Layer | None = None
        self._norm_layer: keras.layers.Layer | None = None

    def _make_linear(self, input_shape: tuple) -> keras.layers.Layer:
        """Makes the linear layer, with a bias where no norm follows."""
        raise NotImplementedError

    @property
    def _channel_axis(self) -> int:
        """The axis that the norm keeps apart."""
        return -1

    @property
    def _linear_kwargs(self) -> dict[str, Any]:
        arguments = {name: getattr(self, name) for name in self.linear_arguments}
        return {**arguments, "use_bias": self.norm is None, "dtype": self.dtype_policy}

    def build(self, input_shape: tuple) -> None:
        """Makes the layers for an input shape."""
        self._linear = self._make_linear(input_shape)
        self._linear.build(input_shape)
        output_shape = self._linear.compute_output_shape(input_shape)
        if self.norm is not None:
            self._norm_layer = self.norm
            if isinstance(self.norm, str):
                self._norm_layer = make_norm(
                    self.norm, self._channel_axis, self.momentum, dtype=self.dtype_policy
                )
            # A layer that comes from a saved file is built already.
            if not self._norm_layer.built:
                self._norm_layer.build(output_shape)
        build_activation(self.activation, output_shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Applies the three in turn."""
        outputs = self._linear(inputs)
        if self._norm_layer is not None:
            outputs = call_layer(self._norm_layer, outputs, training)
        return self.activation(outputs)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the output for a shape of the input."""
        return self._make_linear(input_shape).compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        for name in self.linear_arguments:
            value = getattr(self, name)
            plain = value is None or isinstance(value, (bool, int, float, str, list, tuple))
            config[name] = value if plain else keras.saving.serialize_keras_object(value)
        norm = self.norm
        if isinstance(norm, keras.layers.Layer):
            norm = keras.saving.serialize_keras_object(norm)
        activation = keras.activations.serialize(self.activation)
        return {**config, "activation": activation, "norm": norm, "momentum": self.momentum}


class ConvNormAct(NormAct):
    """A `NormAct` whose linear layer is a convolution of the input's rank.

    Args:
        data_format: `"channels_last"` or `"channels_first"`; `None` for Keras' setting.
        **kwargs: Arguments of `NormAct`.
    """

    convolutions: Mapping[int, Callable[..., keras.layers.Layer]] = {}

    def __init__(self, data_format: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.data_format = data_format or keras.config.image_data_format()

    @property
    def _channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def _check_arguments(self) -> None:
        """Tells what is wrong with an argument now, not when the input is known."""
        size = self.kernel_size
        rank = 4 if isinstance(size, int) else len(size) + 2
        self._make_linear((None,) * rank)

    def _make_linear(self, input_shape):
        if len(input_shape) not in self.convolutions:
            kinds = {3: "3 (sequences)", 4: "4 (images)", 5: "5 (volumes)"}
            allowed = " or ".join(kinds[rank] for rank in self.convolutions)
            raise ValueError(
                f"`{type(self).__name__}` takes inputs of rank {allowed}. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        return self.convolutions[len(input_shape)](name="conv", **self._linear_kwargs)
