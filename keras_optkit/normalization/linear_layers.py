"""The layers that are linear but for their activation, and what a norm beside them must know."""

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optkit.core.graph import copy_layer

# Only these classes themselves: a subclass may compute something else.
KINDS = {
    layers.Dense: "dense",
    layers.Conv1D: "conv",
    layers.Conv2D: "conv",
    layers.Conv3D: "conv",
    layers.DepthwiseConv1D: "depthwise",
    layers.DepthwiseConv2D: "depthwise",
    layers.SeparableConv1D: "separable",
    layers.SeparableConv2D: "separable",
    layers.Conv1DTranspose: "transposed",
    layers.Conv2DTranspose: "transposed",
    layers.Conv3DTranspose: "transposed",
}


def is_linear_layer(operation: Any) -> bool:
    """Tells whether an operation is one of `KINDS`."""
    return type(operation) in KINDS


def is_linear_activation(activation: Any) -> bool:
    """Tells whether an activation does nothing."""
    return activation is None or activation is keras.activations.linear


def path_in(model: keras.Model, layer: layers.Layer) -> str:
    """Returns the path of a layer, without the name that a Sequential model puts in front."""
    return layer.path.removeprefix(f"{model.name}/")


def channel_axis(layer: layers.Layer) -> int:
    """Returns the axis of a layer's channels, 1 or -1."""
    return 1 if getattr(layer, "data_format", None) == "channels_first" else -1


def kernels(layer: layers.Layer) -> list[keras.Variable]:
    """Returns the variables of a linear layer without its bias."""
    if KINDS[type(layer)] == "separable":
        return [layer.depthwise_kernel, layer.pointwise_kernel]
    return [layer.kernel]


def changed_linear(
    layer: layers.Layer,
    kernel_values: list[np.ndarray],
    bias: np.ndarray | None,
    **changes: Any,
) -> layers.Layer:
    """Returns a new layer in place of a built linear one, with weights of the same shape.

    Args:
        layer: The linear layer.
        kernel_values: The values of what `kernels` returns.
        bias: The value of the bias, or `None` for a layer without one.
        **changes: Entries of the config that differ.
    """
    new = copy_layer(layer, use_bias=bias is not None, **changes)
    new.build_from_config(layer.get_build_config())
    for variable, value in zip(kernels(new), kernel_values, strict=True):
        variable.assign(value)
    if bias is not None:
        new.bias.assign(bias)
    return new


def copy_with_weights(layer: layers.Layer, name: str) -> layers.Layer:
    """Returns a copy of a layer under another name, with its weights."""
    new = copy_layer(layer, name=name)
    if layer.weights:
        new.build_from_config(layer.get_build_config())
        new.set_weights(layer.get_weights())
    return new


def activation_layer(activation: Any, name: str, dtype: Any) -> layers.Layer:
    """Returns an activation as a layer of its own, with its weights if it is one that has some."""
    if isinstance(activation, layers.Layer):
        return copy_with_weights(activation, name)
    return layers.Activation(activation, name=name, dtype=dtype)
