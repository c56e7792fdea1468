"""Calls of operations that are no layers, such as `x + y`, as layers of tf_keras."""

from typing import Any

import keras

from keras_optkit.compression.tfmot.layers import NoCounterpart
from keras_optkit.core.graph import Node

# Layers of the same name, for tensors of one rank.
_MERGES = ("Add", "Maximum", "Minimum", "Multiply", "Subtract")
# What TF-MOT can do something with is a layer that it knows.
_LAYERS = {
    "Relu": ("ReLU", {}),
    "Relu6": ("ReLU", {"max_value": 6.0}),
    "Sigmoid": ("Activation", {"activation": "sigmoid"}),
    "Silu": ("Activation", {"activation": "swish"}),
    "Tanh": ("Activation", {"activation": "tanh"}),
}


def is_tensor(value: Any) -> bool:
    """Tells whether an argument of a call is a symbolic tensor of Keras 3."""
    return isinstance(value, keras.KerasTensor)


def operation_layer(node: Node, name: str) -> Any:
    """Returns a tf_keras layer that is called with the tensors of a node, as `tensors` lists them.

    Args:
        node: A call of an operation that is no layer.
        name: The name of the layer.

    Raises:
        NoCounterpart: If there is none; the message is the reason.
    """
    import tf_keras

    from keras_optkit.compression.tfmot import tf_keras_parts

    kind = type(node.operation).__name__
    plain = all(is_tensor(value) for value in node.args) and not node.kwargs
    if kind in _MERGES and plain and len({len(x.shape) for x in node.args}) == 1:
        return getattr(tf_keras.layers, kind)(name=name)
    if kind == "Concatenate" and all(map(is_tensor, keras.tree.flatten(node.args))):
        return tf_keras.layers.Concatenate(axis=node.operation.axis, name=name)
    if kind in _LAYERS:
        layer, config = _LAYERS[kind]
        return getattr(tf_keras.layers, layer)(name=name, **config)
    if kind not in tf_keras_parts.OPERATIONS:
        raise NoCounterpart("this operation is not known to the bridge; use a layer")
    constants, position = [], 0
    for value in node.args:
        if is_tensor(value):
            position += 1
        elif isinstance(value, (list, tuple)) and value and all(map(is_tensor, value)):
            position += len(value)
        else:
            constants.append([position, _encode(value)])
            position += 1
    settings = node.operation.get_config()
    settings = {**settings, **node.kwargs}
    settings.pop("name", None)
    settings = {key: _encode(value) for key, value in settings.items() if value is not None}
    return tf_keras_parts.Operation(kind, constants, settings, name=name)


def tensors(node: Node, args: tuple) -> list:
    """Returns what stands for the tensors of a call among the values of its arguments.

    Args:
        node: The call.
        args: The values of its positional arguments.
    """
    pairs = zip(keras.tree.flatten(node.args), keras.tree.flatten(args), strict=True)
    return [value for argument, value in pairs if is_tensor(argument)]


def _encode(value: Any) -> Any:
    from keras_optkit.compression.tfmot.tf_keras_parts import encode

    if any(map(is_tensor, keras.tree.flatten(value))):
        raise NoCounterpart("it takes a tensor inside of another argument")
    try:
        if keras.ops.is_tensor(value):
            value = keras.ops.convert_to_numpy(value)
        return encode(value)
    except TypeError as error:
        raise NoCounterpart(str(error)) from error
