"""One run of a model that also gives what layers inside of it return."""

import contextlib
from typing import Any

import keras

from keras_optkit.core.graph import Graph
from keras_optkit.core.messages import did_you_mean


class FeatureReader:
    """Runs a model and hands out what some of its layers returned.

    Nothing is added to the model, and each layer runs once, as in the model itself.

    Args:
        model: A built Sequential or Functional model.
        names: The names of the layers, which may be in nested models.

    Raises:
        ValueError: If the model has no graph, a layer is not there, is called more than once, or
            returns more than one tensor.

    Example:

    >>> reader = FeatureReader(model, ["hidden"])
    >>> outputs, features = reader(np.zeros((2, 4)), training=False)
    >>> tuple(features["hidden"].shape)
    (2, 8)
    """

    def __init__(self, model: keras.Model, names: list[str]):
        self.model = model
        self._graphs: dict[int, Graph] = {}
        self._add(Graph(model))
        self.tensors: dict[str, keras.KerasTensor] = {}
        calls: dict[str, list] = {}
        for graph in self._graphs.values():
            for node in graph.nodes:
                calls.setdefault(node.name, []).append(node)
        for name in dict.fromkeys(names):
            if name not in calls:
                raise ValueError(
                    f"The model '{model.name}' has no layer '{name}'. {did_you_mean(name, calls)} "
                    f"Received: {name!r}"
                )
            node = calls[name][0]
            if len(calls[name]) > 1 or len(node.outputs) > 1:
                raise ValueError(
                    f"The layer '{name}' of the model '{model.name}' returns {len(node.outputs)} "
                    f"tensors in {len(calls[name])} calls, so which one is meant is not clear. "
                    f"Name a layer that is called once and returns one tensor. Received: {name!r}"
                )
            self.tensors[name] = node.outputs[0]

    def __call__(self, inputs: Any, training: bool) -> tuple[Any, dict[str, Any]]:
        """Returns the model's outputs, and a dictionary from the layers' names to their outputs.

        Args:
            inputs: What the model takes.
            training: Boolean.
        """
        features: dict[str, Any] = {}
        return self._run(self._graphs[id(self.model)], inputs, training, features), features

    def _add(self, graph: Graph) -> None:
        self._graphs[id(graph.model)] = graph
        for node in graph.nodes:
            if isinstance(node.operation, keras.Model) and id(node.operation) not in self._graphs:
                # One without a graph is run as any other layer.
                with contextlib.suppress(ValueError):
                    self._add(Graph(node.operation))

    def _run(self, graph: Graph, inputs: Any, training: bool, features: dict[str, Any]) -> Any:
        model = graph.model
        functional = model._functional if isinstance(model, keras.Sequential) else model

        def call(node, args, kwargs):
            operation = node.operation
            inner = self._graphs.get(id(operation))
            if inner is not None:
                result = self._run(inner, (*args, *kwargs.values())[0], training, features)
            else:
                # What was written in the call gives way, as in a model's own run.
                if "training" in getattr(operation, "_call_context_args", {}):
                    kwargs["training"] = training
                result = operation(*args, **kwargs)
            if node.name in self.tensors:
                features[node.name] = result
            return result

        return graph.run(functional._standardize_inputs(inputs), call)
