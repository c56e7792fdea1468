"""The graph of a Sequential or Functional model: walking it, rebuilding it with other layers."""

import dataclasses
import inspect
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One call of an operation in a model's graph.

    Args:
        operation: The layer, the nested model, or the operation that is no layer (`x + y`).
        args: Positional arguments of the call, with the graph's tensors in them.
        kwargs: Keyword arguments of the call, as the caller wrote them.
        inputs: List of the tensors among the arguments.
        outputs: List of the tensors that the call returns.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict[str, Any]
    inputs: list[keras.KerasTensor]
    outputs: list[keras.KerasTensor]

    @property
    def name(self) -> str:
        """The name of the operation."""
        return self.operation.name


class Graph:
    """The calls that lead from a model's inputs to its outputs.

    A nested model is one node here; `Graph(node.operation)` is what it holds. Calls of the same
    layers elsewhere, in another model, are not part of it.

    Args:
        model: A built Sequential or Functional model.

    Raises:
        ValueError: If the model is not built, or is subclassed and so has no graph.

    Example:

    >>> x = keras.Input((4,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(2, name="head")(x))
    >>> [node.name for node in Graph(model).nodes]
    ['head']
    """

    def __init__(self, model: keras.Model):
        functional = _functional(model)
        self.model = model
        self.inputs: list[keras.KerasTensor] = list(functional.inputs)
        self.outputs: list[keras.KerasTensor] = list(functional.outputs)
        self.input_structure: Any = functional.input
        self.output_structure: Any = functional.output
        by_depth = functional._nodes_by_depth
        nodes = [n for depth in sorted(by_depth, reverse=True) for n in by_depth[depth]]
        # In topological order; inputs are no calls.
        self.nodes: list[Node] = [
            Node(
                node.operation,
                tuple(node.arguments.args),
                dict(node.arguments.kwargs),
                list(node.input_tensors),
                list(node.outputs),
            )
            for node in nodes
            if not node.is_input
        ]
        self._producers = {id(t): node for node in self.nodes for t in node.outputs}
        self._consumers: dict[int, list[Node]] = {}
        for node in self.nodes:
            for tensor in {id(t): t for t in node.inputs}.values():
                self._consumers.setdefault(id(tensor), []).append(node)
        self._ends = {id(t) for t in self.outputs}

    def producer(self, tensor: keras.KerasTensor) -> Node | None:
        """Returns the node that a tensor comes from, or `None` for an input of the model."""
        return self._producers.get(id(tensor))

    def consumers(self, tensor: keras.KerasTensor) -> list[Node]:
        """Returns the nodes that take a tensor, each once, in topological order."""
        return list(self._consumers.get(id(tensor), ()))

    def is_output(self, tensor: keras.KerasTensor) -> bool:
        """Tells whether a tensor is an output of the model."""
        return id(tensor) in self._ends

    def run(self, inputs: Sequence[Any], call: Callable[[Node, tuple, dict], Any]) -> Any:
        """Lets values flow through the graph.

        Args:
            inputs: The values of the inputs, in the order of `inputs`.
            call: A function of a node, its arguments and its keyword arguments, both with values
                in place of the tensors, that returns the values of the node's outputs.

        Returns:
            The values of the outputs, in the structure of the model's outputs.
        """
        values = {id(tensor): value for tensor, value in zip(self.inputs, inputs, strict=True)}

        def fill_in(structure):
            return keras.tree.map_structure(
                lambda x: values[id(x)] if isinstance(x, keras.KerasTensor) else x, structure
            )

        for node in self.nodes:
            results = keras.tree.flatten(call(node, fill_in(node.args), fill_in(node.kwargs)))
            values.update(zip(map(id, node.outputs), results, strict=True))
        return fill_in(self.output_structure)


def graphs(model: keras.Model) -> list[Graph]:
    """Returns the graph of a model and of each model nested in it, each once, outermost first.

    Args:
        model: A built Sequential or Functional model.

    Raises:
        ValueError: If the model is not built, or it or a model nested in it is subclassed.
    """
    found = {id(model): Graph(model)}
    pending = list(found.values())
    while pending:
        for node in pending.pop(0).nodes:
            inner = node.operation
            if isinstance(inner, keras.Model) and id(inner) not in found:
                found[id(inner)] = Graph(inner)
                pending.append(found[id(inner)])
    return list(found.values())


def copy_layer(layer: keras.layers.Layer, **changes) -> keras.layers.Layer:
    """Returns a new layer with the config of another one, not built and without its weights.

    Functions and classes that the config knows by name only need not be registered.

    Args:
        layer: The layer.
        **changes: Entries of its config that differ.

    Raises:
        ValueError: If the layer cannot be made from its config; the message says why.
    """
    try:
        with warnings.catch_warnings():
            # Keras warns of lambdas in a config, and then refuses their bytecode. Nothing is
            # written here, and the function itself is at hand.
            warnings.simplefilter("ignore")
            config = layer.get_config()
        for key in config:
            if getattr(getattr(layer, key, None), "__name__", None) == "<lambda>":
                config[key] = getattr(layer, key)
        config.update(changes)
        if isinstance(layer, keras.layers.Lambda):
            config.update(function=layer.function, output_shape=layer._output_shape)
            return type(layer)(**config)
        with keras.saving.custom_object_scope(_unregistered(layer)):
            return type(layer).from_config(config)
    except Exception as error:
        raise ValueError(
            f"The layer '{layer.name}' ({type(layer).__name__}) cannot be copied from its config: "
            f"{error} Its class needs a `get_config()` that returns the constructor's arguments. "
            f"Received: {layer!r}"
        ) from error


def rebuild(
    model: keras.Model,
    replace: Callable[[Node], Sequence[Callable] | None] | None = None,
    input_shape: Callable[[keras.KerasTensor], tuple | None] | None = None,
) -> keras.Model:
    """Returns a new model of the same graph in which chosen calls are replaced.

    The new model shares nothing with the one given: every layer is a copy under the same name, with
    the same weights, `trainable` flag and seed. A layer that was shared is shared again. The names
    and the structure of inputs and outputs stay. A Sequential model becomes a Sequential one again,
    unless something that is no layer is put into it. The new model is not compiled.

    Args:
        model: A built Sequential or Functional model. It is not changed.
        replace: A function that gets the `Node` of each call of a layer or an operation, also in
            nested models. It returns `None` to keep what is called, or a list of layers, or of
            functions of tensors, that are called one after the other in its place; the first gets
            the arguments of the call. The node's own operation in the list stands for its copy, as
            in `[node.operation, keras.layers.Dropout(0.5)]`. An empty list leaves the call out,
            and its first input goes through. New layers keep the weights that they were given.
        input_shape: A function of an input of a model, also a nested one, that returns the shape
            that it has in the new model, with the batch, or `None` where it stays.

    Raises:
        ValueError: If the model is not built or is subclassed, or a layer cannot be copied.

    Example:

    >>> def without_dropout(node):
    ...     return [] if isinstance(node.operation, keras.layers.Dropout) else None
    >>> x = keras.Input((4,))
    >>> model = keras.Model(x, keras.layers.Dropout(0.5)(keras.layers.Dense(2)(x)))
    >>> len(rebuild(model, without_dropout).layers)
    2
    """
    graphs(model)  # What cannot be followed is told before any work.
    rebuilder = _Rebuilder(replace or (lambda node: None), input_shape or (lambda tensor: None))
    new = rebuilder.copy_of(model)
    rebuilder.carry_over()
    return new


class _Rebuilder:
    """The copies of what one model holds, each made once."""

    def __init__(
        self,
        replace: Callable[[Node], Sequence[Callable] | None],
        input_shape: Callable[[keras.KerasTensor], tuple | None],
    ):
        self._replace = replace
        self._input_shape = input_shape
        # By the id of the original, which is held too, so that no id is used twice.
        self._copies: dict[int, tuple[keras.Operation, keras.Operation]] = {}

    def copy_of(self, operation: keras.Operation) -> Any:
        if id(operation) not in self._copies:
            make = self._model if isinstance(operation, keras.Model) else _copy_operation
            self._copies[id(operation)] = (operation, make(operation))
        return self._copies[id(operation)][1]

    def _model(self, model: keras.Model) -> keras.Model:
        graph = Graph(model)
        chains = {id(node): self._chain(node) for node in graph.nodes}
        inputs = [self._input(tensor) for tensor in graph.inputs]
        parts = [part for chain in chains.values() for part in chain]
        if isinstance(model, keras.Sequential) and parts:
            if all(isinstance(part, keras.layers.Layer) for part in parts):
                return keras.Sequential([*inputs, *parts], name=model.name)
        outputs = graph.run(
            inputs, lambda node, args, kwargs: _call_chain(chains[id(node)], args, kwargs)
        )
        by_old = dict(zip(map(id, graph.inputs), inputs, strict=True))
        structure = keras.tree.map_structure(lambda x: by_old[id(x)], graph.input_structure)
        return _model_class(model)(structure, outputs, name=model.name)

    def _input(self, tensor: keras.KerasTensor) -> keras.KerasTensor:
        layer, shape = tensor._keras_history.operation, self._input_shape(tensor)
        if shape is not None and id(layer) not in self._copies:
            self._copies[id(layer)] = (layer, copy_layer(layer, batch_shape=shape))
        new = self.copy_of(layer).output
        # The name that data in a dictionary is bound by; a layer's may differ.
        new.name = tensor.name
        return new

    def _chain(self, node: Node) -> list[Callable]:
        for value in keras.tree.flatten((node.args, node.kwargs)):
            if isinstance(value, keras.Variable):
                raise ValueError(
                    f"The operation '{node.name}' takes a variable that no layer holds, and a copy "
                    f"would share it. Put it into a layer. Received: {value!r}"
                )
        if isinstance(node.operation, keras.Model):
            return [self.copy_of(node.operation)]
        chain = self._replace(node)
        if chain is None:
            chain = [node.operation]
        return [self.copy_of(part) if part is node.operation else part for part in chain]

    def carry_over(self) -> None:
        """Gives the copies the weights, seeds and `trainable` flags of the originals."""
        layers = [p for p in self._copies.values() if isinstance(p[0], keras.layers.Layer)]
        # A model hands its flag on to what it holds, so the outermost comes first. It was made
        # last, and its layers' own flags come after it.
        for old, new in reversed([p for p in layers if isinstance(p[0], keras.Model)]):
            _copy_trainable(old, new)
        for old, new in layers:
            if not isinstance(old, keras.Model):
                _copy_state(old, new)


def _functional(model: Any) -> Functional:
    """Returns what holds the graph of a model, the model itself or what a Sequential one made."""
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a `keras.Model`. Received: model={model!r}")
    sequential = isinstance(model, keras.Sequential)
    functional = model._functional if sequential else model
    own_call = keras.Sequential.call if sequential else Functional.call
    if type(model).call is own_call and not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built, so its layers have neither weights nor "
            "shapes. Let it begin with `keras.Input(shape)`, or call `model.build(input_shape)`. "
            f"Received: model={model!r}"
        )
    if type(model).call is not own_call or not isinstance(functional, Functional):
        raise ValueError(
            f"What the model '{model.name}' computes is written in Python ({type(model).__name__}) "
            "and cannot be read as a graph of layers. Build it as `keras.Model(inputs, outputs)` "
            "or `keras.Sequential`, or pass a part of it that is built so. "
            f"Received: model={model!r}"
        )
    return functional


def _model_class(model: keras.Model) -> type[keras.Model]:
    """Returns the class of a Functional model where it can be called as one is."""
    if isinstance(model, keras.Sequential):
        return keras.Model
    parameters = inspect.signature(type(model).__init__).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    passes_on = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} <= kinds
    return type(model) if passes_on or {"inputs", "outputs"} <= set(parameters) else keras.Model


def _call_chain(chain: Sequence[Callable], args: tuple, kwargs: dict[str, Any]) -> Any:
    if not chain:
        return keras.tree.flatten((args, kwargs))[0]
    if isinstance(chain[0], keras.layers.Layer):
        # Keras notes the mask of a call as if the caller had passed it.
        taken = inspect.signature(chain[0].call).parameters
        kwargs = {name: value for name, value in kwargs.items() if name in taken}
    value = chain[0](*args, **kwargs)
    for part in chain[1:]:
        value = part(value)
    return value


def _copy_operation(operation: keras.Operation) -> keras.Operation:
    if isinstance(operation, keras.layers.Layer):
        return copy_layer(operation)
    # It has no state, and often no config that tells all. `copy.copy` would write it to a file.
    new = object.__new__(type(operation))
    vars(new).update(vars(operation))
    new._inbound_nodes, new._outbound_nodes = [], []
    return new


def _unregistered(layer: keras.layers.Layer) -> dict[str, Any]:
    """Functions and classes of the user's that a layer's config may name."""
    found: dict[str, Any] = {}
    ambiguous = set()
    for value in vars(layer).values():
        custom = value if isinstance(value, types.FunctionType) else type(value)
        if custom.__module__.split(".")[0] in ("keras", "builtins"):
            continue
        if found.setdefault(custom.__name__, custom) is not custom:
            ambiguous.add(custom.__name__)
    return {name: custom for name, custom in found.items() if name not in ambiguous}


def _copy_trainable(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    if new.trainable != old.trainable:
        new.trainable = old.trainable


def _copy_state(old: keras.layers.Layer, new: keras.layers.Layer) -> None:
    pairs = list(zip(old._flatten_layers(), new._flatten_layers(), strict=True))
    for inner, copied in pairs:
        _copy_trainable(inner, copied)
    for inner, copied in pairs:
        stored: dict[str, Any] = {}
        inner.save_own_variables(stored)
        if stored:
            copied.load_own_variables({k: _to_numpy(v) for k, v in stored.items()})
        for seed, copied_seed in zip(inner._seed_generators, copied._seed_generators, strict=True):
            copied_seed.state.assign(_to_numpy(seed.state))


def _to_numpy(value: Any) -> Any:
    # A copy: on JAX two variables must not hold one buffer.
    return np.array(keras.ops.convert_to_numpy(value))
