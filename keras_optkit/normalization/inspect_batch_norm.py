"""The usual mistakes with BatchNorm, looked for in a model."""

import dataclasses
import textwrap
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_optkit.core.graph import Graph, Node, graphs
from keras_optkit.normalization.collect import batch_norm_layers, collect_moments
from keras_optkit.normalization.linear_layers import (
    channel_axis,
    is_linear_activation,
    is_linear_layer,
    path_in,
)

# With 5 % of the initial variance of 1 left, a true variance of 0.1 is held as 0.145, and what
# leaves the norm is 17 % too small.
_INITIAL_SHARE = 0.05
# Wu and He, "Group Normalization", 2018, figure 1 and table 2: the error of ResNet-50 on ImageNet
# is the same with 32 and 16 images per batch (23.6, 23.7 %), and 24.8 % with 8, 27.3 % with 4.
_SMALL_BATCH = 16
# With 100 samples half a standard deviation is five standard errors of the mean, and a factor of 2
# about five of the variance: neither comes by chance.
_MEAN_OFF, _VARIANCE_OFF = 0.5, 2.0
_ENOUGH_SAMPLES = 100
# Fewer channels than this are not worth a line: one in twenty.
_CHANNELS_OFF = 0.05
_DROPOUTS = (
    layers.AlphaDropout,
    layers.Dropout,
    layers.GaussianDropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
)

_EXPLANATIONS = {
    "bias under a norm": (
        "The norm subtracts the mean, and the bias with it. Pass `use_bias=False`; "
        "`fold_batch_norm` makes a bias for inference anyway."
    ),
    "norm behind dropout": (
        "Dropout changes the variance in training and not in inference, so the moving variance is "
        "not that of inference (Li et al., 2019). Put the dropout behind the last norm."
    ),
    "momentum too high for the steps": (
        "The moving statistics still hold their initial values, a mean of 0 and a variance of 1. "
        "Lower the momentum, train longer, or call `recalibrate_batch_norm(model, data)`."
    ),
    "statistics never updated": (
        "The model has trained, and these hold their initial values. The norm was frozen, or was "
        "called with `training=False`. Call `recalibrate_batch_norm(model, data, "
        "include_frozen=True)`."
    ),
    "batch too small": (
        "Statistics of few samples are noise (Wu and He, 2018). Use larger batches, "
        "`keras.layers.GroupNormalization`, or freeze the norms and use their moving statistics."
    ),
    "statistics disagree with the data": (
        "What reaches the norm has another mean or variance than it holds. Call "
        "`recalibrate_batch_norm(model, data)`, or look for a difference in preprocessing."
    ),
    "frozen behind a layer that trains": (
        "The norm keeps its statistics while the weights before it change, so they drift apart. "
        "Freeze both or none, and recalibrate after training."
    ),
    "fixed mode": "The mode of the call is fixed, whatever `fit` and `predict` ask for.",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """One mistake, and the layers that have it.

    Args:
        name: String, what it is.
        explanation: String, why it matters and what to do.
        layers: Dictionary from a layer's path to what was found there.
    """

    name: str
    explanation: str
    layers: dict[str, str]


@dataclasses.dataclass(frozen=True)
class BatchNormReport:
    """What `inspect_batch_norm` found.

    Args:
        norms: Integer, how many BatchNorm layers the model has.
        findings: List of `Finding`; empty where nothing was found.
        notes: List of strings, what could not be looked at, and why.
    """

    norms: int
    findings: list[Finding]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Returns it as dictionaries, lists, strings and numbers."""
        return dataclasses.asdict(self)

    def __str__(self):
        lines = [f"{self.norms} BatchNorm layers, {len(self.findings)} findings"]
        for finding in self.findings:
            head = f"{finding.name} ({len(finding.layers)}): {finding.explanation}"
            lines += textwrap.wrap(head, 100)
            lines += [f"  {path}: {detail}" for path, detail in finding.layers.items()]
        for note in self.notes:
            lines += textwrap.wrap(f"Note: {note}", 100)
        return "\n".join(lines)


def inspect_batch_norm(
    model: keras.Model,
    data: Any = None,
    batch_size: int | None = None,
    steps: int | None = None,
) -> BatchNormReport:
    """Looks for the usual mistakes with BatchNorm in a model, which it does not change.

    - a bias that a norm subtracts again;
    - a norm behind dropout, with no other norm in between;
    - a momentum so high that after `steps` updates more than 5 % of the moving statistics are
      still their initial values;
    - statistics that a trained model never updated;
    - batches of fewer than 16 samples;
    - statistics that disagree with the data: for more than one channel in twenty, a mean that is
      off by half a standard deviation, or a variance off by a factor of 2;
    - a frozen norm behind a layer that trains, and a call with a fixed `training` argument.

    Args:
        model: A built `keras.Model`. What a subclassed one computes cannot be read, so that only
            the norms themselves are looked at; a note says so.
        data: `None`, or inputs as for `recalibrate_batch_norm`, preprocessed as in training.
        batch_size: Integer >= 1, the size of the batches in training, or `None` where it is not
            known.
        steps: Integer >= 0, how many updates the training makes or has made, or `None` for as many
            as the model's optimizer has counted.

    Returns:
        A `BatchNormReport`, which prints well; `to_dict()` returns it as plain data.

    Raises:
        ValueError: If the model is not built or has no BatchNorm, a number is out of its range, or
            the data does not fit.

    Example:

    >>> layers = [keras.layers.Dense(3, name="dense"), keras.layers.BatchNormalization(name="norm")]
    >>> report = inspect_batch_norm(keras.Sequential([keras.Input((4,)), *layers]))
    >>> [finding.name for finding in report.findings]
    ['bias under a norm']

    Reference:
        Li, Chen, Hu and Yang, "Understanding the Disharmony between Dropout and Batch Normalization
        by Variance Shift", 2019. Wu and He, "Group Normalization", 2018.
    """
    norms = _require(model, batch_size, steps)
    inspector = _Inspector(model, norms)
    inspector.look_at_graph()
    inspector.look_at_momentum(steps)
    if batch_size is not None and batch_size < _SMALL_BATCH:
        for norm in norms:
            inspector.add("batch too small", norm, f"{batch_size} samples in a batch")
    if data is not None:
        inspector.look_at_data(data, batch_size or 32)
    return inspector.report()


def _require(model, batch_size, steps) -> list[layers.BatchNormalization]:
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a `keras.Model`. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built. Let it begin with `keras.Input(shape)`, or "
            f"call it on a batch. Received: model={model!r}"
        )
    for name, value, least in (("batch_size", batch_size, 1), ("steps", steps, 0)):
        if value is None:
            continue
        integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not integer or value < least:
            raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value!r}")
    norms = batch_norm_layers(model)
    if not norms:
        raise ValueError(
            f"The model '{model.name}' has no BatchNormalization layer. Received: model={model!r}"
        )
    return norms


class _Inspector:
    def __init__(self, model: keras.Model, norms: list[layers.BatchNormalization]):
        self._model = model
        self._norms = norms
        self._found: dict[str, dict[str, str]] = {name: {} for name in _EXPLANATIONS}
        self._notes: list[str] = []

    def add(self, name: str, layer: layers.Layer, detail: str) -> None:
        self._found[name].setdefault(path_in(self._model, layer), detail)

    def report(self) -> BatchNormReport:
        findings = [
            Finding(name, _EXPLANATIONS[name], found)
            for name, found in self._found.items()
            if found
        ]
        return BatchNormReport(len(self._norms), findings, self._notes)

    def look_at_graph(self) -> None:
        try:
            every = graphs(self._model)
        except ValueError as error:
            self._notes.append(f"biases, dropout and calls were not looked at. {error}")
            return
        for graph in every:
            for node in graph.nodes:
                mode = node.kwargs.get("training")
                held = node.operation._flatten_layers() if _is_layer(node.operation) else []
                if mode is not None and any(norm in held for norm in self._norms):
                    used = "its batch" if mode else "its moving statistics"
                    detail = f"called with `training={mode}`, so it always uses {used}"
                    self.add("fixed mode", node.operation, detail)
                if isinstance(node.operation, layers.BatchNormalization):
                    self._look_before(graph, node)

    def _look_before(self, graph: Graph, node: Node) -> None:
        norm = node.operation
        before = graph.producer(node.inputs[0])
        if before is not None and _has_useless_bias(graph, before):
            detail = f"under '{norm.name}', {before.operation.bias.shape[0]} parameters"
            self.add("bias under a norm", before.operation, detail)
        # Back to the next norm, along what has one input.
        steps = 0
        while before is not None and not isinstance(before.operation, layers.BatchNormalization):
            layer = before.operation
            if isinstance(layer, _DROPOUTS) and layer.rate:
                between = "directly" if not steps else f"with {steps} layers in between"
                detail = f"behind '{layer.name}' (rate {layer.rate}), {between}"
                self.add("norm behind dropout", norm, detail)
                break
            if not norm.trainable and _is_layer(layer) and layer.trainable_variables:
                detail = f"behind '{layer.name}'"
                self.add("frozen behind a layer that trains", norm, detail)
            if len(before.inputs) != 1:
                break
            steps += 1
            before = graph.producer(before.inputs[0])

    def look_at_momentum(self, steps: int | None) -> None:
        optimizer = getattr(self._model, "optimizer", None)
        trained = 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))
        for norm in self._norms:
            mean, variance = map(_numpy, (norm.moving_mean, norm.moving_variance))
            if trained and not mean.any() and (variance == 1).all():
                self.add("statistics never updated", norm, f"after {trained:,} updates")
                continue
            count = trained if steps is None else steps
            share = norm.momentum**count if count else 0.0
            if share > _INITIAL_SHARE and norm.trainable:
                detail = f"{norm.momentum:g} ** {count:,} = {share:.0%} are the initial values"
                self.add("momentum too high for the steps", norm, detail)

    def look_at_data(self, data: Any, batch_size: int) -> None:
        found = collect_moments(self._model, data, self._norms, "moving", batch_size)
        few = {int(np.min(m.count)) for m in found.values() if np.min(m.count) < _ENOUGH_SAMPLES}
        if few:
            self._notes.append(
                f"some statistics of the data are those of {min(few)} values, so few that the "
                f"comparison with them is rough; {_ENOUGH_SAMPLES} would do."
            )
        for norm, moments in found.items():
            mean, variance = map(_numpy, (norm.moving_mean, norm.moving_variance))
            shift = np.abs(mean - moments.mean) / np.sqrt(moments.variance + norm.epsilon)
            ratio = (variance + norm.epsilon) / (moments.variance + norm.epsilon)
            off = (shift > _MEAN_OFF) | (np.maximum(ratio, 1 / ratio) > _VARIANCE_OFF)
            if off.mean() > _CHANNELS_OFF:
                worst = ratio[np.argmax(np.abs(np.log(ratio)))]
                self.add(
                    "statistics disagree with the data",
                    norm,
                    f"{off.sum()} of {off.size} channels; the mean is off by up to "
                    f"{shift.max():.2g} standard deviations, the variance by up to a factor of "
                    f"{worst:.2g}",
                )


def _is_layer(operation: keras.Operation) -> bool:
    return isinstance(operation, layers.Layer)


def _has_useless_bias(graph: Graph, node: Node) -> bool:
    layer, (tensor,) = node.operation, node.outputs[:1]
    consumers = [n.operation for n in graph.consumers(tensor)]
    rank = len(tensor.shape)
    return (
        is_linear_layer(layer)
        and layer.use_bias
        and is_linear_activation(layer.activation)
        and not graph.is_output(tensor)
        and all(isinstance(op, layers.BatchNormalization) and op.center for op in consumers)
        and all((op.axis - channel_axis(layer)) % rank == 0 for op in consumers)
    )


def _numpy(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype("float64")
