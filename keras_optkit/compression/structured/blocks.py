"""The blocks of this package: what they do to channels, and a residual one as plain layers."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_optkit.compression.structured.linear import (
    NORMS,
    apply_linear,
    apply_norm,
    not_plain,
    not_pointwise,
)
from keras_optkit.compression.structured.trace import Flow, Trace
from keras_optkit.core.graph import Node
from keras_optkit.normalization.linear_layers import activation_layer, is_linear_activation
from keras_optkit.normalization.norm_act import NormAct
from keras_optkit.normalization.residual_bn_block import ResidualBNBlock


def norm_act(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    """A linear layer with its norm and activation."""
    block, flow = node.operation, flows[0]
    reason = _not_followed(block, flow)
    if reason is not None:
        return trace.keep_whole(node, flows, reason)
    made = _through(trace, block, block, flow)
    reason = not_pointwise(block.activation)
    if reason is not None:
        trace.keep_made(node, made, reason)
    return [made]


def residual(trace: Trace, node: Node, flows: list[Flow]) -> list[Flow]:
    """A residual block: what its branch makes is added to its shortcut."""
    block, flow = node.operation, flows[0]
    parts = [*block._branch, *([block._shortcut] if block._shortcut is not None else [])]
    activations = [block.activation, *(p.activation for p in parts)]
    reasons = [_not_followed(part, flow) for part in parts] + list(map(not_pointwise, activations))
    pre_norm = block._pre_norm if block.version == 2 else None
    if pre_norm is not None and type(pre_norm) not in NORMS:
        reasons.append(f"its {type(pre_norm).__name__} is not followed")
    reason = next((reason for reason in reasons if reason is not None), None)
    if reason is not None:
        return trace.keep_whole(node, flows, reason)
    x = flow
    if block.version == 2 and block._pre_norm is not None:
        trace.add_resized(block._pre_norm, flow)
        x = apply_norm(trace, block._pre_norm, flow)
    shortcut = flow
    if block._shortcut is not None:
        shortcut = _through(trace, block._shortcut, _linear_of(block._shortcut), x)
    for part in block._branch:
        x = _through(trace, part, _linear_of(part), x)
        if trace.keeps(block):
            trace.channels.freeze(x.labels, "it was asked for")
    trace.channels.tie(shortcut.labels, x.labels)
    trace.opened[id(block)] = flow
    return [Flow(shortcut.labels, x.axis, tuple(node.outputs[0].shape))]


def open_residual(
    block: ResidualBNBlock,
    tensor: keras.KerasTensor,
    shape: tuple,
    smaller: Callable[[layers.Layer, str], layers.Layer],
) -> keras.Model:
    """Returns a model of plain layers that computes what a residual block does.

    Args:
        block: The block, built.
        tensor: The tensor that it takes.
        shape: The shape that this tensor has now, with the batch.
        smaller: A function from a layer of the block and a name to a new, built layer.
    """
    policy = block.dtype_policy

    def call(part: layers.Layer, x: Any) -> Any:
        name = f"{block.name}_{part.name}"
        x = smaller(_linear_of(part), name)(x)
        if isinstance(part, NormAct):
            if part._norm_layer is not None:
                x = smaller(part._norm_layer, f"{name}_norm")(x)
            x = activate(part.activation, f"{name}_activation", x)
        return x

    def activate(activation: Any, name: str, x: Any) -> Any:
        if is_linear_activation(activation):
            return x
        return activation_layer(activation, name, policy)(x)

    inputs = x = keras.Input(batch_shape=shape, dtype=tensor.dtype, name=f"{block.name}_input")
    if block.version == 2:
        if block._pre_norm is not None:
            x = smaller(block._pre_norm, f"{block.name}_pre_norm")(x)
        x = activate(block._pre_activation, f"{block.name}_pre_activation", x)
    shortcut = inputs if block._shortcut is None else call(block._shortcut, x)
    for part in block._branch:
        x = call(part, x)
    if block.stochastic_depth:
        # One draw for each sample is what stochastic depth is.
        x = layers.Dropout(
            block.stochastic_depth,
            noise_shape=(None, *[1] * (len(shape) - 1)),
            seed=block.seed,
            name=f"{block.name}_stochastic_depth",
            dtype=policy,
        )(x)
    x = layers.Add(name=f"{block.name}_add", dtype=policy)([shortcut, x])
    if block.version == 1:
        x = activate(block.activation, f"{block.name}_activation", x)
    return keras.Model(inputs, x, name=block.name)


def _through(trace: Trace, part: layers.Layer, named: layers.Layer, flow: Flow) -> Flow:
    """Lets a flow run through a linear layer, with its norm if it has one."""
    linear = _linear_of(part)
    made = apply_linear(trace, named, linear, flow, linear.compute_output_shape(flow.shape))
    norm = getattr(part, "_norm_layer", None)
    if norm is None:
        return made
    if named is linear:
        trace.add_resized(norm, made)
    made.taken = 1  # By the norm, and by nothing else.
    return apply_norm(trace, norm, made)


def _linear_of(part: layers.Layer) -> layers.Layer:
    return part._linear if isinstance(part, NormAct) else part


def _not_followed(part: layers.Layer, flow: Flow) -> str | None:
    """Returns why a linear layer, or one with a norm, is not followed, or `None`."""
    norm = getattr(part, "_norm_layer", None)
    if norm is not None and type(norm) not in NORMS:
        return f"its {type(norm).__name__} is not followed"
    return not_plain(_linear_of(part), flow)
