"""The values of a trial, put into a compiled model and into the callbacks of its `fit`."""

from collections.abc import Callable
from typing import Any

import keras

from keras_optkit.compression.pruning.pruning import Pruning
from keras_optkit.compression.pruning.schedules import PolynomialDecay
from keras_optkit.core.graph import Graph, Node, copy_layer, graphs, rebuild
from keras_optkit.normalization.insert_batch_norm import insert_batch_norm
from keras_optkit.schedules.constant import Constant
from keras_optkit.schedules.cosine_decay import CosineDecay
from keras_optkit.schedules.learning_rate import LearningRate
from keras_optkit.schedules.linear_decay import LinearDecay
from keras_optkit.schedules.one_cycle import OneCycle
from keras_optkit.stopping.weight_averaging import WeightAveraging
from keras_optkit.tuning.soft_labels import label_kind, number_of_classes

_SCHEDULES = {
    "constant": Constant,
    "cosine": CosineDecay,
    "linear": LinearDecay,
    "one_cycle": OneCycle,
}
# What another optimizer takes over of the model's own.
_KEPT = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
    "weight_decay",
)
_OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamax": keras.optimizers.Adamax,
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
    "nadam": keras.optimizers.Nadam,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
# The value that is mostly used. Sutskever et al., 2013, showed how much a deep network gains by it.
_USUAL_MOMENTUM = 0.9
# Trials are short, and statistics that begin at 0 and 1 are forgotten in some tens of steps.
_NORM_MOMENTUM = 0.9
# As shares of the run. The network needs time to learn before it is pruned, and to recover
# afterwards (Zhu and Gupta, 2017).
_PRUNING_BEGINS, _PRUNING_ENDS, _REFRESHES = 0.2, 0.7, 20


def check_compiled(model: keras.Model) -> None:
    """Raises `ValueError` unless a model is compiled."""
    if not getattr(model, "compiled", False) or getattr(model, "optimizer", None) is None:
        raise ValueError(
            "The model that is tuned must be compiled: let the function that builds it end in "
            f"`model.compile(optimizer, loss, metrics=[...])`. Received: model={model!r}"
        )


def compile_arguments(model: keras.Model) -> dict[str, Any]:
    """Returns what a model was compiled with, as the arguments of `compile`.

    Args:
        model: A compiled model.

    Raises:
        ValueError: If the model is not compiled, or its class has a `compile` of its own.
    """
    check_compiled(model)
    if type(model).compile is not keras.Model.compile:
        raise ValueError(
            f"The class {type(model).__name__} has a `compile` of its own, which cannot be called "
            "anew. Around such a model the batch size, epochs, schedule, augmentation, averages "
            "and pruning can be searched; set all else in your `build(hp)`. "
            f"Received: model={model!r}"
        )
    scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    half = model.dtype_policy.name == "mixed_float16"
    return {
        **model._compile_config.config,
        "optimizer": model.optimizer,
        "auto_scale_loss": scales or not half,
    }


def own_rate(model: keras.Model) -> float | None:
    """Returns the learning rate of a compiled model, or `None` where it is not one number."""
    optimizer = _inner(model.optimizer)
    rate = getattr(optimizer, "_learning_rate", None)
    if not isinstance(rate, keras.Variable):
        return None
    return float(f"{float(keras.ops.convert_to_numpy(rate)):.6g}")


def apply_to_model(model: keras.Model, values: dict[str, Any]) -> keras.Model:
    """Puts the values of a trial into a model that was just built and compiled.

    What is asked for changes, and nothing else: losses, metrics, weighted metrics, loss weights,
    `jit_compile`, `steps_per_execution` and what the optimizer does beside its rate stay.

    Args:
        model: A compiled model that has not been trained.
        values: Dictionary from the names in the space to values.

    Returns:
        The model, or a new one where layers are added.

    Raises:
        ValueError: If the model cannot take one of the values.
    """
    check_compiled(model)
    new = model
    if values.get("batch_norm", "none") != "none":
        new = insert_batch_norm(new, position=values["batch_norm"], momentum=_NORM_MOMENTUM)
    if "dropout" in values:
        new = _with_dropout(new, values["dropout"])
    optimizer = _changed_optimizer(model, values)
    if new is not model or optimizer is not model.optimizer:
        new.compile(**{**compile_arguments(model), "optimizer": optimizer})
    return new


def check_possible(model: keras.Model, possible: Callable[[str], tuple], names: set[str]) -> None:
    """Raises what a later trial would raise, before the first one.

    Args:
        model: A compiled model that has not been trained.
        possible: A function from a name in the space to the values that a trial may have.
        names: Set of the names in the space.

    Raises:
        ValueError: If the model cannot take one of the values.
    """
    for position in set(possible("batch_norm")) - {"none"}:
        insert_batch_norm(model, position=position)
    if set(possible("mixing")) - {"none"} or "label_smoothing" in names:
        label_kind(compile_arguments(model)["loss"])
        number_of_classes(model)
    scheduled = set(possible("schedule")) - {"constant"} or "warmup" in names
    if scheduled and "learning_rate" not in names:
        _require_rate(model)
    if "ema" in names and getattr(_inner(model.optimizer), "use_ema", False):
        raise ValueError(
            "The optimizer averages the weights itself. Compile the model with `use_ema=False`, or "
            f"leave 'ema' out of the space. Received: optimizer={_inner(model.optimizer)!r}"
        )


def callbacks_for(model: keras.Model, values: dict[str, Any], steps: int | None) -> list:
    """Returns the callbacks that the values of a trial ask for.

    Args:
        model: The model that `apply_to_model` returned.
        values: Dictionary from the names in the space to values.
        steps: Integer, the number of updates of the `fit`, or `None` where it is not known.
    """
    callbacks: list = []
    kind, warmup = values.get("schedule", "constant"), values.get("warmup", 0.0)
    if kind != "constant" or warmup:
        schedule = _SCHEDULES[kind](_require_rate(model))
        callbacks.append(LearningRate(schedule.with_warmup(warmup) if warmup else schedule, False))
    if values.get("pruning"):
        frequency = 100 if steps is None else max(1, round(steps / _REFRESHES))
        callbacks.append(
            Pruning(
                PolynomialDecay(
                    0.0, values["pruning"], _PRUNING_BEGINS, _PRUNING_ENDS, frequency=frequency
                )
            )
        )
    if values.get("ema"):
        callbacks.append(WeightAveraging("ema", decay=values["ema"]))
    return callbacks


def _require_rate(model: keras.Model) -> float:
    rate = own_rate(model)
    if rate is None:
        raise ValueError(
            "A schedule needs the learning rate that it begins with, and the model is compiled "
            "with one schedule already. Compile it with a number, or put 'learning_rate' into the "
            f"space with a range. Received: optimizer={_inner(model.optimizer)!r}"
        )
    return rate


def _inner(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def _changed_optimizer(model, values):
    optimizer = model.optimizer
    names = {"optimizer", "learning_rate", "momentum", "weight_decay"} & set(values)
    if not names:
        return optimizer
    own = _inner(optimizer)
    if isinstance(own, keras.optimizers.MultiOptimizer):
        raise ValueError(
            "The model is compiled with a MultiOptimizer, of which there is not one rate or weight "
            f"decay to search. Leave {', '.join(map(repr, sorted(names)))} out of the space. "
            f"Received: optimizer={own!r}"
        )
    config = own.get_config()
    own_kind = type(own).__name__.lower()
    kind = values.get("optimizer", own_kind)
    if kind == own_kind:
        make = type(own).from_config
    else:
        kept = {name: config[name] for name in _KEPT if config.get(name) is not None}
        config = _OPTIMIZERS[kind]().get_config() | kept
        if kind == "sgd":
            config["momentum"] = _USUAL_MOMENTUM
        make = _OPTIMIZERS[kind].from_config
    if "learning_rate" in values:
        if own_rate(model) is None and "schedule" not in values:
            raise ValueError(
                "The model is compiled with a learning-rate schedule, which a rate alone would "
                "replace. Put 'schedule' into the space too, or compile the model with a number. "
                f"Received: optimizer={own!r}"
            )
        config["learning_rate"] = values["learning_rate"]
    if "weight_decay" in values:
        config["weight_decay"] = values["weight_decay"]
    if "momentum" in values:
        if "momentum" not in config:
            raise ValueError(
                f"'momentum' is searched, and {type(own).__name__} has none. Leave it out of the "
                "space, or put 'optimizer' with \"sgd\" into it. "
                f"Received: momentum={values['momentum']!r}"
            )
        config["momentum"] = values["momentum"]
    new = make(config)
    if "weight_decay" in values:
        # He et al., "Bag of Tricks", 2019, section 3.1: no decay of biases, gamma and beta.
        new.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        outer = {k: v for k, v in optimizer.get_config().items() if k != "inner_optimizer"}
        return type(optimizer)(new, **outer)
    return new


def _with_dropout(model: keras.Model, rate: float) -> keras.Model:
    """Gives the model's Dropout layers a rate, or puts one in front of its last Dense layers."""
    kinds = keras.layers.Dropout, keras.layers.SpatialDropout2D, keras.layers.SpatialDropout1D
    all_graphs = graphs(model)
    calls = [node for graph in all_graphs for node in graph.nodes]
    present = {id(node.operation) for node in calls if isinstance(node.operation, kinds)}
    if present:
        changed: dict[int, keras.layers.Layer] = {}

        def replace(node: Node):
            layer = node.operation
            if id(layer) not in present:
                return None
            if id(layer) not in changed:
                changed[id(layer)] = copy_layer(layer, rate=rate)
            return [changed[id(layer)]]

        return rebuild(model, replace)
    heads = {id(layer): layer for layer in _heads(all_graphs[0])}
    if not heads:
        raise ValueError(
            "The model has neither a Dropout layer nor a Dense layer at its end to put one in "
            "front of. Leave 'dropout' out of the space, or put a Dropout layer into the model. "
            f"Received: the model '{model.name}'"
        )

    def put_in_front(node: Node):
        if id(node.operation) not in heads:
            return None
        return [keras.layers.Dropout(rate, name=f"{node.name}_dropout"), node.operation]

    return rebuild(model, put_in_front)


def _heads(graph: Graph) -> list[keras.layers.Layer]:
    """The Dense layers that make the outputs, with nothing but activations behind them."""
    found = []
    for node in graph.nodes:
        if not isinstance(node.operation, keras.layers.Dense):
            continue
        (tensor,) = node.outputs
        while not graph.is_output(tensor):
            behind = graph.consumers(tensor)
            if len(behind) != 1 or not isinstance(
                behind[0].operation, (keras.layers.Activation, keras.layers.Softmax)
            ):
                break
            (tensor,) = behind[0].outputs
        else:
            found.append(node.operation)
    return found
