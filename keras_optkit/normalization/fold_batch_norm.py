"""A model without the BatchNorms that its linear layers can take over."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optkit.core.graph import Graph, Node, graphs, rebuild
from keras_optkit.normalization.collect import batch_norm_layers
from keras_optkit.normalization.fold_weights import LinearWeights, norm_affine
from keras_optkit.normalization.ghost_batch_normalization import GhostBatchNormalization
from keras_optkit.normalization.linear_layers import (
    KINDS,
    changed_linear,
    channel_axis,
    is_linear_activation,
    is_linear_layer,
    kernels,
    path_in,
)
from keras_optkit.normalization.norm_act import NormAct
from keras_optkit.normalization.residual_bn_block import ResidualBNBlock
from keras_optkit.normalization.sync_batch_normalization import SyncBatchNormalization
from keras_optkit.normalization.unroll import is_block, norm_act_parts, unroll

# Only these classes themselves: a subclass may compute something else.
_NORMS = (layers.BatchNormalization, GhostBatchNormalization, SyncBatchNormalization)
# What does nothing in inference.
_IDLE = (
    layers.ActivityRegularization,
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.Identity,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)
# Each output is a mean of inputs of the same channel, so that a scale and a shift go through.
_MEANS = (
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.UpSampling2D,
)
_GLOBAL_MEANS = (
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)


@dataclasses.dataclass(frozen=True)
class FoldReport:
    """What became of each BatchNorm of a model.

    Args:
        folded: Dictionary from a norm's path to the names of the layers that took it over.
        left: Dictionary from a norm's path to the reason why it stays.
    """

    folded: dict[str, list[str]]
    left: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as dictionaries, lists and strings."""
        return dataclasses.asdict(self)

    def __str__(self):
        total = len(self.folded) + len(self.left)
        lines = [
            f"{len(self.folded)} of {total} BatchNorm layers are folded, {len(self.left)} left"
        ]
        return "\n".join([*lines, *(f"- {name}: {reason}" for name, reason in self.left.items())])


def fold_batch_norm(
    model: keras.Model, return_report: bool = False
) -> keras.Model | tuple[keras.Model, FoldReport]:
    """Returns a model for inference in which the BatchNorms are part of the layers beside them.

    In inference a BatchNorm is a scale and a shift for each channel. It is folded into the Dense,
    Conv, DepthwiseConv, SeparableConv or transposed Conv layer that it follows, if that has no
    activation in between and nothing else uses its output. Otherwise it is folded into all the
    layers of these kinds that it is followed by, where that is exact: a layer with padding sees
    zeros beside the norm's shift, so there it needs a shift of zero. Dropout, linear activations,
    average pooling and upsampling in between do not stand in the way, nor does Flatten before a
    Dense. Shared layers are folded where that is right for each of their calls. `ConvBNAct` and its
    kin become one plain Keras layer under their name, and a `ResidualBNBlock` becomes the plain
    layers that it is made of.

    What cannot be folded stays as it is, and the report lists it with the reason. In training the
    new model differs from the old one, as its norms no longer follow the batches.

    Args:
        model: A built Sequential or Functional model, also with models nested in it. It need not
            be compiled and is not changed.
        return_report: Boolean, whether a `FoldReport` is returned too. Defaults to `False`.

    Returns:
        The new `keras.Model`, not compiled, with the names of inputs, outputs and kept layers; with
        `return_report=True` a tuple of it and the `FoldReport`.

    Raises:
        ValueError: If the model is not built, is subclassed, or has no BatchNorm.

    Example:

    ```python
    small, report = fold_batch_norm(model, return_report=True)
    print(report)  # 53 of 53 BatchNorm layers are folded, 0 left
    ```

    Reference:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", 2018, section 3.2 (the fold behind a convolution).
    """
    folder = _Folder(model)
    folder.run()
    new = rebuild(model, folder.replacement)
    return (new, folder.report()) if return_report else new


class _NotFoldableError(Exception):
    """Its message is the reason why a norm stays."""


@dataclasses.dataclass(frozen=True)
class _Call:
    graph: Graph
    node: Node


# How a vector along the norm's channels becomes one along a layer's inputs.
_Expand = Callable[[np.ndarray], np.ndarray]


class _Folder:
    """Decides what is folded into what, on the graph of the original, and holds the new weights."""

    def __init__(self, model: keras.Model):
        self._model = model
        self._graphs = graphs(model)
        self._calls: dict[int, list[_Call]] = {}
        for graph in self._graphs:
            for node in graph.nodes:
                self._calls.setdefault(id(node.operation), []).append(_Call(graph, node))
        self._dropped: set[int] = set()
        self._weights: dict[int, LinearWeights] = {}
        # Of blocks, the weights of each linear layer in them.
        self._unrolled: dict[int, list[LinearWeights]] = {}
        self._new: dict[int, list[Callable]] = {}
        self._folded: dict[str, list[str]] = {}
        self._left: dict[str, str] = {}
        self._norms = batch_norm_layers(model)
        paths = [path_in(model, norm) for norm in self._norms]
        # The layers of two nested models may have the same names.
        self._paths = {
            id(norm): path if paths.count(path) == 1 else f"{path} ({i})"
            for i, (norm, path) in enumerate(zip(self._norms, paths, strict=True))
        }
        if not self._norms:
            raise ValueError(
                f"The model '{model.name}' has no BatchNormalization layer to fold. "
                f"Received: model={model!r}"
            )

    def run(self) -> None:
        for block in {id(op): op for op in self._operations() if is_block(op)}.values():
            self._fold_block(block)
        done = {*self._folded, *self._left}
        pending = [norm for norm in self._norms if self._paths[id(norm)] not in done]
        progress = True
        # A norm that is folded may leave another one beside a linear layer.
        while progress:
            before, pending = pending, [norm for norm in pending if not self._fold(norm)]
            progress = len(pending) < len(before)

    def report(self) -> FoldReport:
        return FoldReport(dict(self._folded), dict(self._left))

    def replacement(self, node: Node) -> list[Callable] | None:
        layer = node.operation
        if id(layer) in self._dropped:
            # An output keeps the norm's name.
            if not any(map(self._graphs[0].is_output, node.outputs)):
                return []
            return self._once(
                layer, lambda: [layers.Identity(name=layer.name, dtype=layer.dtype_policy)]
            )
        if id(layer) in self._unrolled:
            return self._once(layer, lambda: unroll(layer, self._unrolled[id(layer)]))
        if id(layer) not in self._weights:
            return None
        weights = self._weights[id(layer)]
        return self._once(layer, lambda: [changed_linear(layer, weights.kernels, weights.bias)])

    def _once(self, layer, make) -> list[Callable]:
        """What takes the place of a shared layer is made for its first call."""
        if id(layer) not in self._new:
            self._new[id(layer)] = make()
        return self._new[id(layer)]

    def _operations(self):
        return [call.node.operation for graph in self._calls.values() for call in graph]

    def _fold_block(self, block: NormAct | ResidualBNBlock) -> None:
        """Folds all of a block, or nothing of it."""
        parts = norm_act_parts(block)
        norms = [part._norm_layer for part in parts]
        if not all(isinstance(norm, layers.BatchNormalization) for norm in norms):
            return
        reason = None
        try:
            for part, norm in zip(parts, norms, strict=True):
                self._require_inference(norm, self._calls[id(block)])
                self._require_plain(part._linear)
        except _NotFoldableError as error:
            reason = str(error)
        else:
            self._unrolled[id(block)] = [
                _weights_of(part._linear).then(*_affine(part._norm_layer)) for part in parts
            ]
        for norm in norms:
            if reason is not None:
                self._left[self._paths[id(norm)]] = reason
            else:
                self._folded[self._paths[id(norm)]] = [block.name]

    def _fold(self, norm: layers.BatchNormalization) -> bool:
        """Folds a norm if that is possible now, else notes why it is not."""
        calls = self._calls.get(id(norm))
        try:
            if calls is None:
                raise _NotFoldableError(f"it is inside {self._holder(norm)}")
            self._require_inference(norm, calls)
            try:
                into = self._fold_into_sources(norm, calls)
            except _NotFoldableError as behind:
                try:
                    into = self._fold_into_targets(norm, calls)
                except _NotFoldableError as before:
                    raise _NotFoldableError(f"{behind}; {before}") from None
        except _NotFoldableError as reason:
            self._left[self._paths[id(norm)]] = str(reason)
            return False
        self._left.pop(self._paths[id(norm)], None)
        self._folded[self._paths[id(norm)]] = [layer.name for layer in into]
        self._dropped.add(id(norm))
        return True

    def _fold_into_sources(self, norm, calls) -> list[layers.Layer]:
        found = [self._source(call, norm.axis) for call in calls]
        sources = self._require_all_calls(found, "followed by")
        for layer in sources:
            self._weights[id(layer)] = self._current(layer).then(*_affine(norm))
        return sources

    def _fold_into_targets(self, norm, calls) -> list[layers.Layer]:
        scale, shift = _affine(norm)
        found, expands = [], {}
        for call in calls:
            (tensor,) = call.node.outputs
            axis = norm.axis % len(tensor.shape)
            for target, expand in self._targets(call.graph, tensor, axis, lambda vector: vector):
                found.append(target)
                expands[id(target.node.operation)] = expand
        targets = self._require_all_calls(found, "behind")
        for layer in targets:
            if np.any(shift) and not _sees_no_padding(layer):
                raise _NotFoldableError(
                    f"the padding of '{layer.name}' puts zeros beside the norm's shift"
                )
        for layer in targets:
            expand = expands[id(layer)]
            weights = self._current(layer).after(expand(scale), expand(shift))
            self._weights[id(layer)] = weights
        return targets

    def _source(self, call: _Call, axis: int) -> _Call:
        """Follows a norm's input back to the linear layer that it comes from."""
        graph, tensor = call.graph, call.node.inputs[0]
        axis %= len(tensor.shape)
        while True:
            if graph.is_output(tensor) or len(graph.consumers(tensor)) > 1:
                producer = graph.producer(tensor)
                name = f"the output of '{producer.name}'" if producer else "the model's input"
                raise _NotFoldableError(f"{name} before it is also used elsewhere")
            node = graph.producer(tensor)
            if node is None:
                raise _NotFoldableError("nothing is before it in its model")
            layer = node.operation
            if is_linear_layer(layer):
                self._require_plain(layer)
                if not is_linear_activation(layer.activation):
                    raise _NotFoldableError(f"'{layer.name}' before it has an activation")
                if axis != channel_axis(layer) % len(tensor.shape):
                    raise _NotFoldableError(f"its axis is not the channels of '{layer.name}'")
                return _Call(graph, node)
            if id(layer) in self._dropped or _is_idle(node):
                pass
            elif isinstance(layer, _MEANS) and _is_channel(layer, axis, len(tensor.shape)):
                pass
            elif isinstance(layer, _GLOBAL_MEANS) and (
                not layer.keepdims or _is_channel(layer, axis, len(tensor.shape))
            ):
                axis = channel_axis(layer) % len(node.inputs[0].shape)
            else:
                raise _NotFoldableError(f"{_title(layer)} is before it")
            tensor = node.inputs[0]

    def _targets(self, graph: Graph, tensor, axis: int, expand: _Expand):
        """Follows a norm's output to the linear layers that take it."""
        if graph.is_output(tensor):
            raise _NotFoldableError("an output of its model is behind it")
        for node in graph.consumers(tensor):
            layer = node.operation
            rank = len(tensor.shape)
            if is_linear_layer(layer):
                self._require_plain(layer)
                if axis != channel_axis(layer) % rank:
                    raise _NotFoldableError(f"its axis is not the channels of '{layer.name}'")
                yield _Call(graph, node), expand
                continue
            next_axis, next_expand = axis, expand
            if id(layer) in self._dropped or _is_idle(node):
                pass
            elif isinstance(layer, _MEANS) and _is_channel(layer, axis, rank):
                pass
            elif isinstance(layer, _GLOBAL_MEANS) and _is_channel(layer, axis, rank):
                next_axis = axis if layer.keepdims else 1
            elif isinstance(layer, layers.Flatten) and None not in tensor.shape[1:]:
                next_axis, next_expand = 1, _flattened(layer, tensor.shape[1:], axis - 1, expand)
            else:
                raise _NotFoldableError(f"{_title(layer)} is behind it")
            yield from self._targets(graph, node.outputs[0], next_axis, next_expand)

    def _require_all_calls(self, found: list[_Call], where: str) -> list[layers.Layer]:
        """Returns the layers of some calls, if these are all the calls that the layers have."""
        if not found:
            raise _NotFoldableError("nothing is behind it")
        reached = {id(call.node) for call in found}
        unique = {id(call.node.operation): call.node.operation for call in found}
        for layer in unique.values():
            if any(id(call.node) not in reached for call in self._calls[id(layer)]):
                raise _NotFoldableError(
                    f"'{layer.name}' is shared, and not each of its calls is {where} this norm"
                )
        return list(unique.values())

    def _require_inference(self, norm, calls: list[_Call]) -> None:
        if type(norm) not in _NORMS:
            raise _NotFoldableError(
                f"what {type(norm).__name__} computes in inference is not known here"
            )
        for call in calls:
            nodes = [call.node, *self._calls_around(call.graph)]
            if any(node.kwargs.get("training") for node in nodes):
                raise _NotFoldableError("it is called with `training=True`")

    def _calls_around(self, graph: Graph) -> list[Node]:
        """The calls of a nested model, and of those that it is nested in."""
        calls = self._calls.get(id(graph.model), [])
        return [node for call in calls for node in (call.node, *self._calls_around(call.graph))]

    def _require_plain(self, layer) -> None:
        if not is_linear_layer(layer):
            raise _NotFoldableError(f"{_title(layer)} is of a kind that is not known here")
        if layer.quantization_mode or getattr(layer, "lora_enabled", False):
            raise _NotFoldableError(f"'{layer.name}' is quantized or has LoRA weights")

    def _current(self, layer) -> LinearWeights:
        return self._weights.get(id(layer)) or _weights_of(layer)

    def _holder(self, norm) -> str:
        for operation in self._operations():
            if isinstance(operation, layers.Layer) and norm in operation._flatten_layers():
                if id(operation) in self._unrolled:
                    return f"'{operation.name}', before an activation"
                return f"{_title(operation)}, whose calls are not part of the graph"
        return "a layer that the model does not call"


def _title(operation: keras.Operation) -> str:
    return f"'{operation.name}' ({type(operation).__name__})"


def _numpy(variable: Any) -> np.ndarray | None:
    return None if variable is None else keras.ops.convert_to_numpy(variable).astype("float64")


def _affine(norm: layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    return norm_affine(
        _numpy(norm.gamma),
        _numpy(norm.beta),
        _numpy(norm.moving_mean),
        _numpy(norm.moving_variance),
        norm.epsilon,
    )


def _weights_of(layer: layers.Layer) -> LinearWeights:
    kind = KINDS[type(layer)]
    values = [_numpy(kernel) for kernel in kernels(layer)]
    groups = layer.groups if kind == "conv" else 1
    return LinearWeights(kind, values, _numpy(layer.bias), groups)


def _is_idle(node: Node) -> bool:
    """Whether a call returns its input in inference."""
    layer = node.operation
    if isinstance(layer, layers.Activation):
        return is_linear_activation(layer.activation)
    return type(layer) in _IDLE and not node.kwargs.get("training")


def _is_channel(layer: layers.Layer, axis: int, rank: int) -> bool:
    if getattr(layer, "interpolation", "nearest") not in ("nearest", "bilinear"):
        return False
    return axis == channel_axis(layer) % rank


def _sees_no_padding(layer: layers.Layer) -> bool:
    """Whether each output sees the whole kernel on inputs of the layer, and nothing else."""
    if isinstance(layer, layers.Dense):
        return True
    points = all(size == 1 for size in layer.kernel_size)
    if KINDS[type(layer)] == "transposed":
        return points and all(stride == 1 for stride in layer.strides)
    return points or layer.padding == "valid"


def _flattened(layer: layers.Flatten, shape: tuple[int, ...], axis: int, expand: _Expand):
    """Continues `expand` through a Flatten, whose input has `shape` without the batch."""

    def flatten(vector):
        vector = expand(vector)
        ones = [1] * len(shape)
        ones[axis] = len(vector)
        spread = np.broadcast_to(vector.reshape(ones), shape)
        if layer.data_format == "channels_first":
            spread = np.moveaxis(spread, 0, -1)
        return spread.reshape(-1)

    return flatten
