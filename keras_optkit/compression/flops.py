"""Floating-point operations of a model, counted on its graph."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras.src.backend.common import global_state

from keras_optkit.compression.export.signature import input_specs, pack_inputs
from keras_optkit.core.graph import Graph

# Keras' own layers without kernels. Some of them cannot be called on symbolic tensors.
_WITHOUT_KERNELS = tuple(
    f"keras.src.layers.{room}."
    for room in ("activations", "normalization", "pooling", "preprocessing", "regularization")
)
_CONVS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
# Loops and branches: how often their bodies run is not in the graph.
_LOOPS = {
    *("AssociativeScan", "Cond", "ForiLoop", "Map", "Scan", "Switch", "VectorizedMap"),
    "WhileLoop",
}


def count_flops(model: keras.Model, input_shapes: Any = None) -> int:
    """Returns the floating-point operations of one prediction for one sample.

    A multiplication and the addition behind it are two: what papers call multiply-adds (MACs) is
    half of this. Counted is what products of matrices, convolutions and their kin do: convolutions
    of all kinds (grouped, depthwise, separable, dilated and transposed too), `matmul`, `dot`,
    `tensordot`, `einsum` and attention, in whatever layer they are called, also in own layers that
    are written with `keras.ops` (with `ops.multiply(self.scale, x)`: `self.scale * x` is none of
    these). A layer that is called twice counts twice, a recurrent one at each step. Places that
    padding adds count as others do.

    It is the model in inference. Not counted are biases, norms, activations, pooling and other
    element-wise work, Keras' layers for preprocessing, lookups in embeddings, decompositions and
    Fourier transforms: in networks made of kernels they are few, though they take their time.

    Args:
        model: A built Sequential or Functional model. It is not changed.
        input_shapes: The inputs' shapes without the batch, where the model leaves sizes open: a
            shape for a single input, a list of shapes in the order of the inputs, or a dictionary
            by their names.

    Returns:
        Integer, the number of operations.

    Raises:
        ValueError: If the model is subclassed or not built, if sizes are not known, or if a layer
            cannot be counted, because it loops or is not written with `keras.ops`.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> count_flops(model)
    64
    """
    return _count(model, input_shapes)[0]


def flops_by_operation(model: keras.Model, input_shapes: Any = None) -> dict[int, int]:
    """Returns the floating-point operations of each layer of a model, as `count_flops` has them.

    Args:
        model: A built Sequential or Functional model. It is not changed.
        input_shapes: As in `count_flops`.

    Returns:
        A dictionary from `id(layer)` to the operations of all its calls, for one sample. It has
        nested models, the layers in them, and operations that are no layers, such as `x @ y`.

    Raises:
        ValueError: As `count_flops` does.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> flops_by_operation(model)[id(model.layers[0])]
    64
    """
    return _count(model, input_shapes)[1]


def _count(model: keras.Model, input_shapes: Any) -> tuple[int, dict[int, int]]:
    inputs = sized_inputs(model, input_shapes)
    counter = _Counter()
    with _called_by(model, counter.call), keras.StatelessScope():
        flops, _ = counter.count(model, (pack_inputs(model, inputs),), {"training": False})
    # A model with a fixed batch size is counted with it.
    batch = inputs[0].shape[0]
    return flops // batch, {key: each // batch for key, each in counter.by_operation.items()}


class _Counter:
    """Calls layers on symbolic tensors and counts the operations that their calls consist of."""

    def __init__(self):
        # By the id of the first tensor that a call returned, which is held: what was counted.
        self._calls: dict[int, tuple[keras.KerasTensor, int]] = {}
        self.by_operation: dict[int, int] = {}
        self._error: ValueError | None = None

    def call(self, layer: keras.layers.Layer, args: tuple, kwargs: dict) -> Any:
        """Returns what a layer returns, and notes its operations."""
        flops, outputs = self.count(layer, args, kwargs)
        first = _first(outputs)
        self._calls[id(first)] = (first, flops)
        self._note(layer, flops)
        return outputs

    def _note(self, operation: keras.Operation, flops: int) -> None:
        self.by_operation[id(operation)] = self.by_operation.get(id(operation), 0) + flops

    def count(self, layer: keras.layers.Layer, args: tuple, kwargs: dict) -> tuple[int, Any]:
        """Returns the operations of one call, and symbolic tensors of what it returns."""
        try:
            return self._count_layer(layer, args, kwargs)
        except Exception as error:
            # Keras adds to a message for each layer that it passes; the innermost says it all.
            if self._error is None:
                self._error = _not_counted(layer, error)
                self._error.__cause__ = error
            raise self._error from self._error.__cause__

    def _count_layer(self, layer, args, kwargs) -> tuple[int, Any]:
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError("It is quantized; count the model before `quantize`.")
        if isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed)):
            return self._count_steps(layer, args, kwargs)
        if isinstance(layer, _CONVS) and layer.groups > 1:
            # Keras has no symbolic call of a grouped convolution.
            outputs = layer.compute_output_spec(*args, **kwargs)
            return _conv(layer, [(), tuple(layer.kernel.shape)], outputs), outputs
        if isinstance(layer, keras.layers.AdditiveAttention):
            # Neither has it of this one. Its scores are sums; they weigh the values by a product.
            outputs = layer.compute_output_spec(*args, **kwargs)
            tensors = keras.tree.flatten((args, kwargs))
            return _matmul(layer, [(tensors[1].shape[1],)], _first(outputs)), outputs
        if type(layer).__module__.startswith(_WITHOUT_KERNELS) and not hasattr(layer, "layer"):
            return 0, layer.compute_output_spec(*args, **kwargs)
        # What comes in gets no history, so that the graph of the call ends there.
        args, kwargs = _without_history((args, kwargs))
        outputs = layer.call(*args, **kwargs)
        return sum(map(self._count_node, _nodes_before(outputs))), _without_history(outputs)

    def _count_steps(self, layer, args, kwargs) -> tuple[int, Any]:
        sequences = _first((args, kwargs))
        batch, steps, *rest = sequences.shape
        step = [keras.KerasTensor((batch, *rest), sequences.dtype)]
        inner = layer.layer if isinstance(layer, keras.layers.TimeDistributed) else layer.cell
        if isinstance(layer, keras.layers.RNN):
            states = layer.get_initial_state(batch_size=batch)
            step.append(keras.tree.map_structure(lambda x: keras.KerasTensor(x.shape), states))
        training = {"training": False} if inner._call_has_training_arg else {}
        flops, _ = self.count(inner, tuple(step), training)
        return steps * flops, layer.compute_output_spec(*args, **kwargs)

    def _count_node(self, node: Any) -> int:
        operation, args, kwargs = node.operation, node.arguments.args, node.arguments.kwargs
        if isinstance(operation, keras.layers.Layer):
            known = self._calls.get(id(node.outputs[0]))
            return self.count(operation, args, kwargs)[0] if known is None else known[1]
        kind = type(operation).__name__
        if kind in _LOOPS:
            raise ValueError(f"How often '{operation.name}' runs its body is not in the graph.")
        if kind not in _RULES:
            return 0
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "shape")]
        flops = _RULES[kind](operation, [tuple(x.shape) for x in tensors], node.outputs[0])
        self._note(operation, flops)
        return flops


def _not_counted(layer: keras.layers.Layer, error: Exception) -> ValueError:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(
        f"The FLOPs of '{layer.name}' ({type(layer).__name__}) cannot be counted: "
        f"{line.removesuffix('.')}. All that it computes must be written with `keras.ops`, without "
        f"loops, and all sizes must be known. Received: {layer!r}"
    )


def _first(structure: Any) -> keras.KerasTensor:
    return keras.tree.flatten(structure)[0]


def _without_history(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: keras.KerasTensor(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) else x,
        structure,
    )


def _nodes_before(outputs: Any) -> list[Any]:
    """Returns the calls that lead to symbolic tensors, each once."""
    found, pending = {}, keras.tree.flatten(outputs)
    while pending:
        operation, index, _ = getattr(pending.pop(), "_keras_history", (None, 0, 0))
        if operation is not None and (id(operation), index) not in found:
            node = operation._inbound_nodes[index]
            found[id(operation), index] = node
            pending.extend(node.input_tensors)
    return list(found.values())


def _conv(operation, shapes, outputs) -> int:
    # A kernel has the axes (places, channels of one group, filters).
    return 2 * _places(operation, outputs.shape) * math.prod(shapes[1])


def _separable_conv(operation, shapes, outputs) -> int:
    _, depthwise, pointwise = shapes
    kernels = math.prod(depthwise) + math.prod(pointwise)
    return 2 * _places(operation, outputs.shape) * kernels


def _conv_transpose(operation, shapes, outputs) -> int:
    # Each place of the input is multiplied with the whole kernel.
    return 2 * _places(operation, shapes[0]) * math.prod(shapes[1])


def _places(operation: keras.Operation, shape: tuple) -> int:
    """Returns for how many places of all samples a convolution's kernel is applied."""
    first = (operation.data_format or keras.config.image_data_format()) == "channels_first"
    return shape[0] * math.prod(shape[2:] if first else shape[1:-1])


def _matmul(operation, shapes, outputs) -> int:
    return 2 * math.prod(outputs.shape) * shapes[0][-1]


def _dot(operation, shapes, outputs) -> int:
    # A scalar makes it a multiplication of each element.
    return _matmul(operation, shapes, outputs) if all(shapes[:2]) else 0


def _vdot(operation, shapes, outputs) -> int:
    return 2 * math.prod(shapes[0])


def _tensordot(operation, shapes, outputs) -> int:
    axes = operation.axes
    if isinstance(axes, int):
        summed = shapes[0][len(shapes[0]) - axes :]
    else:
        first = axes[0] if isinstance(axes[0], Sequence) else [axes[0]]
        summed = [shapes[0][axis] for axis in first]
    return 2 * math.prod(outputs.shape) * math.prod(summed)


def _einsum(operation, shapes, outputs) -> int:
    """A contraction of the operands from left to right, each with what the ones before gave."""
    terms, result, sizes = _einsum_axes(operation.subscripts, shapes)
    flops, left = 0, set(terms[0])
    for i, right in enumerate(terms[1:], 1):
        together = left | set(right)
        left = together & set(result).union(*terms[i + 1 :])
        if together != left:
            flops += 2 * math.prod(sizes[axis] for axis in together)
    return flops


def _einsum_axes(subscripts: str, shapes: list[tuple]) -> tuple[list, list, dict[Any, int]]:
    """Returns the names of the operands' axes, those of the result, and how long each is."""
    left, _, right = subscripts.replace(" ", "").partition("->")
    terms, sizes = [], {}
    for term, shape in zip(left.split(","), shapes, strict=True):
        rank = len(shape) - len(term.replace("...", ""))
        # The axes that an ellipsis stands for are numbered from the last one.
        axes = _einsum_term(term, rank)
        for axis, size in zip(axes, shape, strict=True):
            # A kernel comes last and is right: Keras tells the symbolic result of an attention with
            # the size of its queries, where that of its values is another.
            sizes[axis] = size if size > 1 else sizes.get(axis, 1)
        terms.append(axes)
    hidden = [axis for axis in sizes if isinstance(axis, int)]
    if "->" in subscripts:
        return terms, _einsum_term(right, len(hidden)), sizes
    letters = left.replace(",", "").replace(".", "")
    return terms, [*hidden, *(axis for axis in letters if letters.count(axis) == 1)], sizes


def _einsum_term(term: str, hidden: int) -> list:
    before, dots, after = term.partition("...")
    return [*before, *(range(-hidden, 0) if dots else []), *after]


def _attention(operation, shapes, outputs) -> int:
    # Each query with each key, and the values weighted: (batch, queries, heads, size) each.
    (batch, queries, heads, size), (_, keys, *_) = shapes[:2]
    return 2 * batch * heads * queries * keys * (size + shapes[2][-1])


_RULES: Mapping[str, Callable[[Any, list[tuple], Any], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthwiseConv": _conv,
    "Dot": _dot,
    "DotProductAttention": _attention,
    "Einsum": _einsum,
    "Inner": _dot,
    "Matmul": _matmul,
    "SeparableConv": _separable_conv,
    "Tensordot": _tensordot,
    "Vdot": _vdot,
}


def sized_inputs(model: keras.Model, shapes: Any = None) -> list[keras.KerasTensor]:
    """Returns symbolic inputs of a model of which all sizes are known, for a batch of one sample.

    Args:
        model: A built Sequential or Functional model.
        shapes: As `input_shapes` of `count_flops`.

    Raises:
        ValueError: If a size is not known, or the shapes are not those of the inputs.
    """
    Graph(model)  # A model that is not built or subclassed is told.
    specs = input_specs(model)
    names = [spec.name for spec in specs]
    if shapes is None:
        shapes = [spec.shape[1:] for spec in specs]
    elif isinstance(shapes, Mapping):
        if sorted(shapes) != sorted(names):
            raise ValueError(
                f"`input_shapes` must have a shape for each of the inputs {names}. "
                f"Received: input_shapes={shapes!r}"
            )
        shapes = [shapes[name] for name in names]
    elif not shapes or not isinstance(shapes[0], Sequence):
        shapes = [shapes]
    if len(shapes) != len(specs):
        raise ValueError(
            f"`input_shapes` must have {len(specs)} shape(s), for the inputs {names}. "
            f"Received: input_shapes={shapes!r}"
        )
    inputs = []
    for spec, shape in zip(specs, shapes, strict=True):
        shape = tuple(shape)
        if None in shape:
            raise ValueError(
                "What is counted depends on the inputs' sizes. Give them as `input_shapes`, "
                f"without the batch. Received: input '{spec.name}' of shape {spec.shape}"
            )
        if len(shape) != len(spec.shape) - 1 or any(
            want not in (None, got) for want, got in zip(spec.shape[1:], shape, strict=True)
        ):
            raise ValueError(
                f"The input '{spec.name}' has the shape {spec.shape[1:]} without the batch. "
                f"Received: input_shapes with {shape} for it"
            )
        inputs.append(keras.KerasTensor((spec.shape[0] or 1, *shape), spec.dtype))
    return inputs


@contextlib.contextmanager
def _called_by(model: keras.Model, call: Callable[[Any, tuple, dict], Any]) -> Iterator[None]:
    """Hands calls of a model's layers on symbolic tensors to a function.

    Keras itself would only tell what such a call returns. Behind it nothing is left on the layers.

    Args:
        model: The model.
        call: A function of a layer and the arguments of its call.
    """
    layers = list(model._flatten_layers())
    models = [layer for layer in layers if isinstance(layer, keras.Model)]
    functions = [f for inner in models for f in getattr(inner, "operations", [])]
    notes = [
        (calls, len(calls))
        for operation in {id(x): x for x in (*layers, *functions)}.values()
        for calls in (operation._inbound_nodes, operation._outbound_nodes)
    ]
    numbers = global_state.get_global_attribute("object_name_uids")
    kept = None if numbers is None else dict(numbers)
    for layer in layers:
        vars(layer)["symbolic_call"] = lambda *args, _of=layer, **kwargs: call(_of, args, kwargs)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["symbolic_call"]
        for calls, length in notes:
            del calls[length:]
        # Each operation that Keras makes takes a number, which later layers' names would tell.
        if kept is not None:
            numbers.clear()
            numbers.update(kept)
