"""The base of the blocks: a linear layer, a norm that makes its bias useless, an activation."""

from typing import Any

import keras


class NormAct(keras.layers.Layer):
    """A linear layer, then a norm, then an activation.

    A subclass stores the arguments of its linear layer under their own names, lists them in
    `linear_arguments`, and writes `_make_linear(input_shape)`.

    Args:
        activation: String, callable or `None`, what follows the norm.
        norm: `"batch"`, `None` for no norm, or a Keras layer that takes its place.
        momentum: Float in [0, 1), how slowly the moving statistics of `norm="batch"` follow.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    linear_arguments: tuple[str, ...] = ()

    def __init__(
        self, activation: Any = "relu", norm: Any = "batch", momentum: float = 0.99, **kwargs
    ):
        super().__init__(**kwargs)
        if isinstance(norm, dict):
            norm = keras.saving.deserialize_keras_object(norm)
        if norm is not None and norm != "batch" and not isinstance(norm, keras.layers.Layer):
            raise ValueError(
                '`norm` must be "batch", None or a Keras layer, for example '
                f"`keras.layers.GroupNormalization(8)`. Received: norm={norm!r}"
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum!r}")
        self.momentum = momentum
        self.activation = keras.activations.get(activation)
        self.norm = norm
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
        if self.norm is not None:
            self._norm_layer = self.norm
            if self.norm == "batch":
                self._norm_layer = keras.layers.BatchNormalization(
                    axis=self._channel_axis, momentum=self.momentum, dtype=self.dtype_policy
                )
            # A layer that comes from a saved file is built already.
            if not self._norm_layer.built:
                self._norm_layer.build(self._linear.compute_output_shape(input_shape))
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Applies the three in turn."""
        outputs = self._linear(inputs)
        if self._norm_layer is not None:
            if self._norm_layer._call_has_training_arg:
                outputs = self._norm_layer(outputs, training=training)
            else:
                outputs = self._norm_layer(outputs)
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
