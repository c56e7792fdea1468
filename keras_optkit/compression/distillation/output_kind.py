"""What a classifier's outputs are: logits or probabilities."""

from typing import Any

import keras
from keras import ops

from keras_optkit.core.graph import Graph

KINDS = ("auto", "logits", "probabilities")

# Layers whose outputs are of the kind of their inputs.
_PASS = (
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.Identity,
    keras.layers.Reshape,
)
_LINEAR = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Dense,
    keras.layers.EinsumDense,
)
# The smallest normal float32: its logarithm is finite.
_TINY = 1.1754944e-38


def check_kind(name: str, kind: str) -> str:
    """Returns what was said of the outputs, or raises if it is none of `KINDS`.

    Args:
        name: The argument's name, for the message.
        kind: What was given.

    Raises:
        ValueError: If it is none of them.
    """
    if kind not in KINDS:
        allowed = ", ".join(repr(k) for k in KINDS)
        raise ValueError(f"`{name}` must be one of {allowed}. Received: {name}={kind!r}")
    return kind


def recognise(model: keras.Model, index: int = 0) -> str | None:
    """Returns what an output of a model is, from the layer that it comes from.

    Args:
        model: A built model.
        index: Integer, which of its outputs, in flattened order.

    Returns:
        `"probabilities"` behind a softmax, and behind a sigmoid of one column; `"logits"` behind a
        dense or convolutional layer without an activation; `None` where neither can be told.

    Example:

    >>> recognise(model)
    'logits'
    """
    try:
        graph = Graph(model)
    except ValueError:  # It has no graph to read.
        return None
    return _kind(graph, graph.outputs[index])


def to_logits(values: Any, kind: str) -> Any:
    """Returns logits: the values, or the logarithm of probabilities; for one column, of the odds.

    Args:
        values: Float tensor of shape `(..., classes)`.
        kind: `"logits"` or `"probabilities"`.
    """
    if kind == "logits":
        return values
    values = ops.cast(values, "float32")
    if values.shape[-1] == 1:
        return _log(values) - _log(1.0 - values)
    return _log(values)


def two_classes(logits: Any) -> Any:
    """Returns the logits of two classes, of which the first has 0.

    Args:
        logits: Float tensor of shape `(..., 1)`.
    """
    return ops.concatenate([ops.zeros_like(logits), logits], axis=-1)


def one_column(logits: Any) -> Any:
    """Returns the logit of the second of two classes against the first, shape `(..., 1)`.

    Args:
        logits: Float tensor of shape `(..., 2)`.
    """
    return logits[..., 1:] - logits[..., :1]


def _log(values: Any) -> Any:
    return ops.log(ops.maximum(values, _TINY))


def _kind(graph: Graph, tensor: keras.KerasTensor) -> str | None:
    node = graph.producer(tensor)
    if node is None:
        return None
    operation = node.operation
    if isinstance(operation, keras.Model):
        try:
            inner = Graph(operation)
        except ValueError:
            return None
        index = [id(output) for output in node.outputs].index(id(tensor))
        return _kind(inner, inner.outputs[index])
    # The layer, and `keras.ops.softmax`.
    if type(operation).__name__ == "Softmax" and getattr(operation, "axis", -1) == -1:
        return "probabilities"
    activation = getattr(operation, "activation", None)
    if activation is keras.activations.softmax:
        return "probabilities"
    sigmoid = type(operation).__name__ == "Sigmoid" or activation is keras.activations.sigmoid
    if sigmoid and tensor.shape[-1] == 1:
        return "probabilities"
    linear = activation is None or activation is keras.activations.linear
    if isinstance(operation, _LINEAR) and linear:
        return "logits"
    passes = isinstance(operation, _PASS)
    if passes or (isinstance(operation, keras.layers.Activation) and linear):
        return _kind(graph, node.inputs[0])
    return None
