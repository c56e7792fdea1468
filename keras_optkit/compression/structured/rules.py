"""What each kind of layer and operation does to channels."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from keras_optkit.compression.structured import blocks
from keras_optkit.compression.structured.linear import (
    NORMS,
    POINTWISE,
    apply_linear,
    apply_norm,
    is_channel_axis,
    not_plain,
    not_pointwise,
)
from keras_optkit.compression.structured.trace import Flow, Trace
from keras_optkit.core.graph import Node
from keras_optkit.normalization.linear_layers import KINDS
from keras_optkit.normalization.norm_act import NormAct
from keras_optkit.normalization.residual_bn_block import ResidualBNBlock

Rule = Callable[[Trace, Node, list[Flow]], list[Flow]]

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
_ACROSS_CHANNELS = (
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
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
# Operations that are no layers, by the names of Keras' classes for them.
_POINTWISE_OPERATIONS = {
    *("Abs", "Absolute", "Cast", "Celu", "Clip", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSilu"),
    *("HardTanh", "LeakyRelu", "Log1p", "Mish", "Negative", "Relu", "Relu6", "Selu", "Sigmoid"),
    *("Silu", "Softplus", "Softsign", "Sqrt", "Square", "Tanh"),
}
_MERGE_OPERATIONS = {"Add", "Divide", "Maximum", "Minimum", "Multiply", "Subtract", "TrueDivide"}


def trace_channels(
    model: keras.Model, keep: Sequence[str] = (), shapes: Sequence[tuple] | None = None
) -> Trace:
    """Walks through a model and returns which of its channels belong together.

    Args:
        model: A built Sequential or Functional model.
        keep: Names of layers whose own channels stay.
        shapes: Shapes of the inputs, with the batch, in which one prediction is counted; `None`
            for those of the model.

    Raises:
        ValueError: If the model is not built, or it or a model nested in it is subclassed.
    """
    trace = Trace(model, _rule_for, keep)
    if shapes is not None:
        sized = Trace(model, _rule_for, keep, shapes).weights
        for key, weight in trace.weights.items():
            weight.work = sized[key].work if key in sized else 0
    return trace


def _rule_for(operation: keras.Operation) -> Rule:
    """Returns the rule for an operation; one that is not known keeps all channels beside it."""
    kind = type(operation)
    if kind in KINDS:
        return _linear
    if kind in NORMS:
        return _norm
    if isinstance(operation, NormAct):
        return blocks.norm_act
    if kind is ResidualBNBlock:
        return blocks.residual
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
    kind = type(node.operation)
    if kind in _ACROSS_CHANNELS:
        reason = "its statistics are those of several channels; a BatchNormalization is followed"
    else:
        reason = f"a {kind.__name__} is not followed"
        if kind.__module__.split(".")[0] != "keras":
            reason += "; what is made of Keras' own layers is"
    return trace.keep_whole(node, flows, reason)


def _linear(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer, flow = node.operation, flows[0]
    reason = not_plain(layer, flow)
    if reason is not None:
        return trace.keep_whole(node, flows, reason)
    made = apply_linear(trace, layer, layer, flow, node.outputs[0].shape)
    reason = not_pointwise(layer.activation)
    if reason is not None:
        trace.keep_made(node, made, reason)
    return [made]


def _norm(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer, flow = node.operation, flows[0]
    if layer.axis % flow.rank != flow.axis:
        return trace.keep_whole(node, flows, "its axis is not that of the channels")
    trace.add_resized(layer, flow)
    return [apply_norm(trace, layer, flow)]


def _dropout(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    shape, flow = node.operation.noise_shape, flows[0]
    if shape is not None and shape[flow.axis] not in (None, 1):
        return trace.keep_whole(node, flows, "its noise_shape tells the number of channels")
    return _pass(trace, node, flows)


def _pass(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    flow = flows[0]
    return [Flow(flow.labels, flow.axis, tuple(node.outputs[0].shape), flow.maker, flow)]


def _activation(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    reason = not_pointwise(node.operation.activation)
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
    if not is_channel_axis(node.operation, flows[0]):
        return trace.keep_whole(node, flows, "its axes are not those of the channels")
    return _pass(trace, node, flows)


def _global(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    layer, flow = node.operation, flows[0]
    if not is_channel_axis(layer, flow):
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
    return [Flow(labels, flows[0].axis, tuple(node.outputs[0].shape))]


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
    ((layers.Dropout,), _dropout),
    (POINTWISE, _pass),
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


def _value(argument: Any) -> Any:
    return 0 if isinstance(argument, keras.KerasTensor) else argument
