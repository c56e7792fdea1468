"""Where the channels of a model come from, what they go through, and which belong together."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.structured.channels import Channels
from keras_optkit.core.graph import Graph, Node, graphs


@dataclasses.dataclass(eq=False)
class Flow:
    """A tensor of the graph, with a label for each of its channels.

    Args:
        labels: Integer array, the labels along one axis.
        axis: Integer > 0, that axis, counted with the batch.
        shape: Tuple, the shape of the tensor with the batch, `None` where it is not known.
        maker: The `Weight` that makes these channels, where since then nothing has mixed, moved or
            scaled them; else `None`.
        before: The flow that was handed on, where `maker` came with it.
        taken: Integer, how many operations take it.
    """

    labels: np.ndarray
    axis: int
    shape: tuple
    maker: "Weight | None" = None
    before: "Flow | None" = None
    taken: int = 0

    @property
    def rank(self) -> int:
        """The number of axes, with the batch."""
        return len(self.shape)


@dataclasses.dataclass(eq=False)
class Weight:
    """A variable that gets smaller when channels leave.

    Args:
        variable: The variable.
        labels: Dictionary from an axis of the variable to the labels along it.
        makes: Axis of the channels that the variable makes, or `None` if it makes none.
        work: Integer, how often each number in it is multiplied in one prediction.
        bias: The variable that is added to the channels that it makes, or `None`.
        norms: The norms through which all goes that it makes.
        calls: Integer, how often it makes channels in one prediction.
    """

    variable: keras.Variable
    labels: dict[int, np.ndarray]
    makes: int | None = None
    work: int = 0
    bias: keras.Variable | None = None
    norms: list[keras.layers.Layer] = dataclasses.field(default_factory=list)
    calls: int = 0


@dataclasses.dataclass(eq=False)
class Resized:
    """A layer whose config or input shape changes when channels leave.

    Args:
        layer: The layer.
        shape: The shape of its input, with the batch.
        axis: The axis of the input that has `labels`.
        labels: Integer array, the labels of the input.
        config: A function of a function that counts the labels that stay, which returns the
            entries of the config that change.
    """

    layer: keras.layers.Layer
    shape: tuple
    axis: int
    labels: np.ndarray
    config: Callable[[Callable[[np.ndarray], int]], dict[str, Any]]


class Trace:
    """What one walk through a model tells of its channels.

    Args:
        model: A built Sequential or Functional model.
        rule_for: A function that returns, for an operation, what it does to channels: a function
            of the trace, the node and its flows, that returns the flows of the node's outputs.
        keep: Names of layers whose own channels stay.
        shapes: The shapes of the inputs, with the batch, where those of the model are not known
            in full; `None` for the model's own.

    Raises:
        ValueError: If the model is not built, or it or a model nested in it is subclassed.
    """

    def __init__(
        self,
        model: keras.Model,
        rule_for: Callable[[Any], Callable],
        keep: Sequence[str] = (),
        shapes: Sequence[tuple] | None = None,
    ):
        self.model = model
        self.channels = Channels()
        self.weights: dict[int, Weight] = {}
        self.resized: dict[int, Resized] = {}
        # By the id of a block, what it takes, where plain layers stand in for it.
        self.opened: dict[int, Flow] = {}
        # By the id of an input of a model, what comes in there.
        self.inputs: dict[int, Flow] = {}
        # By the name of the layer, why channels that it takes or makes stay.
        self.whole: dict[str, str] = {}
        self._rule_for = rule_for
        self._keep = set(keep)
        self._made: dict[int, np.ndarray] = {}
        self._normed: list[tuple[Flow, keras.layers.Layer]] = []
        self._sized = shapes is not None
        graphs(model)  # What cannot be followed at all is told before any work.
        tensors = list(model.inputs)
        if shapes is not None:
            tensors = [_tensor(s, t) for s, t in zip(shapes, tensors, strict=True)]
        inputs = [self.opaque(tensor, "it is an input of the model") for tensor in tensors]
        for flow in self._flat(self.run(model, inputs)):
            flow.taken += 1
            self.channels.freeze(flow.labels, "it is an output of the model")
        self._settle_norms()

    def run(self, model: keras.Model, inputs: list[Flow]) -> Any:
        """Lets labels flow through a model, and returns those of its outputs."""
        graph = Graph(model)
        for tensor, flow in zip(graph.inputs, inputs, strict=True):
            known = self.inputs.setdefault(id(tensor), flow)
            if known is not flow:
                self.channels.tie(known.labels, flow.labels)
        return graph.run(inputs, self._call)

    def keeps(self, layer: keras.layers.Layer) -> bool:
        """Returns whether the channels of a layer were asked to stay."""
        return layer.name in self._keep

    def opaque(self, tensor: keras.KerasTensor, reason: str) -> Flow:
        """Returns a flow of which all channels stay."""
        shape = tuple(tensor.shape)
        size = shape[-1] if len(shape) > 1 and shape[-1] is not None else 0
        labels = self.channels.new(size)
        self.channels.freeze(labels, reason)
        return Flow(labels, max(len(shape) - 1, 0), shape)

    def made_by(self, layer: keras.layers.Layer, count: int) -> np.ndarray:
        """Returns the labels of the channels that a layer makes, the same in each of its calls."""
        if id(layer) not in self._made:
            self._made[id(layer)] = self.channels.new(count)
            if self.keeps(layer):
                self.channels.freeze(self._made[id(layer)], "it was asked for")
        return self._made[id(layer)]

    def made_flow(self, maker: Weight, labels: np.ndarray, axis: int, shape: tuple) -> Flow:
        """Returns the flow of channels that a variable has just made."""
        maker.calls += 1
        return Flow(labels, axis, shape, maker)

    def add_weight(
        self,
        variable: keras.Variable | None,
        labels: dict[int, np.ndarray],
        makes: int | None = None,
        work: int = 0,
        bias: keras.Variable | None = None,
    ) -> Weight | None:
        """Notes the labels along the axes of a variable; those of a second call are tied."""
        if variable is None:
            return None
        known = self.weights.get(id(variable))
        if known is None:
            known = self.weights[id(variable)] = Weight(variable, labels, makes, work, bias)
            return known
        known.work += work
        for axis, others in labels.items():
            self.channels.tie(known.labels[axis], others)
        return known

    def note_norm(self, norm: keras.layers.Layer, flow: Flow) -> None:
        """Notes that a norm takes a flow."""
        self._normed.append((flow, norm))

    def add_resized(
        self,
        layer: keras.layers.Layer,
        flow: Flow,
        config: Callable[[Callable[[np.ndarray], int]], dict[str, Any]] | None = None,
    ) -> None:
        """Notes that a layer is made anew when channels of its input, or its own, leave."""
        self.resized.setdefault(
            id(layer),
            Resized(layer, flow.shape, flow.axis, flow.labels, config or (lambda count: {})),
        )

    def keep_whole(self, node: Node, flows: list[Flow], reason: str) -> list[Flow]:
        """Freezes what a call takes and makes, and notes why."""
        self.whole.setdefault(node.name, reason)
        for flow in flows:
            self.channels.freeze(flow.labels, f"'{node.name}' takes it: {reason}")
        return [self.opaque(tensor, f"'{node.name}' makes it: {reason}") for tensor in node.outputs]

    def keep_made(self, node: Node, made: Flow, reason: str) -> None:
        """Freezes what a call makes, and notes why."""
        self.whole.setdefault(node.name, reason)
        self.channels.freeze(made.labels, f"'{node.name}': {reason}")

    def _call(self, node: Node, args: tuple, kwargs: dict) -> Any:
        operation = node.operation
        flows = self._flat((args, kwargs))
        if isinstance(operation, keras.Model):
            return self.run(operation, flows)
        for flow in flows:
            flow.taken += 1
        if self._sized:
            node = dataclasses.replace(node, outputs=_outputs(node, args, kwargs))
        return self._rule_for(operation)(self, node, flows)

    def _settle_norms(self) -> None:
        """Notes the norms of variables whose channels go nowhere but through norms."""
        found: dict[int, list] = {}
        for flow, norm in self._normed:
            if flow.maker is not None and all(step.taken == 1 for step in _steps(flow)):
                found.setdefault(id(flow.maker), []).append((flow.maker, norm))
        for pairs in found.values():
            maker = pairs[0][0]
            if len(pairs) == maker.calls:
                maker.norms = list({id(norm): norm for _, norm in pairs}.values())

    def _flat(self, structure: Any) -> list[Flow]:
        return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, Flow)]


def positions(shape: tuple, axis: int) -> int:
    """Returns how many vectors of channels a tensor holds for one sample; 0 if it is not known."""
    sizes = [size for i, size in enumerate(shape) if i not in (0, axis)]
    return 0 if None in sizes else math.prod(sizes)


def _steps(flow: Flow) -> Iterator[Flow]:
    while flow is not None:
        yield flow
        flow = flow.before


def _tensor(shape: tuple, like: keras.KerasTensor) -> keras.KerasTensor:
    return keras.KerasTensor(shape, dtype=like.dtype)


def _outputs(node: Node, args: tuple, kwargs: dict) -> list[keras.KerasTensor]:
    """Returns what a call makes of inputs of other shapes than those in the graph."""
    dtypes = iter(node.inputs)
    args, kwargs = keras.tree.map_structure(
        lambda x: _tensor(x.shape, next(dtypes)) if isinstance(x, Flow) else x, (args, kwargs)
    )
    if isinstance(node.operation, keras.layers.Layer):
        # Keras notes the mask of a call as if the caller had passed it.
        taken = inspect.signature(node.operation.call).parameters
        kwargs = {name: value for name, value in kwargs.items() if name in taken}
    return keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
