"""A convolution, a BatchNorm and an activation in one layer."""

from typing import Any

import keras

from keras_optkit.core.serialization import register
from keras_optkit.normalization.norm_act import ConvNormAct


@register
class ConvBNAct(ConvNormAct):
    """A convolution without bias, BatchNorm along its channels, and an activation.

    The arguments are those of `keras.layers.Conv2D`. The rank follows the input: sequences
    `(batch, steps, channels)`, images `(batch, height, width, channels)` or volumes. With
    `norm=None` the convolution gets the bias that the norm would have made useless.

    Args:
        filters: Integer >= 1, the number of output channels.
        kernel_size: Integer or tuple of integers, the size of the window.
        strides: Integer or tuple of integers. Defaults to 1.
        padding: `"valid"` or `"same"`. Defaults to `"valid"`, as in Keras.
        data_format: `"channels_last"` or `"channels_first"`; `None` for Keras' setting. The norm's
            axis follows it.
        dilation_rate: Integer or tuple of integers. Defaults to 1.
        groups: Integer >= 1, the number of groups of channels. Defaults to 1.
        activation: String, callable or `None`. Defaults to `"relu"`.
        norm: `"batch"`, `"ghost"` (virtual batches of 32), `"sync"`, `None` for none, a layer of
            Keras, or a function that makes one. Defaults to `"batch"`.
        momentum: Float in [0, 1), how slowly the moving statistics of a norm given by its name
            follow. Defaults to 0.99, as in Keras: after `n` steps they still hold `0.99 ** n` of
            where they began, so a training of few steps wants 0.9.
        kernel_initializer: Initializer of the kernel.
        kernel_regularizer: Regularizer of the kernel, or `None`.
        kernel_constraint: Constraint of the kernel, or `None`.
        **kwargs: Arguments of `keras.layers.Layer`, for example `name`.

    Returns:
        From a tensor of rank 3, 4 or 5, a tensor of the same rank and of the compute dtype.

    Raises:
        ValueError: If an argument is out of its range, or the input's rank is not 3, 4 or 5.

    Example:

    >>> layer = ConvBNAct(32, 3, padding="same")
    >>> tuple(layer(np.zeros((8, 28, 28, 1))).shape)
    (8, 28, 28, 32)

    Reference:
        Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", 2015, section 3.2 (the norm before the activation, no bias).
    """

    convolutions = {3: keras.layers.Conv1D, 4: keras.layers.Conv2D, 5: keras.layers.Conv3D}
    linear_arguments = (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "data_format",
        "dilation_rate",
        "groups",
        "kernel_initializer",
        "kernel_regularizer",
        "kernel_constraint",
    )

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, ...],
        strides: int | tuple[int, ...] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, ...] = 1,
        groups: int = 1,
        activation: Any = "relu",
        norm: Any = "batch",
        momentum: float = 0.99,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
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
        self.groups = groups
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self._check_arguments()
