"""A Keras 3 model as a tf_keras model."""

import inspect
import re
from typing import Any

import keras

from keras_optkit.compression.tfmot import modules
from keras_optkit.compression.tfmot.layers import NoCounterpart, counterpart, policy_name
from keras_optkit.compression.tfmot.report import misfit, refuse
from keras_optkit.compression.tfmot.weights import carry
from keras_optkit.core.graph import Graph, Node, graphs


def to_tf_keras(model: keras.Model) -> Any:
    """Returns a tf_keras model that computes what a Keras 3 model computes.

    Layers keep their names, weights and `trainable` flags; nested models, shared layers and the
    structure of inputs and outputs stay. What is no layer (`x + y`, `keras.ops.mean(x)`) becomes a
    layer. The model is not compiled, and shares nothing with the one given, which is not changed.

    It works on every Keras backend: weights go through NumPy, and tf_keras always computes on
    TensorFlow, which has to be installed.

    Args:
        model: A built Sequential or Functional Keras 3 model.

    Returns:
        A `tf_keras.Sequential` or `tf_keras.Model`.

    Raises:
        ValueError: If the model is not built or is subclassed, or something in it has no
            counterpart in tf_keras; the message lists all of that, with the reasons.

    Example:

    ```python
    old = keras_optkit.tfmot.to_tf_keras(keras.applications.MobileNetV2(weights=None))
    old.save("model.h5")  # for tools that read only such files
    ```
    """
    return Conversion(model).model


class Conversion:
    """A Keras 3 model and its tf_keras counterpart, layer by layer.

    Args:
        model: A built Sequential or Functional Keras 3 model.
        flat: Whether what nested models hold is put into the model itself, whose inputs and outputs
            are then lists.

    Raises:
        ValueError: As in `to_tf_keras`.
    """

    def __init__(self, model: keras.Model, flat: bool = False):
        self.source = model
        self._flat = flat
        # In what they are called from: a layer that is called twice is one, an operation two.
        self._layers: dict[int, Any] = {}
        self._operations: dict[int, Any] = {}
        self._models: dict[int, Any] = {}
        self._originals: dict[int, keras.layers.Layer] = {}
        all_graphs = graphs(model)
        self._tf_keras = modules.tf_keras()
        self._plan(all_graphs)
        self.model = self._model(model)
        self._carry_over()

    @property
    def pairs(self) -> list[tuple[keras.layers.Layer, Any]]:
        """Each layer of the Keras 3 model that is no model, with its counterpart."""
        return [(old, self._layers[key]) for key, old in self._originals.items()]

    def _plan(self, all_graphs: list[Graph]) -> None:
        from keras_optkit.compression.tfmot.operations import operation_layer

        problems = []
        names = _Names()
        for graph in all_graphs:
            names = names if self._flat else _Names()
            names.reserve(graph)
            for node in graph.nodes:
                operation = node.operation
                if isinstance(operation, keras.Model) or id(operation) in self._layers:
                    continue
                try:
                    if isinstance(operation, keras.layers.Layer):
                        new = counterpart(operation, keras, self._tf_keras)
                        new._name = names.of(operation)
                        self._layers[id(operation)] = new
                        self._originals[id(operation)] = operation
                    else:
                        self._operations[id(node.outputs[0])] = operation_layer(
                            node, names.of(node.outputs[0], operation.name)
                        )
                except (NoCounterpart, TypeError, ValueError) as error:
                    problems.append((operation.name, type(operation).__name__, str(error)))
        if problems:
            refuse("without a counterpart in tf_keras", problems, self.source)

    def _model(self, model: keras.Model) -> Any:
        if id(model) not in self._models:
            self._models[id(model)] = self._build(model)
        return self._models[id(model)]

    def _build(self, model: keras.Model) -> Any:
        graph = Graph(model)
        inputs = [self._input(tensor) for tensor in graph.inputs]
        name = _valid(model.name)
        layers = [node.operation for node in graph.nodes]
        if self._flat:
            outputs = keras.tree.flatten(graph.run(inputs, self._call))
            return self._tf_keras.Model(inputs, outputs, name=name)
        if isinstance(model, keras.Sequential) and len(layers) == len(set(map(id, layers))):
            parts = [self._called(node) for node in graph.nodes]
            return self._tf_keras.Sequential([*inputs, *parts], name=name)
        outputs = graph.run(inputs, self._call)
        by_old = dict(zip(map(id, graph.inputs), inputs, strict=True))
        structure = keras.tree.map_structure(lambda x: by_old[id(x)], graph.input_structure)
        return self._tf_keras.Model(structure, outputs, name=name)

    def _input(self, tensor: keras.KerasTensor) -> Any:
        return self._tf_keras.Input(
            batch_shape=tuple(tensor.shape),
            dtype=policy_name(tensor.dtype),
            name=_valid(tensor.name),
            sparse=bool(tensor.sparse),
        )

    def _called(self, node: Node) -> Any:
        if isinstance(node.operation, keras.Model):
            return self._model(node.operation)
        if isinstance(node.operation, keras.layers.Layer):
            return self._layers[id(node.operation)]
        return self._operations[id(node.outputs[0])]

    def _call(self, node: Node, args: tuple, kwargs: dict[str, Any]) -> Any:
        from keras_optkit.compression.tfmot.operations import tensors

        if self._flat and isinstance(node.operation, keras.Model):
            given = keras.tree.flatten(args[0] if args else kwargs)
            return Graph(node.operation).run(given, self._call)
        layer = self._called(node)
        if not isinstance(node.operation, keras.layers.Layer):
            given = tensors(node, args)
            args, kwargs = (given if len(given) > 1 else given[0],), {}
        taken = inspect.signature(layer.call).parameters
        # Keras notes a `training` that nobody passed, and lets the whole model's go before it.
        kwargs = {
            key: value
            for key, value in kwargs.items()
            if key in taken and key != "training" and value is not None
        }
        try:
            return layer(*args, **kwargs)
        except (TypeError, ValueError) as error:
            raise ValueError(misfit(node.operation, "tf_keras", error)) from error

    def _carry_over(self) -> None:
        for old, new in self.pairs:
            carry(old, new)


class _Names:
    """Names for the layers of one model, each once, as TensorFlow allows them."""

    def __init__(self):
        self._given: dict[int, str] = {}
        self._taken: set[str] = set()

    def reserve(self, graph: Graph) -> None:
        """Gives the inputs and layers their names, before operations get any."""
        self._taken.update(_valid(tensor.name) for tensor in graph.inputs)
        for node in graph.nodes:
            if isinstance(node.operation, keras.layers.Layer):
                self.of(node.operation)

    def of(self, item: Any, name: str | None = None) -> str:
        if id(item) not in self._given:
            wanted = unique = _valid(name or item.name)
            number = 0
            while unique in self._taken:
                number += 1
                unique = f"{wanted}_{number}"
            self._taken.add(unique)
            self._given[id(item)] = unique
        return self._given[id(item)]


def _valid(name: str) -> str:
    # What TensorFlow takes as the name of a scope.
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"layer{name}"
