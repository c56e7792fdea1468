"""BatchNorm put into a model that was built without it."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optkit.core.graph import Graph, Node, copy_layer, graphs, rebuild
from keras_optkit.core.messages import did_you_mean
from keras_optkit.normalization.collect import collect_moments
from keras_optkit.normalization.linear_layers import (
    KINDS,
    activation_layer,
    changed_linear,
    channel_axis,
    is_linear_activation,
    is_linear_layer,
    kernels,
)

_POSITIONS = ("before_activation", "after_activation")
_NORMS = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.UnitNormalization,
)
_ACTIVATIONS = {name.replace("_", "").lower() for name in dir(keras.activations)} | {"prelu"}

Where = None | str | type | re.Pattern | Callable[[layers.Layer], bool] | Sequence


def insert_batch_norm(
    model: keras.Model,
    where: Where = None,
    position: str = "before_activation",
    data: Any = None,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    batch_size: int = 32,
    steps: int | None = None,
) -> keras.Model:
    """Returns a model with a BatchNorm behind each chosen Dense or convolution.

    The new model predicts what the old one does: each norm starts as the identity. A bias that the
    norm would make useless is taken out, and its value becomes the norm's `beta`.

    Pass `data`, the training inputs, wherever the new model is to be trained. Then each norm holds
    the mean and variance of what reaches it, with `gamma` and `beta` that undo the normalization:
    the model also predicts the same with the statistics of a batch, as in training, and after
    `recalibrate_batch_norm(model, data)`. Without data a norm holds a mean of 0 and a variance of
    1, and is the identity in inference only: a training step normalizes by its batch.

    Args:
        model: A built Sequential or Functional model, also with models nested in it. It is not
            changed.
        where: The layers that get a norm: `None` for each Dense, Conv, DepthwiseConv, SeparableConv
            and transposed Conv but the last ones, behind which there is none of these, and those
            whose output the model returns; or a layer's name, a class, a compiled regular
            expression that is searched for in the names, a function from a layer to a boolean, or
            a list of these. Layers that are followed by a norm already are passed over.
        position: `"before_activation"` (as in the paper), or `"after_activation"`. An activation
            is the layer's own, which then becomes a layer, or a layer or operation behind it.
        data: `None`, or inputs as for `recalibrate_batch_norm`.
        momentum: Float in [0, 1), the new norms' momentum. Defaults to 0.99, as in Keras.
        epsilon: Float > 0, the new norms' epsilon. Defaults to 0.001, as in Keras.
        batch_size: Integer >= 1, the size of the batches where `data` is arrays. Defaults to 32.
        steps: Integer >= 1, how many batches of `data` are read at most, or `None` for all.

    Returns:
        The new `keras.Model`, not compiled. A norm is called after its layer, as in `conv1_bn`, the
        activation `conv1_activation`. Behind an output the last of them has the layer's own name,
        so that the names of the outputs stay.

    Raises:
        ValueError: If the model is not built or is subclassed, an argument is out of its range, a
            name does not exist, or no layer is chosen that can have a norm.

    Example:

    >>> layers = [keras.layers.Dense(8, activation="relu", name="hidden"), keras.layers.Dense(2)]
    >>> model = keras.Sequential([keras.Input((4,)), *layers])
    >>> [layer.name for layer in insert_batch_norm(model).layers[:3]]
    ['hidden', 'hidden_bn', 'hidden_activation']

    Reference:
        Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", 2015, section 3.2.
    """
    if position not in _POSITIONS:
        raise ValueError(
            f"`position` must be one of {_POSITIONS}. {did_you_mean(str(position), _POSITIONS)} "
            f"Received: position={position!r}"
        )
    if not 0 <= momentum < 1:
        raise ValueError(f"`momentum` must be in [0, 1). Received: momentum={momentum!r}")
    if not epsilon > 0:
        raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon!r}")
    inserter = _Inserter(model, position, {"momentum": momentum, "epsilon": epsilon})
    inserter.plan(where)
    new = rebuild(model, inserter.replacement)
    if data is not None:
        _normalize_and_undo(new, inserter.norms, data, batch_size, steps)
    return new


def _normalize_and_undo(model, norms, data, batch_size, steps) -> None:
    """Gives norms that are the identity the statistics of data, and lets them stay the identity."""
    found = collect_moments(model, data, norms, "moving", batch_size, steps)
    for norm, moments in found.items():
        beta = keras.ops.convert_to_numpy(norm.beta).astype("float64")
        norm.moving_mean.assign(moments.mean)
        norm.moving_variance.assign(moments.variance)
        norm.gamma.assign(np.sqrt(moments.variance + norm.epsilon))
        norm.beta.assign(beta + moments.mean)


class _Inserter:
    """Decides where norms go, on the graph of the original, and makes the new layers."""

    def __init__(self, model: keras.Model, position: str, norm_arguments: dict[str, float]):
        self.norms: list[layers.BatchNormalization] = []
        self._model = model
        self._after = position == "after_activation"
        self._norm_arguments = norm_arguments
        self._graphs = graphs(model)
        self._names = {layer.name for layer in model._flatten_layers()}
        # Per layer, the linear layer in its place; per call, what takes its place.
        self._linear: dict[int, layers.Layer] = {}
        self._chains: dict[int, list[Callable]] = {}
        self._nodes = [(graph, node) for graph in self._graphs for node in graph.nodes]

    def plan(self, where: Where) -> None:
        chosen = self._choose(where)
        for graph, node in self._nodes:
            if id(node.operation) in chosen:
                self._insert(graph, node)

    def replacement(self, node: Node) -> list[Callable] | None:
        # A node of the rebuilt graph is read anew; its output tells which one it is.
        return self._chains.get(id(node.outputs[0]))

    def _choose(self, where: Where) -> dict[int, layers.Layer]:
        every = {id(n.operation): n.operation for _, n in self._nodes}
        every = {key: op for key, op in every.items() if isinstance(op, layers.Layer)}
        linear = {key: layer for key, layer in every.items() if is_linear_layer(layer)}
        if where is None:
            ends = {
                id(n.operation)
                for g, n in self._nodes
                if is_linear_layer(n.operation) and self._is_last(g, n)
            }
            chosen = {key: layer for key, layer in linear.items() if key not in ends}
        else:
            self._require_names(where, every, linear)
            chosen = {key: layer for key, layer in linear.items() if _matches(where, layer)}
        if not chosen:
            names = [layer.name for layer in linear.values()]
            raise ValueError(
                f"`where` matches no layer of the model '{self._model.name}' that can have a norm. "
                f"{did_you_mean('', names)} Received: where={where!r}"
            )
        normed = {id(n.operation) for g, n in self._nodes if self._has_norm(g, n.outputs[0])}
        if not set(chosen) - normed:
            names = ", ".join(repr(layer.name) for layer in chosen.values())
            raise ValueError(
                f"There is nothing to insert: a norm follows {names} already. "
                f"Received: where={where!r}"
            )
        return {key: layer for key, layer in chosen.items() if key not in normed}

    def _require_names(self, where, every, linear) -> None:
        for item in where if isinstance(where, (list, tuple, set)) else [where]:
            if isinstance(item, str):
                named = [layer for layer in every.values() if layer.name == item]
                if not named:
                    names = [layer.name for layer in linear.values()]
                    raise ValueError(
                        f"The model '{self._model.name}' has no layer '{item}'. "
                        f"{did_you_mean(item, names)} Received: where={where!r}"
                    )
                if not any(map(is_linear_layer, named)):
                    kinds = ", ".join(kind.__name__ for kind in KINDS)
                    raise ValueError(
                        f"The layer '{item}' is a {type(named[0]).__name__}; a norm can be "
                        f"inserted behind {kinds}. Received: where={where!r}"
                    )
            elif not isinstance(item, (type, re.Pattern)) and not callable(item):
                raise ValueError(
                    "`where` must be None, a layer's name, a class, a compiled regular expression, "
                    f"a function of a layer, or a list of these. Received: where={where!r}"
                )

    def _is_last(self, graph: Graph, node: Node) -> bool:
        """Whether the model returns what a layer computes, or has no linear layer behind it."""
        last = self._behind_activation(graph, node)
        return self._is_model_output(graph, last) or not self._leads_on(
            graph, last.outputs[0], set()
        )

    def _leads_on(self, graph: Graph, tensor, seen: set[int]) -> bool:
        """Whether a tensor reaches a linear layer, also out of a nested model and into others."""
        if id(tensor) in seen:
            return False
        seen.add(id(tensor))
        for node in graph.consumers(tensor):
            operation = node.operation
            held = operation._flatten_layers() if isinstance(operation, layers.Layer) else []
            if any(map(is_linear_layer, held)):
                return True
            if any(self._leads_on(graph, output, seen) for output in node.outputs):
                return True
        if not graph.is_output(tensor):
            return False
        around = [(g, n) for g, n in self._nodes if n.operation is graph.model]
        return any(self._leads_on(g, output, seen) for g, n in around for output in n.outputs)

    def _has_norm(self, graph: Graph, tensor) -> bool:
        """Whether a norm follows, directly or behind an activation."""
        for node in graph.consumers(tensor):
            if isinstance(node.operation, _NORMS):
                return True
            if _is_activation(node.operation) and self._has_norm(graph, node.outputs[0]):
                return True
        return False

    def _behind_activation(self, graph: Graph, node: Node) -> Node:
        """Returns the activation that alone takes what a layer without one computes, or itself."""
        (tensor,) = node.outputs
        if is_linear_activation(node.operation.activation) and not graph.is_output(tensor):
            consumers = graph.consumers(tensor)
            if len(consumers) == 1 and _is_activation(consumers[0].operation):
                return consumers[0]
        return node

    def _insert(self, graph: Graph, node: Node) -> None:
        layer = node.operation
        last = self._behind_activation(graph, node) if self._after else node
        is_output = self._is_model_output(graph, last)
        if last is not node:
            first, useless = last.operation, False
            # The output's name goes to the norm, if the activation can do without it.
            is_output = is_output and isinstance(first, layers.Layer) and not first.weights
            if is_output:
                first = copy_layer(first, name=self._unique(f"{first.name}_activation"))
        else:
            first, useless = self._stand_in(layer), self._makes_bias_useless(layer)
        chain = [first]
        splits = useless and not is_linear_activation(layer.activation)
        is_end = is_output and not splits
        name = last.operation.name if is_end else self._unique(f"{layer.name}_bn")
        chain.append(self._norm(name, layer, last.outputs[0], layer.bias if useless else None))
        if splits:
            name = layer.name if is_output else self._unique(f"{layer.name}_activation")
            chain.append(activation_layer(layer.activation, name, layer.dtype_policy))
        self._chains[id(last.outputs[0])] = chain

    def _stand_in(self, layer: layers.Layer) -> layers.Layer:
        """Returns what takes the place of a linear layer, the same one for all of its calls."""
        if id(layer) not in self._linear:
            calls = [(g, n) for g, n in self._nodes if n.operation is layer]
            changes: dict[str, Any] = {}
            if any(self._is_model_output(g, n) for g, n in calls):
                changes["name"] = self._unique(f"{layer.name}_linear")
            bias = layer.bias
            if self._makes_bias_useless(layer):
                changes["activation"], bias = None, None
            values = [keras.ops.convert_to_numpy(kernel) for kernel in kernels(layer)]
            bias = None if bias is None else keras.ops.convert_to_numpy(bias)
            new = changed_linear(layer, values, bias, **changes) if changes else layer
            self._linear[id(layer)] = new
        return self._linear[id(layer)]

    def _makes_bias_useless(self, layer: layers.Layer) -> bool:
        """Whether nothing stands between a layer's bias and the norm."""
        return not self._after or is_linear_activation(layer.activation)

    def _norm(self, name: str, layer, tensor, bias) -> layers.BatchNormalization:
        """Makes a norm that is the identity in inference, but for a bias that it takes over."""
        norm = layers.BatchNormalization(
            axis=channel_axis(layer),
            name=name,
            dtype=layer.dtype_policy,
            **self._norm_arguments,
        )
        norm.build(tensor.shape)
        norm.gamma.assign(np.full(norm.gamma.shape, np.sqrt(1.0 + norm.epsilon)))
        if bias is not None:
            norm.beta.assign(keras.ops.convert_to_numpy(bias))
        self.norms.append(norm)
        return norm

    def _is_model_output(self, graph: Graph, node: Node) -> bool:
        return graph is self._graphs[0] and any(map(graph.is_output, node.outputs))

    def _unique(self, name: str) -> str:
        numbered = (f"{name}_{i}" for i in range(1, len(self._names) + 1))
        name = (
            name if name not in self._names else next(n for n in numbered if n not in self._names)
        )
        self._names.add(name)
        return name


def _matches(where: Where, layer: layers.Layer) -> bool:
    if isinstance(where, (list, tuple, set)):
        return any(_matches(item, layer) for item in where)
    if isinstance(where, str):
        return layer.name == where
    if isinstance(where, type):
        return isinstance(layer, where)
    if isinstance(where, re.Pattern):
        return where.search(layer.name) is not None
    return bool(where(layer))


def _is_activation(operation: keras.Operation) -> bool:
    """Whether it is an activation of Keras, as a layer or as an operation."""
    kind = type(operation)
    if kind is layers.Activation:
        return not is_linear_activation(operation.activation)
    return kind.__module__.startswith("keras.") and kind.__name__.lower() in _ACTIVATIONS
