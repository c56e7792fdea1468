"""What each layer of a model costs, by which layers are shared out between devices."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit.compression.flops import flops_by_operation, sized_inputs
from keras_optkit.core.graph import Graph
from keras_optkit.distribution.model_units import Unit, has_graph

KINDS = ("parameters", "flops", "memory")


def layer_loads(
    model: keras.Model,
    units: Sequence[Unit],
    kind: str,
    batch_size: int = 32,
    slots: int = 0,
    input_shapes: Any = None,
) -> list[int]:
    """Returns the load of each layer of a model.

    Args:
        model: A built Sequential or Functional model.
        units: What `model_units` returns of it.
        kind: `"parameters"`, how many weights a layer has; `"flops"`, the floating-point operations
            of its calls, as `count_flops` counts them; or `"memory"`, the bytes of its weights, of
            the optimizer's state for them, and of what its calls return for a batch.
        batch_size: Integer >= 1, the samples of a batch, for `"memory"`.
        slots: Integer >= 0, how many numbers an optimizer keeps for each weight, for `"memory"`.
        input_shapes: The inputs' shapes without the batch, where the model leaves sizes open.

    Returns:
        A list of integers. Weights that several layers have count for the first of them.

    Raises:
        ValueError: If sizes are not known, or FLOPs cannot be counted; the message says why.

    Example:

    >>> from keras_optkit.distribution.model_units import model_units
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.ReLU()])
    >>> layer_loads(model, model_units(model), "parameters")
    [36, 0]
    >>> layer_loads(model, model_units(model), "flops")
    [64, 0]
    >>> layer_loads(model, model_units(model), "memory", batch_size=10, slots=2)
    [592, 160]
    """
    if kind == "parameters":
        return [sum(math.prod(v.shape) for v in unit.weights) for unit in units]
    if kind == "flops":
        flops = flops_by_operation(model, input_shapes)
        return [flops.get(id(unit.operation), 0) for unit in units]
    returned: dict[int, int] = {}
    _add_returned(model, sized_inputs(model, input_shapes), returned)
    loads = []
    for unit in units:
        held = sum(bytes_of(v) * (1 + slots * v.trainable) for v in unit.weights)
        loads.append(held + batch_size * returned.get(id(unit.operation), 0))
    return loads


def bytes_of(tensor: Any) -> int:
    """Returns the bytes of a variable or a symbolic tensor of which all sizes are known."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    bits = int(digits or 8)
    return math.prod(tensor.shape) * bits // 8


def _add_returned(model: keras.Model, inputs: Sequence[Any], returned: dict[int, int]) -> Any:
    """Adds the bytes that the calls in a model return, by the id of what is called."""

    def call(node, args, kwargs):
        operation = node.operation
        if has_graph(operation):
            tensors = keras.tree.flatten((args, kwargs))
            tensors = [t for t in tensors if isinstance(t, keras.KerasTensor)]
            return _add_returned(operation, tensors[: len(operation.inputs)], returned)
        outputs = operation.compute_output_spec(*args, **kwargs)
        tensors = [x for x in keras.tree.flatten(outputs) if isinstance(x, keras.KerasTensor)]
        size = sum(map(bytes_of, tensors))
        returned[id(operation)] = returned.get(id(operation), 0) + size
        return outputs

    with keras.StatelessScope():
        return Graph(model).run(inputs, call)
