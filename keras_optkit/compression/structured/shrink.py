"""A model without some of its channels."""

from collections.abc import Callable

import keras
import numpy as np

from keras_optkit.compression.structured.trace import Resized, Trace
from keras_optkit.core.graph import Node, copy_layer, rebuild


def shrink(trace: Trace, gone: np.ndarray) -> keras.Model:
    """Returns a new model without some channels; the one that was traced stays as it is.

    Args:
        trace: The trace of the model.
        gone: Boolean array, true at the root of each set of channels that leaves.

    Returns:
        A `keras.Model`, not compiled, in which each layer that loses channels is an ordinary layer
        of the same kind and name with fewer of them.
    """

    def stays(labels: np.ndarray) -> np.ndarray:
        return ~gone[trace.channels.roots(labels)]

    made: dict[int, list[keras.layers.Layer]] = {}

    def replace(node: Node) -> list | None:
        resized = trace.resized.get(id(node.operation))
        if resized is None:
            return None
        # A layer that is shared is made once.
        if id(node.operation) not in made:
            made[id(node.operation)] = [_smaller(resized, trace, stays)]
        return made[id(node.operation)]

    return rebuild(trace.model, replace)


def _smaller(
    resized: Resized, trace: Trace, stays: Callable[[np.ndarray], np.ndarray]
) -> keras.layers.Layer:
    layer = resized.layer
    new = copy_layer(layer, **resized.config(lambda labels: int(stays(labels).sum())))
    shape = list(resized.shape)
    shape[resized.axis] = int(stays(resized.labels).sum())
    new.build(tuple(shape))
    for old_variable, variable in zip(layer.weights, new.weights, strict=True):
        value = keras.ops.convert_to_numpy(old_variable)
        weight = trace.weights.get(id(old_variable))
        for axis, labels in (weight.labels if weight is not None else {}).items():
            value = np.compress(stays(labels), value, axis=axis)
        # A copy: on JAX two variables must not hold one buffer.
        variable.assign(np.array(value))
    new.trainable = layer.trainable
    return new
