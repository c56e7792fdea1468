"""What tf_keras lacks: activations and operations of Keras 3, as tf_keras knows its own.

Imported only when a model is converted, for it imports tf_keras. The parts are registered with
tf_keras, so that its models that hold them can be copied, saved and loaded.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

register = tf_keras.saving.register_keras_serializable(package="keras_optkit")


def relu6(x):
    """`min(max(x, 0), 6)`."""
    return tf.nn.relu6(x)


def hard_sigmoid(x):
    """`relu6(x + 3) / 6`; tf_keras has another function of this name."""
    return tf.nn.relu6(x + 3.0) / 6.0


def hard_silu(x):
    """`x * relu6(x + 3) / 6`, also called hard swish."""
    return x * hard_sigmoid(x)


def hard_tanh(x):
    """`x` between -1 and 1."""
    return tf.clip_by_value(x, -1.0, 1.0)


def leaky_relu(x):
    """`x` above 0, `0.2 * x` below."""
    return tf.nn.leaky_relu(x, 0.2)


def log_softmax(x):
    """The logarithm of the softmax over the last axis."""
    return tf.nn.log_softmax(x)


def log_sigmoid(x):
    """The logarithm of the sigmoid."""
    return tf.math.log_sigmoid(x)


def celu(x):
    """`x` above 0, `exp(x) - 1` below."""
    return tf.where(x > 0, x, tf.math.expm1(tf.minimum(x, tf.zeros_like(x))))


def glu(x):
    """The first half of the last axis, gated by the sigmoid of the second."""
    half, gate = tf.split(x, 2, axis=-1)
    return half * tf.sigmoid(gate)


def tanh_shrink(x):
    """`x - tanh(x)`."""
    return x - tf.tanh(x)


def squareplus(x):
    """`(x + sqrt(x ** 2 + 4)) / 2`."""
    return (x + tf.sqrt(x * x + 4.0)) / 2.0


ACTIVATIONS: dict[str, Callable] = {
    function.__name__: register(function)
    for function in (
        relu6,
        hard_sigmoid,
        hard_silu,
        hard_tanh,
        leaky_relu,
        log_softmax,
        log_sigmoid,
        celu,
        glu,
        tanh_shrink,
        squareplus,
    )
}


def _axes(axis: Any) -> Any:
    return list(axis) if isinstance(axis, tuple) else axis


def _reduction(function: Callable) -> Callable:
    return lambda x, axis=None, keepdims=False: function(x, axis=_axes(axis), keepdims=keepdims)


def _clip(x, x_min, x_max):
    return tf.clip_by_value(x, tf.cast(x_min, x.dtype), tf.cast(x_max, x.dtype))


def _reshape(x, newshape):
    return tf.reshape(x, [-1 if size is None else size for size in newshape])


def _matmul(x1, x2):
    return tf.matmul(x1, x2)


def _stack(*x, axis=0):
    return tf.stack(x, axis=axis)


def _concatenate(*x, axis=-1):
    return tf.concat(x, axis=axis)


def _gelu(x, approximate=True):
    return tf.nn.gelu(x, approximate=approximate)


def _get_item(x, key):
    return x[key]


# By the class names of Keras 3's operations, whose configs are the keyword arguments.
OPERATIONS: dict[str, Callable] = {
    "Absolute": tf.abs,
    "Add": tf.add,
    "Cast": lambda x, dtype: tf.cast(x, dtype),
    "Clip": _clip,
    "Concatenate": _concatenate,
    "Divide": tf.divide,
    "Equal": tf.equal,
    "Exp": tf.exp,
    "ExpandDims": lambda x, axis: tf.expand_dims(x, axis),
    "FloorDivide": tf.math.floordiv,
    "Gelu": _gelu,
    "GetItem": _get_item,
    "Greater": tf.greater,
    "GreaterEqual": tf.greater_equal,
    "HardSigmoid": hard_sigmoid,
    "HardSilu": hard_silu,
    "LeakyRelu": lambda x, negative_slope=0.2: tf.nn.leaky_relu(x, negative_slope),
    "Less": tf.less,
    "LessEqual": tf.less_equal,
    "Log": tf.math.log,
    "Log1p": tf.math.log1p,
    "LogSoftmax": lambda x, axis=-1: tf.nn.log_softmax(x, axis),
    "LogicalAnd": tf.logical_and,
    "LogicalNot": tf.logical_not,
    "LogicalOr": tf.logical_or,
    "Matmul": _matmul,
    "Max": _reduction(tf.reduce_max),
    "Maximum": tf.maximum,
    "Mean": _reduction(tf.reduce_mean),
    "Min": _reduction(tf.reduce_min),
    "Minimum": tf.minimum,
    "Multiply": tf.multiply,
    "Negative": tf.negative,
    "NotEqual": tf.not_equal,
    "Power": tf.pow,
    "Relu": tf.nn.relu,
    "Relu6": tf.nn.relu6,
    "Reshape": _reshape,
    "Rsqrt": tf.math.rsqrt,
    "Sigmoid": tf.sigmoid,
    "Silu": tf.nn.silu,
    "Softmax": lambda x, axis=-1: tf.nn.softmax(x, axis),
    "Softplus": tf.math.softplus,
    "Sqrt": tf.sqrt,
    "Square": tf.square,
    "Squeeze": lambda x, axis=None: tf.squeeze(x, axis),
    "Stack": _stack,
    "Subtract": tf.subtract,
    "Sum": _reduction(tf.reduce_sum),
    "Tanh": tf.tanh,
    "Transpose": lambda x, axes=None: tf.transpose(x, axes),
    "TrueDivide": tf.divide,
}


@register
class Operation(tf_keras.layers.Layer):
    """A call of an operation of Keras 3 that is no layer there, such as `x + 1`.

    Args:
        operation: String, a key of `OPERATIONS`.
        constants: List of pairs `[position, value]` of the arguments that are no tensors.
        settings: Dictionary of keyword arguments.
    """

    def __init__(self, operation, constants=(), settings=None, **kwargs):
        super().__init__(**kwargs)
        self.operation = operation
        self.constants = [list(pair) for pair in constants]
        self.settings = dict(settings or {})

    def call(self, inputs):
        arguments = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        for position, value in self.constants:
            arguments.insert(position, decode(value))
        settings = {name: decode(value) for name, value in self.settings.items()}
        tensor = next(x for x in arguments if tf.is_tensor(x))
        arguments = [self._like(x, tensor) for x in arguments]
        return OPERATIONS[self.operation](*arguments, **settings)

    def _like(self, value, tensor):
        # A number takes the type of the tensor it is combined with.
        if isinstance(value, float) and tensor.dtype.is_floating:
            return tf.cast(value, tensor.dtype)
        if isinstance(value, int) and self.operation in _ARITHMETIC:
            return tf.cast(value, tensor.dtype)
        return value

    def get_config(self):
        own = {"operation": self.operation, "constants": self.constants, "settings": self.settings}
        return {**super().get_config(), **own}


_ARITHMETIC = frozenset(
    "Add Divide FloorDivide Maximum Minimum Multiply Power Subtract TrueDivide Equal NotEqual "
    "Greater GreaterEqual Less LessEqual".split()
)


def encode(value: Any) -> Any:
    """Returns an argument as JSON can hold it.

    Raises:
        TypeError: If it is a value that JSON cannot hold.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, slice):
        return {"slice": [encode(part) for part in (value.start, value.stop, value.step)]}
    if isinstance(value, (list, tuple)):
        return {"tuple": [encode(part) for part in value]}
    if hasattr(value, "tolist"):
        return encode_array(value)
    raise TypeError(f"it holds a {type(value).__name__}")


def encode_array(value: Any) -> Any:
    """Returns an array or a NumPy scalar as JSON can hold it."""
    if getattr(value, "ndim", 0):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item()


def decode(value: Any) -> Any:
    """Returns what `encode` was given, arrays as tensors."""
    if not isinstance(value, dict):
        return value
    if "ellipsis" in value:
        return Ellipsis
    if "slice" in value:
        return slice(*map(decode, value["slice"]))
    if "array" in value:
        return tf.constant(value["array"], value["dtype"])
    return tuple(map(decode, value["tuple"]))
