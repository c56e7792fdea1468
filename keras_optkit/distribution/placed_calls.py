"""Calls of layers of TensorFlow that run, forward and backward, on devices of their own.

`tf.device` around a call places the forward pass only: gradients are computed where the caller of
the tape stands. So a call is recorded as one operation whose gradient a tape of its own computes,
on the device of the layer.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf


@contextlib.contextmanager
def placed_calls(
    operations: Mapping[keras.Operation, str], device_name: Callable[[str], str]
) -> Iterator[None]:
    """Lets layers be called on devices, for the calls inside.

    Args:
        operations: The devices of layers and other operations.
        device_name: A function that returns TensorFlow's name of a device.
    """
    with contextlib.ExitStack() as stack:
        for operation, device in operations.items():
            # Not through `setattr` of a layer, which would track it.
            trains = bool(getattr(operation, "trainable_variables", ()))
            call = _PlacedCall(operation.call, device_name(device), trains)
            vars(operation)["call"], before = call, vars(operation).get("call")
            stack.callback(_put_back, operation, before)
        yield


def _put_back(operation: keras.Operation, call: Callable | None) -> None:
    if call is None:
        del vars(operation)["call"]
    else:
        vars(operation)["call"] = call


class _PlacedCall:
    """Stands in the place of a layer's `call`."""

    def __init__(self, own: Callable, device: str, trains: bool):
        self._own = own
        self._device = device
        self._trains = trains
        self.__name__ = "call"

    def __call__(self, *args, **kwargs) -> Any:
        given = _Parts((args, kwargs))
        if not (given.floats or self._trains):
            with tf.device(self._device):
                return self._own(*args, **kwargs)
        results: list[_Parts] = []

        @tf.custom_gradient
        def call(*tensors):
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(tensors)
                inner_args, inner_kwargs = given.with_floats(tensors)
                results.append(_Parts(self._own(*inner_args, **inner_kwargs)))
                outputs = results[-1].floats

            def gradient(*grads, variables=()):
                with tf.device(self._device):
                    grads = tape.gradient(outputs, [list(tensors), list(variables)], list(grads))
                return tuple(grads) if variables else grads[0]

            return outputs, gradient

        # The identities that a custom gradient makes belong there, too.
        with tf.device(self._device):
            outputs = call(*given.floats)
        return results[-1].with_floats(outputs)


class _Parts:
    """Arguments or results of a call, and the tensors in them that have gradients."""

    def __init__(self, structure: Any):
        self._structure = structure
        self._flat = tf.nest.flatten(structure, expand_composites=True)
        # A tensor that is given twice is one, of which the gradient is that of both places.
        self._index: dict[int, int] = {}
        self.floats: list[tf.Tensor] = []
        for part in self._flat:
            differentiable = isinstance(part, tf.Tensor) and (
                part.dtype.is_floating or part.dtype.is_complex
            )
            if differentiable and id(part) not in self._index:
                self._index[id(part)] = len(self.floats)
                self.floats.append(part)

    def with_floats(self, tensors: Any) -> Any:
        """Returns the structure with other tensors in the place of those that have gradients."""
        for own, other in zip(self.floats, tensors, strict=True):
            mask = getattr(own, "_keras_mask", None)
            if mask is not None:
                other._keras_mask = mask
        flat = [tensors[self._index[id(x)]] if id(x) in self._index else x for x in self._flat]
        return tf.nest.pack_sequence_as(self._structure, flat, expand_composites=True)


def follow(operation: tf.Operation) -> str:
    """Returns the device for an operation that nobody placed: that of its first placed input.

    So sums of gradients, clipping and the loss stay where what they are made of is. A device
    function for `tf.device`, which takes these in graphs only.

    Args:
        operation: The operation, with its inputs.
    """
    if operation.device or operation.type in _CALLS:
        return operation.device
    places = (_place(tensor) for tensor in operation.inputs)
    return next((place for place in places if place), "")


# What is in them has devices of its own.
_CALLS = {"If", "While", "PartitionedCall"}
_CALLS |= {f"Stateless{name}" for name in ("If", "While")} | {"StatefulPartitionedCall"}


def _place(tensor: tf.Tensor) -> str:
    operation = tensor.op
    if operation.type != "Placeholder" or not hasattr(operation.graph, "captures"):
        return operation.device
    if tensor.dtype == tf.resource:
        # TensorFlow itself keeps what reads or writes a variable beside it.
        return ""
    # What the branch of a condition gets from outside.
    for outer, inner in operation.graph.captures:
        if inner is tensor:
            return getattr(outer, "device", "") or ""
    return ""
