"""What the user set for a training, so that what is changed between two starts is told."""

import inspect
import numbers
from typing import Any

import keras

from keras_optkit.stopping.resume.callbacks import keys_of


def settings(
    model: keras.Model, callbacks: list[keras.callbacks.Callback], epochs: int
) -> dict[str, Any]:
    """Returns the settings of a `fit` as names and plain values.

    Args:
        model: The compiled model.
        callbacks: The callbacks of the `fit`.
        epochs: Integer, what `fit` was asked for.
    """
    found = {"epochs": epochs}
    if isinstance(getattr(model, "optimizer", None), keras.optimizers.Optimizer):
        serialized = keras.saving.serialize_keras_object(model.optimizer)
        _flatten("optimizer", serialized["config"], found)
    for key, callback in zip(keys_of(callbacks), callbacks, strict=True):
        for name in inspect.signature(type(callback).__init__).parameters:
            value = getattr(callback, name, None)
            if isinstance(value, (bool, numbers.Real, str)):
                # Keras turns the sign of this one in its first epoch.
                found[f"{key}: {name}"] = abs(value) if name == "min_delta" else value
    # Keras writes some defaults and rates as NumPy's or float32 numbers.
    return {k: v.item() if hasattr(v, "item") else v for k, v in found.items()}


def changes(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Returns a text for each setting that both have and that differs, by its name."""
    return {
        name: f"{name} {before[name]} -> {value}"
        for name, value in now.items()
        if name in before and before[name] != value
    }


def _flatten(prefix: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            # Names that Keras makes up, and where a class lives, are no settings.
            if name not in ("name", "module", "registered_name", "build_config"):
                _flatten(f"{prefix}: {name}" if name != "config" else prefix, item, into)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            _flatten(f"{prefix}[{i}]", item, into)
    elif isinstance(value, (bool, numbers.Real, str)):
        into[prefix] = value
