"""The residual blocks of ResNet, with BatchNorm behind or before the convolutions."""

import functools
import math
from typing import Any

import keras
from keras import ops

from keras_optkit.core.serialization import register
from keras_optkit.normalization.conv_bn_act import ConvBNAct
from keras_optkit.normalization.norm_act import (
    build_activation,
    call_layer,
    check_momentum,
    get_norm,
    make_norm,
)

# He et al., 2015, section 4.1, "Deeper Bottleneck Architectures".
_EXPANSION = 4


@register
class ResidualBNBlock(keras.layers.Layer):
    """A residual block of version 1 (post-activation) or 2 (pre-activation).

    Version 1 is `activation(shortcut(x) + norm(conv(activation(norm(conv(x))))))`. Version 2
    normalizes first: `x + conv(activation(norm(conv(activation(norm(x))))))`; a model of such
    blocks needs a norm and an activation behind the last one. Where the shape changes, the shortcut
    is a convolution of size 1 with the block's strides (in version 1 with a norm behind it, in
    version 2 of the activated input). Convolutions pad with `"same"` and have a bias only with
    `norm=None`.

    Args:
        filters: Integer >= 1, the number of output channels; with `bottleneck=True` a quarter of
            it.
        kernel_size: Integer or tuple of integers, the size of the window. Defaults to 3.
        strides: Integer or tuple of integers, of the block's first window. Defaults to 1.
        data_format: `"channels_last"` or `"channels_first"`; `None` for Keras' setting. The norm's
            axis follows it.
        version: 1 or 2. Defaults to 1.
        bottleneck: Boolean, whether the window stands between two convolutions of size 1, of which
            the last has four times as many filters. Defaults to `False`: two windows.
        activation: String, callable or `None`. Defaults to `"relu"`.
        norm: `"batch"`, `"ghost"` (virtual batches of 32), `"sync"`, `None` for none, a layer of
            Keras, or a function that makes one; each place gets its own copy. Defaults to
            `"batch"`.
        momentum: Float in [0, 1), how slowly the moving statistics of a norm given by its name
            follow. Defaults to 0.99, as in Keras.
        zero_gamma: Boolean, whether the block starts as its shortcut alone: in version 1 the last
            norm's `gamma` starts at 0, in version 2 the last kernel (no norm follows that, and the
            gradient of a zero `gamma` before a ReLU would be 0 for ever). Defaults to `False`.
        stochastic_depth: Float in [0, 1), the probability that a sample skips the residual branch
            in training. Kept branches are scaled by `1 / (1 - stochastic_depth)`, so inference
            needs no scale. Defaults to 0.
        seed: Integer, where the skipping starts from, or `None`.
        kernel_initializer: Initializer of each kernel. Defaults to `"he_normal"`.
        kernel_regularizer: Regularizer of each kernel, or `None`.
        kernel_constraint: Constraint of each kernel, or `None`.
        **kwargs: Arguments of `keras.layers.Layer`, for example `name`.

    Returns:
        From a tensor of rank 3, 4 or 5, a tensor of the same rank and of the compute dtype.

    Raises:
        ValueError: If an argument is out of its range, or the input's rank is not 3, 4 or 5.

    Example:

    >>> block = ResidualBNBlock(64, strides=2, version=2, stochastic_depth=0.1)
    >>> tuple(block(np.zeros((8, 16, 16, 32))).shape)
    (8, 8, 8, 64)

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2015 (version 1, shortcuts of
        type B), and "Identity Mappings in Deep Residual Networks", 2016 (version 2). Goyal et al.,
        "Accurate, Large Minibatch SGD", 2017, section 5.1 (zero gamma; the strides of a bottleneck
        in its window). Huang et al., "Deep Networks with Stochastic Depth", 2016.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...] = 3,
        strides: int | tuple[int, ...] = 1,
        data_format: str | None = None,
        version: int = 1,
        bottleneck: bool = False,
        activation: Any = "relu",
        norm: Any = "batch",
        momentum: float = 0.99,
        zero_gamma: bool = False,
        stochastic_depth: float = 0.0,
        seed: int | None = None,
        kernel_initializer: Any = "he_normal",
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if version not in (1, 2):
            raise ValueError(f"`version` must be 1 or 2. Received: version={version!r}")
        if not 0 <= stochastic_depth < 1:
            raise ValueError(
                "`stochastic_depth` is a probability in [0, 1). "
                f"Received: stochastic_depth={stochastic_depth!r}"
            )
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.data_format = data_format or keras.config.image_data_format()
        self.version = version
        self.bottleneck = bottleneck
        self.activation = keras.activations.get(activation)
        norm = get_norm(norm)
        # A layer is kept as its config, from which each place makes its own.
        if isinstance(norm, keras.layers.Layer):
            norm = keras.saving.serialize_keras_object(norm)
        self.norm = norm
        self.momentum = check_momentum(momentum)
        self.zero_gamma = zero_gamma
        self.stochastic_depth = stochastic_depth
        self.seed = seed
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self._seed_generator = keras.random.SeedGenerator(seed) if stochastic_depth else None
        self._pre_norm: keras.layers.Layer | None = None
        self._pre_activation: Any = None
        self._branch: list[keras.layers.Layer] = []
        self._shortcut: keras.layers.Layer | None = None
        # What is wrong with an argument is told now, not when the input is known.
        sizes = [size for size in (kernel_size, strides) if not isinstance(size, int)]
        rank = len(sizes[0]) + 2 if sizes else 4
        self._make_branch(rank)
        self._conv(rank, filters, kernel_size, strides)

    @property
    def _channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    @property
    def _output_channels(self) -> int:
        return self.filters * (_EXPANSION if self.bottleneck else 1)

    def _fresh_activation(self):
        """The activation, as a copy of its own if it is a layer."""
        if isinstance(self.activation, keras.layers.Layer):
            return type(self.activation).from_config(self.activation.get_config())
        return self.activation

    def _fresh_initializer(self):
        """The initializer, as a copy of its own: one initializer gives one set of values."""
        if isinstance(self.kernel_initializer, keras.initializers.Initializer):
            return self.kernel_initializer.clone()
        return self.kernel_initializer

    def _make_norm(self, zero: bool = False):
        """Returns what `ConvBNAct` takes for its `norm`; `zero` starts its gamma at 0."""
        if isinstance(self.norm, str):
            initializer = "zeros" if zero else "ones"
            return make_norm(
                self.norm,
                self._channel_axis,
                self.momentum,
                gamma_initializer=initializer,
                dtype=self.dtype_policy,
            )
        if self.norm is None:
            norm = None
        else:
            norm = keras.saving.deserialize_keras_object(dict(self.norm))
        if zero:
            if not hasattr(norm, "gamma_initializer") or not getattr(norm, "scale", True):
                raise ValueError(
                    "`zero_gamma=True` needs a norm with a `gamma`. "
                    f"Received: norm={self.norm!r}, zero_gamma=True"
                )
            norm.gamma_initializer = keras.initializers.Zeros()
        return norm

    @property
    def _kernel_kwargs(self) -> dict[str, Any]:
        return {
            "padding": "same",
            "data_format": self.data_format,
            "kernel_initializer": self._fresh_initializer(),
            "kernel_regularizer": self.kernel_regularizer,
            "kernel_constraint": self.kernel_constraint,
            "dtype": self.dtype_policy,
        }

    def _conv(self, rank, filters, kernel_size, strides, **kwargs):
        """A bare convolution, of version 2."""
        kwargs = {**self._kernel_kwargs, "use_bias": self.norm is None, **kwargs}
        return ConvBNAct.convolutions[rank](filters, kernel_size, strides, **kwargs)

    def _conv_norm(self, filters, kernel_size, strides, activation, zero=False, **kwargs):
        return ConvBNAct(
            filters,
            kernel_size,
            strides,
            activation=activation,
            norm=self._make_norm(zero),
            **self._kernel_kwargs,
            **kwargs,
        )

    def _make_branch(self, rank: int) -> list[keras.layers.Layer]:
        """Makes the residual branch, without the norm and activation that version 2 begins with."""
        windows = [(self.kernel_size, self.strides), (self.kernel_size, 1)]
        if self.bottleneck:
            windows = [(1, 1), (self.kernel_size, self.strides), (1, 1)]
        branch = [
            self._conv_norm(
                self.filters, size, strides, self._fresh_activation(), name=f"conv_{index}"
            )
            for index, (size, strides) in enumerate(windows[:-1], 1)
        ]
        size, strides = windows[-1]
        last = {"name": f"conv_{len(windows)}"}
        if self.version == 1:
            conv = functools.partial(self._conv_norm, activation=None, zero=self.zero_gamma)
        else:
            conv = functools.partial(self._conv, rank)
            if self.zero_gamma:
                last["kernel_initializer"] = "zeros"
        return [*branch, conv(self._output_channels, size, strides, **last)]

    def _make_shortcut(self, input_shape):
        same = math.prod([self.strides] if isinstance(self.strides, int) else self.strides) == 1
        if same and input_shape[self._channel_axis] == self._output_channels:
            return None
        arguments = (self._output_channels, 1, self.strides)
        if self.version == 1:
            return self._conv_norm(*arguments, activation=None, name="shortcut")
        return self._conv(len(input_shape), *arguments, name="shortcut")

    def build(self, input_shape: tuple) -> None:
        """Makes the layers for an input shape."""
        if len(input_shape) not in ConvBNAct.convolutions:
            raise ValueError(
                "`ResidualBNBlock` takes inputs of rank 3 (sequences), 4 (images) or 5 (volumes). "
                f"Received: input_shape={tuple(input_shape)}"
            )
        if self.version == 2:
            self._pre_norm = self._make_norm()
            if self._pre_norm is not None:
                self._pre_norm.build(input_shape)
            self._pre_activation = self._fresh_activation()
            build_activation(self._pre_activation, input_shape)
        self._branch = self._make_branch(len(input_shape))
        shape = input_shape
        for layer in self._branch:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self._shortcut = self._make_shortcut(input_shape)
        if self._shortcut is not None:
            self._shortcut.build(input_shape)
        if self.version == 1:
            build_activation(self.activation, shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Adds the residual branch to the shortcut."""
        shortcut = outputs = inputs
        if self.version == 2:
            if self._pre_norm is not None:
                outputs = call_layer(self._pre_norm, outputs, training)
            outputs = self._pre_activation(outputs)
        if self._shortcut is not None:
            shortcut = call_layer(self._shortcut, outputs, training)
        for layer in self._branch:
            outputs = call_layer(layer, outputs, training)
        if self.stochastic_depth and training:
            outputs = outputs * self._kept(outputs)
        outputs = shortcut + outputs
        return self.activation(outputs) if self.version == 1 else outputs

    def _kept(self, outputs):
        """Draws for each sample 0 or the scale that makes up for the zeros."""
        shape = (ops.shape(outputs)[0],) + (1,) * (len(outputs.shape) - 1)
        draws = keras.random.uniform(shape, dtype="float32", seed=self._seed_generator)
        kept = ops.cast(draws >= self.stochastic_depth, outputs.dtype)
        return kept / (1 - self.stochastic_depth)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the output for a shape of the input."""
        conv = self._conv(len(input_shape), self._output_channels, 1, self.strides)
        return conv.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "data_format": self.data_format,
            "version": self.version,
            "bottleneck": self.bottleneck,
            "activation": keras.activations.serialize(self.activation),
            "norm": dict(self.norm) if isinstance(self.norm, dict) else self.norm,
            "momentum": self.momentum,
            "zero_gamma": self.zero_gamma,
            "stochastic_depth": self.stochastic_depth,
            "seed": self.seed,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }
