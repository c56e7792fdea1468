"""A function of tensors to the bytes of a LiteRT file."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_optkit.compression.export.quiet import quiet


class RefusedError(Exception):
    """A graph that the converter refused.

    Args:
        message: String, what the converter said.
        operations: Dictionary from an operation's type to the names of its calls in the graph.
    """

    def __init__(self, message: str, operations: dict[str, list[str]]):
        super().__init__(message)
        self.operations = operations


def to_bytes(
    call: Callable[[Sequence[Any]], Any],
    variables: Sequence[Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    prepare: Callable[[Any], None],
) -> bytes:
    """Returns a LiteRT file whose inputs and outputs have names, and an order.

    Args:
        call: A function of the inputs, as a sequence of TensorFlow's tensors in their order, that
            returns the outputs.
        variables: TensorFlow's variables that it reads.
        inputs: What `input_specs` returns.
        outputs: What `output_specs` returns.
        prepare: A function that sets up the `tf.lite.TFLiteConverter`.

    Raises:
        RefusedError: If the converter refuses the graph.
    """
    import tensorflow as tf

    def serve(*tensors):
        results = keras.tree.flatten(call(tensors))
        return {spec.name: result for spec, result in zip(outputs, results, strict=True)}

    with quiet():
        holder = tf.Module()
        holder.variables_ = list(variables)
        holder.serve = tf.function(
            serve,
            input_signature=[tf.TensorSpec(s.shape, s.dtype, name=s.name) for s in inputs],
            autograph=False,
        )
        function = holder.serve.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
        prepare(converter)
        try:
            content = converter.convert()
        except Exception as error:
            raise RefusedError(str(error), _operations(function.graph)) from error
    return _in_order(content, [s.name for s in inputs], [s.name for s in outputs])


def _operations(graph: Any) -> dict[str, list[str]]:
    definition = graph.as_graph_def()
    found: dict[str, list[str]] = {}
    for node in (*definition.node, *(n for f in definition.library.function for n in f.node_def)):
        found.setdefault(node.op, []).append(node.name)
    return found


def _in_order(content: bytes, inputs: list[str], outputs: list[str]) -> bytes:
    # The converter orders them by its own lights; names alone bind them, and a program that binds
    # by position would feed one input to another. The two lists are permuted in place.
    from ai_edge_litert import schema_py_generated as schema

    buffer = bytearray(content)
    file = schema.Model.GetRootAs(buffer, 0)
    signature, graph = file.SignatureDefs(0), file.Subgraphs(0)

    def permute(indices, length, tensor_map, names):
        index = {tensor_map(i).Name().decode(): tensor_map(i).TensorIndex() for i in range(length)}
        wanted = [index[name] for name in names]
        if sorted(wanted) == sorted(indices):
            indices[:] = wanted

    permute(graph.InputsAsNumpy(), signature.InputsLength(), signature.Inputs, inputs)
    permute(graph.OutputsAsNumpy(), signature.OutputsLength(), signature.Outputs, outputs)
    return bytes(buffer)
