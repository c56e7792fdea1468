"""What each kind of layer and operation does to channels."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from keras_optkit.compression.structured.trace import Flow, Trace, positions
from keras_optkit.core.graph import Node
from keras_optkit.normalization.ghost_batch_normalization import GhostBatchNormalization
from keras_optkit.normalization.linear_layers import KINDS
from keras_optkit.normalization.norm_act import NormAct
from keras_optkit.normalization.sync_batch_normalization import SyncBatchNormalization

Rule = Callable[[Trace, Node, list[Flow]], list[Flow]]

_NORMS = (layers.BatchNormalization, GhostBatchNormalization, SyncBatchNormalization)
# Each number of the output depends on the number at its place in the input alone.
_POINTWISE = (
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
# Each channel of the output depends on that channel of the input alone, and where that is told by
# `data_format`, it must be right.
_SPATIAL = (
    *(getattr(layers, f"{kind}Pooling{n}D") for kind in ("Average", "Max") for n in (1, 2, 3)),
    *(getattr(layers, f"{kind}{n}D") for kind in ("Cropping", "ZeroPadding") for n in (1, 2, 3)),
    *(getattr(layers, f"UpSampling{n}D") for n in (1, 2, 3)),
    *(getattr(layers, f"SpatialDropout{n}D") for n in (1, 2, 3)),
    layers.Resizing,
)
_GLOBAL = tuple(
    getattr(layers, f"Global{kind}Pooling{n}D") for kind in ("Average", "Max") for n in (1, 2, 3)
)
_MERGES = (
    # Of InceptionResNetV2: one input plus a number times the other.
    CustomScaleLayer,
    layers.Add,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
    layers.Multiply,
    layers.Subtract,
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
# Operations that are no layers, by the names of Keras' classes for them.
_POINTWISE_OPERATIONS = {
    *("Abs", "Absolute", "Cast", "Celu", "Clip", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSilu"),
    *("HardTanh", "LeakyRelu", "Log1p", "Mish", "Negative", "Relu", "Relu6", "Selu", "Sigmoid"),
    *("Silu", "Softplus", "Softsign", "Sqrt", "Square", "Tanh"),
}
_MERGE_OPERATIONS = {"Add", "Divide", "Maximum", "Minimum", "Multiply", "Subtract", "TrueDivide"}


def trace_channels(model: keras.Model, keep: Sequence[str] = ()) -> Trace:
    """Walks through a model and returns which of its channels belong together.

    Args:
        model: A built Sequential or Functional model.
        keep: Names of layers whose own channels stay.

    Raises:
        ValueError: If the model is not built, or it or a model nested in it is subclassed.
    """
    return Trace(model, _rule_for, keep)


def _rule_for(operation: keras.Operation) -> Rule:
    """Returns the rule for an operation; one that is not known keeps all channels beside it."""
    kind = type(operation)
    if kind in KINDS:
        return _linear
    if kind in _NORMS:
        return _norm
    if isinstance(operation, NormAct):
        return _block
    for kinds, rule in _RULES:
        if kind in kinds:
            return rule
    if kind.__module__.startswith("keras.src.ops"):
        if kind.__name__ in _POINTWISE_OPERATIONS:
            return _pass
        if kind.__name__ in _MERGE_OPERATIONS:
            return _merge
    return _unknown


def _unknown(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    kind = type(node.operation).__name__
    return trace.keep_whole(node, flows, f"a {kind} is not followed")


def _linear(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer, flow = node.operation, flows[0]
    reason = _not_plain(layer, flow)
    if reason is not None:
        return trace.keep_whole(node, flows, reason)
    labels = _apply_linear(trace, layer, layer, flow, node.outputs[0].shape)
    _freeze_mixed(trace, node, layer, labels)
    return [_with_labels(node, labels, flow)]


def _norm(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer, flow = node.operation, flows[0]
    if layer.axis % flow.rank != flow.axis:
        return trace.keep_whole(node, flows, "its axis is not that of the channels")
    _apply_norm(trace, layer, flow.labels)
    trace.add_resized(layer, flow)
    return [_with_labels(node, flow.labels, flow)]


def _block(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    """A linear layer of this package's own, with its norm and activation."""
    block, flow = node.operation, flows[0]
    linear, norm = block._linear, block._norm_layer
    reason = _not_plain(linear, flow)
    if norm is not None and type(norm) not in _NORMS:
        reason = f"its {type(norm).__name__} is not followed"
    if not isinstance(block.norm, (str, type(None))):
        reason = "it was given its norm as a layer"
    if reason is not None:
        return trace.keep_whole(node, flows, reason)
    shape = linear.compute_output_shape(flow.shape)
    labels = _apply_linear(trace, block, linear, flow, shape)
    if norm is not None:
        _apply_norm(trace, norm, labels)
    _freeze_mixed(trace, node, block, labels)
    return [_with_labels(node, labels, flow)]


def _pass(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    return [_with_labels(node, flows[0].labels, flows[0])]


def _activation(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    reason = _not_pointwise(node.operation.activation)
    return trace.keep_whole(node, flows, reason) if reason else _pass(trace, node, flows)


def _prelu(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer, flow = node.operation, flows[0]
    if layer.alpha.shape[flow.axis - 1] == len(flow.labels):
        trace.add_weight(layer.alpha, {flow.axis - 1: flow.labels})
        trace.add_resized(layer, flow)
    return _pass(trace, node, flows)


def _scaling(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer = node.operation
    if np.ndim(layer.scale) or np.ndim(layer.offset):
        return trace.keep_whole(node, flows, "it has a scale for each channel")
    return _pass(trace, node, flows)


def _spatial(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    if not _is_channel_axis(node.operation, flows[0]):
        return trace.keep_whole(node, flows, "its axes are not those of the channels")
    return _pass(trace, node, flows)


def _global(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer, flow = node.operation, flows[0]
    if not _is_channel_axis(layer, flow):
        return trace.keep_whole(node, flows, "its axes are not those of the channels")
    axis = flow.axis if layer.keepdims else 1
    return [Flow(flow.labels, axis, tuple(node.outputs[0].shape))]


def _merge(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    """Inputs that meet place by place, some of which may be the same for all channels."""
    shape = tuple(node.outputs[0].shape)
    constants = [a for a in keras.tree.flatten((node.args, node.kwargs)) if np.ndim(_value(a))]
    # Axes are matched from the last one on.
    wide = [f for f in flows if f.shape[f.axis] != 1 or shape[f.axis - f.rank] == 1]
    behind = {flow.axis - flow.rank for flow in wide}
    if constants or len(behind) != 1 or len({len(flow.labels) for flow in wide}) != 1:
        return trace.keep_whole(node, flows, "what it takes has its channels on several axes")
    (axis,) = behind
    for flow in flows:
        if flow in wide:
            trace.channels.tie(wide[0].labels, flow.labels)
        elif flow.rank + axis >= 1 and flow.shape[axis] != 1:
            return trace.keep_whole(node, flows, "what it takes has its channels on several axes")
        else:
            trace.channels.freeze(flow.labels, f"'{node.name}' spreads it over all channels")
    return [Flow(wide[0].labels, len(shape) + axis, shape)]


def _concatenate(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    rank = flows[0].rank
    axis = node.operation.axis % rank
    if len({flow.axis for flow in flows}) != 1:
        return trace.keep_whole(node, flows, "what it takes has its channels on several axes")
    if axis == flows[0].axis:
        labels = np.concatenate([flow.labels for flow in flows])
    else:
        labels = flows[0].labels
        for flow in flows[1:]:
            trace.channels.tie(labels, flow.labels)
    return [_with_labels(node, labels, flows[0])]


def _reshape(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    """Flatten and Reshape: each number keeps its channel, and where that ends up is looked for."""
    layer, flow = node.operation, flows[0]
    inner, shape = flow.shape[1:], tuple(node.outputs[0].shape)
    if None in inner or None in shape[1:]:
        return trace.keep_whole(node, flows, "the size of what it takes is not known")
    ones = [1] * len(inner)
    ones[flow.axis - 1] = len(flow.labels)
    spread = np.broadcast_to(flow.labels.reshape(ones), inner)
    if getattr(layer, "data_format", None) == "channels_first" and len(inner) > 1:
        spread = np.moveaxis(spread, 0, -1)
    spread = spread.reshape(shape[1:])
    for axis in reversed(range(spread.ndim)):
        first = np.moveaxis(spread, axis, -1).reshape(-1, spread.shape[axis])[0]
        ones = [1] * spread.ndim
        ones[axis] = len(first)
        if np.array_equal(spread, np.broadcast_to(first.reshape(ones), spread.shape)):
            if isinstance(layer, layers.Reshape):
                trace.add_resized(layer, flow, _target_shape(shape[1:], axis, first))
            return [Flow(first, axis + 1, shape)]
    return trace.keep_whole(node, flows, "it splits channels over several axes")


def _target_shape(shape: tuple, axis: int, labels: np.ndarray):
    return lambda count: {
        "target_shape": tuple(count(labels) if i == axis else n for i, n in enumerate(shape))
    }


def _permute(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    axis = node.operation.dims.index(flows[0].axis) + 1
    return [Flow(flows[0].labels, axis, tuple(node.outputs[0].shape))]


_RULES: list[tuple[tuple[type, ...], Rule]] = [
    (_POINTWISE, _pass),
    ((layers.Activation,), _activation),
    ((layers.PReLU,), _prelu),
    ((layers.Rescaling,), _scaling),
    (_SPATIAL, _spatial),
    (_GLOBAL, _global),
    (_MERGES, _merge),
    ((layers.Concatenate,), _concatenate),
    ((layers.Flatten, layers.Reshape), _reshape),
    ((layers.Permute,), _permute),
]


def _apply_linear(
    trace: Trace, named: layers.Layer, layer: layers.Layer, flow: Flow, output_shape: tuple
) -> np.ndarray:
    """Notes the weights of a linear layer and returns the labels of the channels that it makes.

    Args:
        trace: The trace.
        named: The layer of the model, which holds the linear one or is it.
        layer: The linear layer.
        flow: Its input.
        output_shape: The shape of its output, with the batch.
    """
    kind, labels = KINDS[type(layer)], flow.labels
    if kind == "conv" and layer.groups > 1:
        kind = "depthwise" if layer.groups == len(labels) else "grouped"
        if kind == "depthwise":
            return _apply_full_groups(trace, named, layer, flow, output_shape)
    axis = flow.axis
    before, behind = positions(flow.shape, axis), positions(tuple(output_shape), axis)
    size = "units" if isinstance(layer, layers.Dense) else "filters"
    if kind == "depthwise":
        made = np.repeat(labels, layer.depth_multiplier)
        kernel = layer.kernel
        axes = {kernel.ndim - 2: labels}
        trace.add_weight(kernel, axes, kernel.ndim - 2, behind)
        trace.add_resized(named, flow)
    elif kind == "separable":
        made = trace.made_by(named, layer.filters)
        inner = np.repeat(labels, layer.depth_multiplier)
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        trace.add_weight(depthwise, {depthwise.ndim - 2: labels}, None, behind)
        last = pointwise.ndim - 1
        trace.add_weight(pointwise, {last - 1: inner, last: made}, last, behind)
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
        trace.add_weight(kernel, axes, makes, work)
        trace.add_resized(named, flow, lambda count: {size: count(made)})
    trace.add_weight(layer.bias, {0: made})
    return made


def _apply_full_groups(trace, named, layer, flow, output_shape) -> np.ndarray:
    """A convolution with a group for each channel, which is a depthwise one."""
    made = np.repeat(flow.labels, layer.filters // layer.groups)
    last = layer.kernel.ndim - 1
    trace.add_weight(layer.kernel, {last: made}, last, positions(tuple(output_shape), flow.axis))
    trace.add_weight(layer.bias, {0: made})
    labels = flow.labels
    trace.add_resized(named, flow, lambda count: {"filters": count(made), "groups": count(labels)})
    return made


def _apply_norm(trace: Trace, norm: layers.Layer, labels: np.ndarray) -> None:
    for variable in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance):
        trace.add_weight(variable, {0: labels})
    if norm.gamma is not None:
        trace.note_scale(norm.gamma, labels)


def _not_plain(layer: layers.Layer, flow: Flow) -> str | None:
    """Returns why a linear layer is not followed, or `None`."""
    if not _is_channel_axis(layer, flow):
        return "its axis is not that of the channels"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return "it is quantized or has LoRA weights"
    return None


def _freeze_mixed(trace: Trace, node: Node, layer: layers.Layer, labels: np.ndarray) -> None:
    """Keeps what a layer makes if its activation may mix channels, as softmax does."""
    reason = _not_pointwise(layer.activation)
    if reason is not None:
        trace.whole.setdefault(node.name, reason)
        trace.channels.freeze(labels, f"'{node.name}': {reason}")


def _not_pointwise(activation: Any) -> str | None:
    """Returns why an activation is not followed, or `None`."""
    if activation is None or activation in _POINTWISE_ACTIVATIONS:
        return None
    if type(activation) in _POINTWISE:
        return None
    name = getattr(activation, "__name__", type(activation).__name__)
    return f"its activation {name} may mix channels"


def _is_channel_axis(layer: layers.Layer, flow: Flow) -> bool:
    first = getattr(layer, "data_format", None) == "channels_first"
    return flow.axis == (1 if first else flow.rank - 1)


def _with_labels(node: Node, labels: np.ndarray, flow: Flow) -> Flow:
    return Flow(labels, flow.axis, tuple(node.outputs[0].shape))


def _value(argument: Any) -> Any:
    return 0 if isinstance(argument, keras.KerasTensor) else argument
