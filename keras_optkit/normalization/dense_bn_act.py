"""A dense layer, a BatchNorm and an activation in one layer."""

from typing import Any

import keras

from keras_optkit.core.serialization import register
from keras_optkit.normalization.norm_act import NormAct


@register
class DenseBNAct(NormAct):
    """A dense layer without bias, BatchNorm along its units, and an activation.

    With `norm=None` the dense layer gets the bias that the norm would have made useless.

    Args:
        units: Integer >= 1, the number of output features.
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
        From a tensor `(batch, ..., features)`, a tensor `(batch, ..., units)` of the compute dtype.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> tuple(DenseBNAct(10, activation=None)(np.zeros((8, 4))).shape)
    (8, 10)

    Reference:
        Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", 2015, section 3.2 (the norm before the activation, no bias).
    """

    linear_arguments = ("units", "kernel_initializer", "kernel_regularizer", "kernel_constraint")

    def __init__(
        self,
        units: int,
        activation: Any = "relu",
        norm: Any = "batch",
        momentum: float = 0.99,
        kernel_initializer: Any = "glorot_uniform",
        kernel_regularizer: Any = None,
        kernel_constraint: Any = None,
        **kwargs,
    ):
        super().__init__(activation=activation, norm=norm, momentum=momentum, **kwargs)
        self.units = units
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self._make_linear((None, None))

    def _make_linear(self, input_shape):
        return keras.layers.Dense(name="dense", **self._linear_kwargs)
