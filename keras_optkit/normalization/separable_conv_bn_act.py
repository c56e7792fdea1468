"""A separable convolution, a BatchNorm and an activation in one layer."""

from typing import Any

import keras

from keras_optkit.core.serialization import register
from keras_optkit.normalization.norm_act import ConvNormAct


@register
class SeparableConvBNAct(ConvNormAct):
    """A depthwise separable convolution without bias, BatchNorm, and an activation.

    The arguments are those of `keras.layers.SeparableConv2D`. The rank follows the input:
    sequences `(batch, steps, channels)` or images `(batch, height, width, channels)`. The norm
    stands behind the pointwise convolution, as in Xception; nothing is between the two
    convolutions. With `norm=None` there is a bias instead.

    Args:
        filters: Integer >= 1, the number of output channels.
        kernel_size: Integer or tuple of integers, the size of the depthwise window.
        strides: Integer or tuple of integers. Defaults to 1.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`, as in Keras.
        data_format: `"channels_last"` or `"channels_first"`; `None` for Keras' setting. The norm's
            axis follows it.
        dilation_rate: Integer or tuple of integers. Defaults to 1.
        depth_multiplier: Integer >= 1, depthwise outputs for each input channel. Defaults to 1.
        activation: String, callable or `None`. Defaults to `"relu"`.
        norm: `"batch"`, `"ghost"` (virtual batches of 32), `"sync"`, `None` for none, a layer of
            Keras, or a function that makes one. Defaults to `"batch"`.
        momentum: Float in [0, 1), how slowly the moving statistics of a norm given by its name
            follow. Defaults to 0.99, as in Keras: after `n` steps they still hold `0.99 ** n` of
            where they began, so a training of few steps wants 0.9.
        depthwise_initializer: Initializer of the depthwise kernel.
        pointwise_initializer: Initializer of the pointwise kernel.
        depthwise_regularizer: Regularizer of the depthwise kernel, or `None`.
        pointwise_regularizer: Regularizer of the pointwise kernel, or `None`.
        depthwise_constraint: Constraint of the depthwise kernel, or `None`.
        pointwise_constraint: Constraint of the pointwise kernel, or `None`.
        **kwargs: Arguments of `keras.layers.Layer`, for example `name`.

    Returns:
        From a tensor of rank 3 or 4, a tensor of the same rank and of the compute dtype.

    Raises:
        ValueError: If an argument is out of its range, or the input's rank is not 3 or 4.

    Example:

    >>> layer = SeparableConvBNAct(32, 3, padding="same")
    >>> tuple(layer(np.zeros((8, 28, 28, 4))).shape)
    (8, 28, 28, 32)

    Reference:
        Chollet, "Xception: Deep Learning with Depthwise Separable Convolutions", 2017, section 2
        and figure 10 (no activation between the two convolutions).
    """

    convolutions = {3: keras.layers.SeparableConv1D, 4: keras.layers.SeparableConv2D}
    linear_arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "depth_multiplier",
        "depthwise_initializer",
        "pointwise_initializer",
        "depthwise_regularizer",
        "pointwise_regularizer",
        "depthwise_constraint",
        "pointwise_constraint",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, ...] = 1,
        depth_multiplier: int = 1,
        activation: Any = "relu",
        norm: Any = "batch",
        momentum: float = 0.99,
        depthwise_initializer: Any = "glorot_uniform",
        pointwise_initializer: Any = "glorot_uniform",
        depthwise_regularizer: Any = None,
        pointwise_regularizer: Any = None,
        depthwise_constraint: Any = None,
        pointwise_constraint: Any = None,
        **kwargs,
    ):
        super().__init__(
            data_format=data_format, activation=activation, norm=norm, momentum=momentum, **kwargs
        )
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.padding = padding
        self.dilation_rate = dilation_rate
        self.depth_multiplier = depth_multiplier
        self.depthwise_initializer = keras.initializers.get(depthwise_initializer)
        self.pointwise_initializer = keras.initializers.get(pointwise_initializer)
        self.depthwise_regularizer = keras.regularizers.get(depthwise_regularizer)
        self.pointwise_regularizer = keras.regularizers.get(pointwise_regularizer)
        self.depthwise_constraint = keras.constraints.get(depthwise_constraint)
        self.pointwise_constraint = keras.constraints.get(pointwise_constraint)
        self._check_arguments()
