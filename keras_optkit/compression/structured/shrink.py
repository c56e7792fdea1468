"""A model without some of its channels."""

from collections.abc import Callable

import keras
import numpy as np

from keras_optkit.compression.structured.blocks import open_residual
from keras_optkit.compression.structured.trace import Resized, Trace
from keras_optkit.core.graph import Node, copy_layer, rebuild
from keras_optkit.normalization.norm_act import NormAct

Stays = Callable[[np.ndarray], np.ndarray]


def shrink(trace: Trace, gone: np.ndarray) -> keras.Model:
    """Returns a new model without some channels; the one that was traced stays as it is.

    Args:
        trace: The trace of the model.
        gone: Boolean array, true at the root of each set of channels that leaves.

    Returns:
        A `keras.Model`, not compiled, in which each layer that loses channels is an ordinary layer
        of the same kind and name with fewer of them. A residual block is a model of that name.
    """

    def stays(labels: np.ndarray) -> np.ndarray:
        return ~gone[trace.channels.roots(labels)]

    made: dict[int, list[keras.layers.Layer]] = {}

    def replace(node: Node) -> list | None:
        key = id(node.operation)
        if key not in made:
            if key in trace.opened:
                made[key] = [_opened(node, trace, stays)]
            elif key in trace.resized:
                made[key] = [_smaller(trace.resized[key], trace, stays)]
        # A layer that is shared is made once.
        return made.get(key)

    def input_shape(tensor: keras.KerasTensor) -> tuple | None:
        flow = trace.inputs.get(id(tensor))
        count = int(stays(flow.labels).sum()) if flow is not None else 0
        if flow is None or count == len(flow.labels):
            return None
        return _with_channels(tensor.shape, flow.axis, count)

    return rebuild(trace.model, replace, input_shape)


def _opened(node: Node, trace: Trace, stays: Stays) -> keras.Model:
    """A residual block, whose config knows one width, as a model of its layers."""
    flow = trace.opened[id(node.operation)]
    shape = _with_channels(node.inputs[0].shape, flow.axis, int(stays(flow.labels).sum()))

    def smaller(layer: keras.layers.Layer, name: str) -> keras.layers.Layer:
        return _smaller(trace.resized[id(layer)], trace, stays, name=name)

    return open_residual(node.operation, node.inputs[0], shape, smaller)


def _smaller(resized: Resized, trace: Trace, stays: Stays, **changes) -> keras.layers.Layer:
    layer = resized.layer
    changes.update(resized.config(lambda labels: int(stays(labels).sum())))
    if isinstance(layer, NormAct) and isinstance(layer.norm, keras.layers.Layer):
        # Without the shape that it was built for.
        changes["norm"] = copy_layer(layer.norm)
    new = copy_layer(layer, **changes)
    new.build(_with_channels(resized.shape, resized.axis, int(stays(resized.labels).sum())))
    for old_variable, variable in zip(layer.weights, new.weights, strict=True):
        value = keras.ops.convert_to_numpy(old_variable)
        weight = trace.weights.get(id(old_variable))
        for axis, labels in (weight.labels if weight is not None else {}).items():
            value = np.compress(stays(labels), value, axis=axis)
        # A copy: on JAX two variables must not hold one buffer.
        variable.assign(np.array(value))
    new.trainable = layer.trainable
    return new


def _with_channels(shape: tuple, axis: int, count: int) -> tuple:
    return tuple(count if i == axis else size for i, size in enumerate(shape))
