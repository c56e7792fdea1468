"""What linear layers, norms and activations do to channels, in a layer or within a block."""

from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optkit.compression.structured.trace import Flow, Trace, positions
from keras_optkit.normalization.ghost_batch_normalization import GhostBatchNormalization
from keras_optkit.normalization.linear_layers import KINDS
from keras_optkit.normalization.sync_batch_normalization import SyncBatchNormalization

NORMS = (layers.BatchNormalization, GhostBatchNormalization, SyncBatchNormalization)
# Each number of the output depends on the number at its place in the input alone.
POINTWISE = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.ELU,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.LeakyReLU,
    layers.ReLU,
)
_POINTWISE_ACTIVATIONS = {
    getattr(keras.activations, name)
    for name in (
        *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
        *("hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish", "relu", "relu6", "selu"),
        *("sigmoid", "silu", "soft_shrink", "softplus", "softsign", "sparse_plus"),
        *("sparse_sigmoid", "squareplus", "tanh", "tanh_shrink", "threshold"),
    )
}


def apply_linear(
    trace: Trace, named: layers.Layer, layer: layers.Layer, flow: Flow, output_shape: tuple
) -> Flow:
    """Notes the weights of a linear layer and returns the flow of the channels that it makes.

    Args:
        trace: The trace.
        named: The layer of the model, which holds the linear one or is it.
        layer: The linear layer.
        flow: Its input.
        output_shape: The shape of its output, with the batch.
    """
    kind, labels, shape = KINDS[type(layer)], flow.labels, tuple(output_shape)
    if kind == "conv" and layer.groups > 1:
        kind = "depthwise" if layer.groups == len(labels) else "grouped"
        if kind == "depthwise":
            return _apply_full_groups(trace, named, layer, flow, shape)
    axis = flow.axis
    before, behind = positions(flow.shape, axis), positions(shape, axis)
    size = "units" if isinstance(layer, layers.Dense) else "filters"
    if kind == "depthwise":
        made = np.repeat(labels, layer.depth_multiplier)
        kernel = layer.kernel
        axes = {kernel.ndim - 2: labels}
        maker = trace.add_weight(kernel, axes, kernel.ndim - 2, behind, layer.bias)
        trace.add_resized(named, flow)
    elif kind == "separable":
        made = trace.made_by(named, layer.filters)
        inner = np.repeat(labels, layer.depth_multiplier)
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        trace.add_weight(depthwise, {depthwise.ndim - 2: labels}, None, behind)
        last = pointwise.ndim - 1
        maker = trace.add_weight(pointwise, {last - 1: inner, last: made}, last, behind, layer.bias)
        trace.add_resized(named, flow, lambda count: {size: count(made)})
    else:
        kernel = layer.kernel
        last = kernel.ndim - 1
        made = trace.made_by(named, kernel.shape[last - 1 if kind == "transposed" else last])
        axes = {last - 1: labels, last: made}
        work, makes = behind, last
        if kind == "transposed":
            axes, work, makes = {last - 1: made, last: labels}, before, last - 1
        if kind == "grouped":
            # All groups lose the channels at the same places, so that they stay of one size.
            for array in (labels, made):
                groups = array.reshape(layer.groups, -1)
                for group in groups[1:]:
                    trace.channels.tie(groups[0], group)
            axes[last - 1] = labels.reshape(layer.groups, -1)[0]
        maker = trace.add_weight(kernel, axes, makes, work, layer.bias)
        trace.add_resized(named, flow, lambda count: {size: count(made)})
    trace.add_weight(layer.bias, {0: made})
    return trace.made_flow(maker, made, axis, shape)


def _apply_full_groups(trace, named, layer, flow, shape) -> Flow:
    """A convolution with a group for each channel, which is a depthwise one."""
    labels = flow.labels
    made = np.repeat(labels, layer.filters // layer.groups)
    last = layer.kernel.ndim - 1
    work = positions(shape, flow.axis)
    maker = trace.add_weight(layer.kernel, {last: made}, last, work, layer.bias)
    trace.add_weight(layer.bias, {0: made})
    trace.add_resized(named, flow, lambda count: {"filters": count(made), "groups": count(labels)})
    return trace.made_flow(maker, made, flow.axis, shape)


def apply_norm(trace: Trace, norm: layers.Layer, flow: Flow) -> Flow:
    """Notes the weights of a norm along the channels, and returns the flow behind it."""
    for variable in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance):
        trace.add_weight(variable, {0: flow.labels})
    trace.note_norm(norm, flow)
    return Flow(flow.labels, flow.axis, flow.shape)


def not_plain(layer: layers.Layer, flow: Flow) -> str | None:
    """Returns why a linear layer is not followed, or `None`."""
    if not is_channel_axis(layer, flow):
        return "its axis is not that of the channels"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "it is quantized or has LoRA weights"
    return None


def not_pointwise(activation: Any) -> str | None:
    """Returns why an activation is not followed, or `None`."""
    if activation is None or activation in _POINTWISE_ACTIVATIONS:
        return None
    if type(activation) in POINTWISE:
        return None
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"its activation {name} may mix channels"


def is_channel_axis(layer: layers.Layer, flow: Flow) -> bool:
    """Tells whether a flow has its channels where a layer looks for them."""
    first = getattr(layer, "data_format", None) == "channels_first"
    return flow.axis == (1 if first else flow.rank - 1)
