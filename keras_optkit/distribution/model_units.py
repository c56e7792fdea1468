"""What of a model can be put on a device by itself, in the order of the graph."""

import dataclasses

import keras

from keras_optkit.core.graph import Graph


@dataclasses.dataclass(eq=False)
class Unit:
    """A layer, or an operation that is no layer, wherever in the model it is called.

    Args:
        path: String, the names of the nested models that it is in and its own, as in
            `"encoder/dense"`.
        operation: The layer or operation.
        variables: List of the variables that it has and no unit before it.
        follows: The units whose outputs it takes at its first call.
    """

    path: str
    operation: keras.Operation
    variables: list[keras.Variable]
    follows: list["Unit"]

    @property
    def weights(self) -> list[keras.Variable]:
        """Its variables without the states of random seeds."""
        own = {id(v) for v in getattr(self.operation, "weights", [])}
        return [v for v in self.variables if id(v) in own]


def model_units(model: keras.Model) -> list[Unit]:
    """Returns the units of a model, each once, in the order in which they are called first.

    A nested Sequential or Functional model is taken apart. A subclassed one, and a layer that holds
    other layers, is one unit, as what it computes is not a graph. Where the model itself is
    subclassed, its units are what it holds, in the order in which it was made.

    Args:
        model: A built model.

    Example:

    >>> encoder = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)], name="encoder")
    >>> model = keras.Sequential([keras.Input((4,)), encoder, keras.layers.ReLU(name="relu")])
    >>> [unit.path.rpartition("_")[0] or unit.path for unit in model_units(model)]
    ['encoder/dense', 'relu']
    """
    collected = _Units()
    if has_graph(model):
        collected.follow(model, "")
    else:
        collected.hold(model)
    return list(collected.found.values())


def has_graph(operation: keras.Operation) -> bool:
    """Returns whether something is a model that can be read as a graph of layers."""
    if not isinstance(operation, keras.Model):
        return False
    try:
        Graph(operation)
    except ValueError:
        return False
    return True


class _Units:
    """The units found so far, and which of them each tensor comes from."""

    def __init__(self):
        self.found: dict[int, Unit] = {}
        self._makers: dict[int, Unit] = {}
        self._seen: set[int] = set()

    def follow(self, model: keras.Model, prefix: str) -> None:
        for node in Graph(model).nodes:
            if has_graph(node.operation):
                inner = Graph(node.operation)
                # The tensors inside of a nested model are others than those outside.
                self._same(node.inputs, inner.inputs)
                self.follow(node.operation, f"{prefix}{node.name}/")
                self._same(inner.outputs, node.outputs)
            else:
                unit = self._add(node.operation, prefix, node.inputs)
                self._makers.update((id(tensor), unit) for tensor in node.outputs)

    def hold(self, model: keras.Model) -> None:
        for layer in model.layers:
            if has_graph(layer):
                self.follow(layer, f"{layer.name}/")
            elif not isinstance(layer, keras.layers.InputLayer):
                self._add(layer, "", [])

    def _add(self, operation: keras.Operation, prefix: str, inputs: list) -> Unit:
        if id(operation) not in self.found:
            variables = [v for v in getattr(operation, "variables", []) if id(v) not in self._seen]
            self._seen.update(map(id, variables))
            follows = [self._makers[id(t)] for t in inputs if id(t) in self._makers]
            self.found[id(operation)] = Unit(
                f"{prefix}{operation.name}", operation, variables, follows
            )
        return self.found[id(operation)]

    def _same(self, tensors: list, others: list) -> None:
        for tensor, other in zip(tensors, others, strict=False):
            if id(tensor) in self._makers:
                self._makers[id(other)] = self._makers[id(tensor)]
