"""Smaller steps for the layers that are further from the output."""

import contextlib
from collections.abc import Sequence

import keras
from keras import ops

from keras_optkit.core.graph import Graph
from keras_optkit.schedules.schedule import check_share

Layers = Sequence[keras.layers.Layer | Sequence[keras.layers.Layer]]


def layerwise_decay(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    rate: float = 0.75,
    layers: Layers | None = None,
) -> keras.optimizers.Optimizer:
    """Makes an optimizer take smaller steps in lower layers, for fine-tuning.

    The last layer with a kernel learns at the optimizer's rate, the one before it at `rate` times
    that, and so on: a layer behind which the longest way to an output leads through `n` more
    layers with kernels learns at `rate ** n`. Layers without a kernel, such as norms, go with the
    layer before them. Decoupled weight decay is scaled alike. Whatever drives the optimizer's
    rate, a schedule or a callback, drives that of the last layer.

    The scales belong to this optimizer object and are in no file. After `load_model`, call it
    again on `loaded.optimizer`, before `fit`. A `rate` of 1 takes them off.

    Args:
        model: The model to train: built, and Sequential or Functional unless `layers` is given.
        optimizer: The optimizer to compile the model with, or that it is compiled with.
        rate: Float in (0, 1], the ratio of the steps of two layers in a row. Defaults to 0.75.
        layers: The layers from the input to the output, for a model whose order cannot be seen: a
            list in which a list stands for layers that learn alike. Layers that are not in it
            learn at the optimizer's own rate.

    Returns:
        `optimizer`, the same object.

    Raises:
        ValueError: If `rate` is out of its range, the model has no weights yet, its order is not
            known, or the optimizer is one whose steps cannot be scaled (`ScheduleFreeAdamW`, or a
            `MultiOptimizer`).

    Example:

    >>> net = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    >>> model = keras.Sequential(net)
    >>> optimizer = layerwise_decay(model, keras.optimizers.AdamW(1e-3), rate=0.5)
    >>> model.compile(optimizer, "mse")

    Reference:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018
        (discriminative fine-tuning). Bao et al., "BEiT", 2021, fine-tune vision transformers with
        rates from 0.65 to 0.85.
    """
    rate = check_share("rate", rate)
    inner = optimizer
    while isinstance(inner, keras.optimizers.LossScaleOptimizer):
        inner = inner.inner_optimizer
    refused = (keras.optimizers.MultiOptimizer, keras.optimizers.ScheduleFreeAdamW)
    if not isinstance(inner, keras.optimizers.Optimizer) or isinstance(inner, refused):
        raise ValueError(
            "`layerwise_decay` needs one Keras optimizer whose steps can be scaled, such as AdamW "
            f"or SGD. Received: optimizer={optimizer!r}"
        )
    if not model.weights:
        raise ValueError(
            "`layerwise_decay` needs a model whose weights are there already. Call it on a batch "
            f"first, for example `model(x[:1])`. Received: model={model!r}"
        )
    heights = _heights_in(layers) if layers is not None else layer_heights(model)
    scales = {
        id(variable): rate**height
        for layer, height in heights.items()
        for variable in layer.weights
        if height > 0
    }
    _ScaledSteps.take_off(inner)
    if rate < 1:
        _ScaledSteps.put_on(inner, scales)
    return optimizer


def layer_heights(model: keras.Model) -> dict[keras.layers.Layer, int]:
    """Returns how many layers with kernels follow each layer on the longest way to an output.

    Args:
        model: A built Sequential or Functional model; the layers of nested ones count as its own.

    Returns:
        A dictionary from each layer with weights to an integer >= 0. A layer that is called more
        than once has the largest of its numbers.

    Raises:
        ValueError: If the model has no graph, or is not built.
    """
    heights: dict[keras.layers.Layer, int] = {}
    _measure(Graph(model), 0, heights)
    return heights


def _measure(graph: Graph, end: int, heights: dict[keras.layers.Layer, int]) -> int:
    """Fills in the heights of a graph whose outputs have the height `end`; returns the highest."""
    above: dict[int, int] = {}
    highest = end
    for node in reversed(graph.nodes):
        # The height of a tensor counts the kernels that it still has to pass.
        height = max((above.get(id(tensor), end) for tensor in node.outputs), default=end)
        layer = node.operation
        if isinstance(layer, keras.Model):
            below = _measure(Graph(layer), height, heights)
        else:
            below = height
            if isinstance(layer, keras.layers.Layer) and layer.weights:
                heights[layer] = max(height, heights.get(layer, 0))
                below += any(len(weight.shape) > 1 for weight in layer.weights)
        for tensor in node.inputs:
            above[id(tensor)] = max(below, above.get(id(tensor), 0))
        highest = max(highest, below)
    return highest


def _heights_in(layers: Layers) -> dict[keras.layers.Layer, int]:
    heights = {}
    for height, group in enumerate(reversed(list(layers))):
        for layer in group if isinstance(group, (list, tuple)) else [group]:
            if not isinstance(layer, keras.layers.Layer):
                raise ValueError(
                    "`layers` must be a list of Keras layers, or of lists of them. Received: "
                    f"{layer!r} in it"
                )
            heights[layer] = height
    return heights


class _ScaledSteps:
    """The two methods that stand in front of an optimizer's own, and scale what these do."""

    _METHODS = ("_backend_update_step", "_apply_weight_decay")

    @classmethod
    def put_on(cls, optimizer: keras.optimizers.Optimizer, scales: dict[int, float]) -> None:
        steps = cls(optimizer, scales)
        for name in cls._METHODS:
            if not hasattr(optimizer, name):
                raise RuntimeError(
                    f"keras_optkit relies on `Optimizer.{name}`, which Keras {keras.__version__} "
                    f"does not have. Received: optimizer={optimizer!r}"
                )
            # Not by setattr, which would have Keras track it.
            vars(optimizer)[name] = getattr(steps, name)

    @classmethod
    def take_off(cls, optimizer: keras.optimizers.Optimizer) -> None:
        for name in cls._METHODS:
            if isinstance(getattr(vars(optimizer).get(name), "__self__", None), cls):
                del vars(optimizer)[name]

    def __init__(self, optimizer: keras.optimizers.Optimizer, scales: dict[int, float]):
        self._optimizer = optimizer
        self._scales = scales
        self._own = {name: getattr(type(optimizer), name) for name in self._METHODS}

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        with self._scaled(trainable_variables):
            own = self._own["_backend_update_step"]
            own(self._optimizer, grads, trainable_variables, learning_rate)

    def _apply_weight_decay(self, variables):
        with self._scaled(variables):
            self._own["_apply_weight_decay"](self._optimizer, variables)

    @contextlib.contextmanager
    def _scaled(self, variables):
        """Scales what happens to the variables inside.

        Not the rate but the step is scaled, when it is made: optimizers differ in what they do with
        the rate, and some count their calls.
        """
        before = [
            (variable, ops.copy(variable), self._scales[id(variable)])
            for variable in variables
            if id(variable) in self._scales
        ]
        yield
        for variable, value, scale in before:
            step = ops.subtract(variable, value)
            variable.assign(value + step * ops.cast(scale, step.dtype))
