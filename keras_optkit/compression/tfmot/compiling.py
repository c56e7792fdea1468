"""The compile settings of a Keras 3 model, for its tf_keras counterpart."""

import types
from collections.abc import Callable
from typing import Any

import keras

from keras_optkit.compression.tfmot.layers import NoCounterpart, translate

Problem = tuple[str, str, str]


def compile_settings(model: keras.Model, tf_keras: types.ModuleType) -> tuple[dict, list[Problem]]:
    """Returns the arguments of `compile` for tf_keras, and what has no counterpart there.

    The optimizer is a new one with the settings of the model's, as they are now; it begins without
    the state of the other.

    Args:
        model: A compiled Keras 3 model.
        tf_keras: The module.

    Returns:
        A tuple of the keyword arguments and of a list of problems: name, type, reason.

    Raises:
        ValueError: If the model is not compiled.
    """
    if not model.compiled or model.optimizer is None or model.loss is None:
        raise ValueError(
            "The model is trained with the settings of its `compile`, and it has none. Call "
            "`model.compile(optimizer, loss, metrics=...)` first. "
            f"Received: model={model!r}, which is not compiled"
        )
    given = model._compile_config.config
    problems: list[Problem] = []

    def attempt(what: str, value: Any, make: Callable[[Any], Any]) -> Any:
        try:
            return make(value)
        except (NoCounterpart, TypeError, ValueError) as error:
            problems.append((what, _type_name(value), str(error)))
            return None

    def optimizer(value):
        # Keras wraps it in mixed precision, as tf_keras does too.
        value = getattr(value, "inner_optimizer", value)
        serialized = keras.saving.serialize_keras_object(value)
        # On torch the class is one of the backend's, under the name of the public one.
        public = getattr(keras.optimizers, type(value).__name__, None)
        if public and isinstance(value, public) and serialized["module"].startswith("keras."):
            serialized["module"] = "keras.optimizers"
        return translate(serialized, keras, tf_keras)

    def each(what: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: each(f"{what} of '{key}'", item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [each(what, item) for item in value]
        return attempt(what, value, lambda item: _loss_or_metric(item, what.split()[0], tf_keras))

    settings = {
        "optimizer": attempt("optimizer", model.optimizer, optimizer),
        "loss": each("loss", given["loss"]),
        "loss_weights": given.get("loss_weights"),
        "metrics": each("metric", given.get("metrics")),
        "weighted_metrics": each("metric", given.get("weighted_metrics")),
        "run_eagerly": model.run_eagerly,
        "steps_per_execution": model.steps_per_execution,
    }
    return settings, problems


def _loss_or_metric(value: Any, kind: str, tf_keras: types.ModuleType) -> Any:
    category, other = ("losses", "metrics") if kind == "loss" else ("metrics", "losses")
    if value is None or value in ("accuracy", "acc"):
        return value
    if isinstance(value, types.FunctionType):
        own = [getattr(getattr(keras, c), value.__name__, None) for c in (category, other)]
        if value not in own:
            raise NoCounterpart("it is no function of Keras' own")
        value = value.__name__
    if isinstance(value, str):
        if category == "metrics" and value in ("crossentropy", "ce"):
            return value
        return getattr(tf_keras, category).get(value) and value
    return translate(keras.saving.serialize_keras_object(value), keras, tf_keras)


def _type_name(value: Any) -> str:
    name = getattr(value, "__name__", None)
    return name if name else repr(value) if isinstance(value, str) else type(value).__name__
