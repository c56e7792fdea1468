"""A tf_keras model as a Keras 3 model."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_optkit.compression.tfmot import modules
from keras_optkit.compression.tfmot.layers import NoCounterpart, counterpart, policy_name
from keras_optkit.compression.tfmot.report import misfit, refuse
from keras_optkit.compression.tfmot.weights import carry


def from_tf_keras(model: Any) -> keras.Model:
    """Returns a Keras 3 model that computes what a tf_keras model computes.

    Layers keep their names, weights and `trainable` flags; nested models, shared layers and the
    structure of inputs and outputs stay. A call of TensorFlow (`x + y`, `tf.reduce_mean(x)`)
    becomes one of `keras.ops`. The model is not compiled, and the one given is not changed.

    Args:
        model: A built `tf_keras.Sequential`, or a `tf_keras.Model` made of inputs and outputs.

    Returns:
        A `keras.Sequential` or `keras.Model`, on any Keras backend.

    Raises:
        ValueError: If it is no such model, or something in it has no counterpart in Keras 3; the
            message lists all of that, with the reasons.

    Example:

    ```python
    old = tf_keras.models.load_model("model.h5")
    model = keras_optkit.tfmot.from_tf_keras(old)
    ```
    """
    return _Conversion(model).model


@dataclasses.dataclass(frozen=True, eq=False)
class _Call:
    """One call of a layer in a graph of tf_keras."""

    layer: Any
    args: tuple
    kwargs: dict[str, Any]
    outputs: list


class _Graph:
    """The calls that lead from the inputs of a tf_keras model to its outputs."""

    def __init__(self, model: Any):
        depths = model._nodes_by_depth
        self.inputs: list = list(model.inputs)
        self.input_structure: Any = model._nested_inputs
        self.output_structure: Any = model._nested_outputs
        self.calls = [
            _Call(
                node.layer,
                tuple(node.call_args),
                dict(node.call_kwargs),
                keras.tree.flatten(node.outputs),
            )
            for depth in sorted(depths, reverse=True)
            for node in depths[depth]
            if not node.is_input
        ]


class _Conversion:
    def __init__(self, model: Any):
        self._tf_keras = modules.tf_keras()
        self._source = model
        self._layers: dict[int, Any] = {}
        self._functions: dict[int, Callable] = {}
        self._originals: list = []
        self._models: dict[int, keras.Model] = {}
        self._graphs: dict[int, _Graph] = {}
        self._read(model)
        self._plan()
        self.model = self._model(model)
        for old, new in self._originals:
            carry(old, new)

    def _read(self, model: Any) -> None:
        if not isinstance(model, self._tf_keras.Model):
            raise ValueError(f"`model` must be a `tf_keras.Model`. Received: model={model!r}")
        if not getattr(model, "_is_graph_network", False):
            raise ValueError(
                f"The model '{model.name}' has no graph of layers: it is subclassed, or a "
                "Sequential model without an input shape. Build it as "
                "`tf_keras.Model(inputs, outputs)`, or let it begin with `tf_keras.Input`. "
                f"Received: model={model!r}"
            )
        self._graphs[id(model)] = graph = _Graph(model)
        for call in graph.calls:
            if isinstance(call.layer, self._tf_keras.Model) and id(call.layer) not in self._graphs:
                self._read(call.layer)

    def _plan(self) -> None:
        problems = []
        for call in [call for graph in self._graphs.values() for call in graph.calls]:
            layer = call.layer
            if isinstance(layer, self._tf_keras.Model) or id(layer) in self._layers:
                continue
            try:
                if type(layer).__name__ in ("TFOpLambda", "SlicingOpLambda"):
                    self._functions[id(layer)] = _function(layer)
                elif type(layer).__module__.endswith("tf_keras_parts"):
                    self._functions[id(layer)] = _operation(layer)
                else:
                    new = counterpart(layer, self._tf_keras, keras)
                    self._layers[id(layer)] = new
                    self._originals.append((layer, new))
            except (NoCounterpart, TypeError, ValueError) as error:
                problems.append((layer.name, type(layer).__name__, str(error)))
        if problems:
            refuse("without a counterpart in Keras 3", problems, self._source)

    def _model(self, model: Any) -> keras.Model:
        if id(model) not in self._models:
            self._models[id(model)] = self._build(model)
        return self._models[id(model)]

    def _build(self, model: Any) -> keras.Model:
        graph = self._graphs[id(model)]
        inputs = [self._input(tensor) for tensor in graph.inputs]
        called = [self._called(call.layer) for call in graph.calls]
        if isinstance(model, self._tf_keras.Sequential):
            if all(isinstance(part, keras.layers.Layer) for part in called):
                return keras.Sequential([*inputs, *called], name=model.name)
        values = {id(x): new for x, new in zip(graph.inputs, inputs, strict=True)}

        def fill_in(structure):
            return keras.tree.map_structure(lambda x: values.get(id(x), x), structure)

        for call, part in zip(graph.calls, called, strict=True):
            kwargs = fill_in(call.kwargs)
            if isinstance(part, keras.layers.Layer):
                taken = inspect.signature(part.call).parameters
                kwargs = {
                    key: value
                    for key, value in kwargs.items()
                    if key in taken and key != "training" and value is not None
                }
            try:
                results = keras.tree.flatten(part(*fill_in(call.args), **kwargs))
            except (TypeError, ValueError) as error:
                raise ValueError(misfit(call.layer, "Keras 3", error)) from error
            values.update(zip(map(id, call.outputs), results, strict=True))
        return keras.Model(
            fill_in(graph.input_structure), fill_in(graph.output_structure), name=model.name
        )

    def _called(self, layer: Any) -> Callable:
        if isinstance(layer, self._tf_keras.Model):
            return self._model(layer)
        return self._layers.get(id(layer)) or self._functions[id(layer)]

    def _input(self, tensor: Any) -> keras.KerasTensor:
        return keras.Input(
            batch_shape=tuple(tensor.shape), dtype=policy_name(tensor.dtype), name=tensor.name
        )


# By the names that TensorFlow gives its functions, which tf_keras notes. Of these, only the order
# of the arguments matters.
_ELEMENTWISE: dict[str, Callable] = {
    "__operators__.add": ops.add,
    "math.abs": ops.abs,
    "math.add": ops.add,
    "math.divide": ops.divide,
    "math.exp": ops.exp,
    "math.log": ops.log,
    "math.maximum": ops.maximum,
    "math.minimum": ops.minimum,
    "math.multiply": ops.multiply,
    "math.negative": ops.negative,
    "math.pow": ops.power,
    "math.sigmoid": ops.sigmoid,
    "math.sqrt": ops.sqrt,
    "math.square": ops.square,
    "math.subtract": ops.subtract,
    "math.tanh": ops.tanh,
    "math.truediv": ops.true_divide,
    "nn.relu": ops.relu,
    "nn.relu6": ops.relu6,
    "nn.silu": ops.silu,
}


# These take the keywords of TensorFlow's.
def _cast(x, dtype):
    return ops.cast(x, policy_name(dtype))


def _clip(t, clip_value_min, clip_value_max):
    return ops.clip(t, clip_value_min, clip_value_max)


def _gelu(features, approximate=False):
    return ops.gelu(features, approximate)


def _matmul(a, b, transpose_a=False, transpose_b=False):
    a = ops.swapaxes(a, -1, -2) if transpose_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b else b)


def _reduction(function: Callable) -> Callable:
    return lambda input_tensor, **kwargs: function(input_tensor, **kwargs)


_FUNCTIONS: dict[str, Callable] = {
    "cast": _cast,
    "clip_by_value": _clip,
    # What `tf.transpose` calls itself.
    "compat.v1.transpose": lambda a, perm=None: ops.transpose(a, perm),
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "expand_dims": lambda input, axis: ops.expand_dims(input, axis),
    "linalg.matmul": _matmul,
    "math.reduce_max": _reduction(ops.max),
    "math.reduce_mean": _reduction(ops.mean),
    "math.reduce_min": _reduction(ops.min),
    "math.reduce_sum": _reduction(ops.sum),
    "nn.gelu": _gelu,
    "nn.softmax": lambda logits, axis=-1: ops.softmax(logits, axis),
    "reshape": lambda tensor, shape: ops.reshape(tensor, tuple(shape)),
    "squeeze": lambda input, axis=None: ops.squeeze(input, axis),
    "stack": lambda values, axis=0: ops.stack(values, axis),
}


def _function(layer: Any) -> Callable:
    symbol = layer.symbol
    if symbol == "__operators__.getitem":
        return lambda tensor, slice_spec: tensor[_slices(slice_spec)]
    if symbol not in _ELEMENTWISE and symbol not in _FUNCTIONS:
        raise NoCounterpart(f"the bridge does not know `tf.{symbol}`; use a layer")

    def call(*args, name=None, **kwargs):
        if symbol in _ELEMENTWISE:
            return _ELEMENTWISE[symbol](*args, *kwargs.values())
        # What is `None` or `False` is what it is without a word.
        given = {k: v for k, v in kwargs.items() if v is not None and v is not False}
        return _FUNCTIONS[symbol](*args, **given)

    return call


def _slices(spec: Any) -> Any:
    """Returns the index that tf_keras has noted with dictionaries in place of slices."""
    if isinstance(spec, dict):
        return slice(spec["start"], spec["stop"], spec["step"])
    if isinstance(spec, (list, tuple)):
        return tuple(_slices(part) for part in spec)
    return spec


def _operation(layer: Any) -> Callable:
    """Returns what the layer that stands for an operation of Keras 3 stood for."""
    from keras_optkit.compression.tfmot.tf_keras_parts import decode

    constants = [(position, decode(value)) for position, value in layer.constants]
    settings = {name: decode(value) for name, value in layer.settings.items()}
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in layer.operation).lstrip("_")

    def call(inputs):
        args = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        for position, value in constants:
            args.insert(position, value)
        if layer.operation == "GetItem":
            return args[0][args[1]]
        if layer.operation in ("Stack", "Concatenate"):
            args = [args]
        return getattr(ops, snake)(*args, **settings)

    return call
