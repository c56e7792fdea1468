"""What a search was made for, in plain words: its space, its objective, its model."""

import json
from typing import Any

import keras


def describe_space(space: list) -> dict[str, dict]:
    """Returns the parameters of a search space by their names.

    Args:
        space: List of KerasTuner's `HyperParameter`s.

    Returns:
        A dictionary from the name, with its conditions, to the parameter's type and settings.
    """
    return {_name(parameter): _settings(parameter) for parameter in space}


def describe_objective(objective: Any) -> list[str]:
    """Returns an objective, or several, as strings such as `"max val_accuracy"`.

    Args:
        objective: KerasTuner's `Objective`.
    """
    each = getattr(objective, "objectives", [objective])
    return sorted(f"{one.direction} {one.name}" for one in each)


def describe_model(model: keras.Model) -> dict[str, dict]:
    """Returns the layers of a model and what it was compiled with, without generated names.

    Args:
        model: A Keras model.
    """
    parts = {f"layer {i}": config for i, config in enumerate(_layers(model))}
    if getattr(model, "compiled", False):
        if model.optimizer is not None:
            parts["optimizer"] = _config(model.optimizer)
        parts["loss"] = {"loss": _plain(model.loss)}
    return parts


def differences(old: dict[str, Any], new: dict[str, Any], what: str) -> list[str]:
    """Returns one line for each part that two descriptions do not share.

    Args:
        old: Dictionary of dictionaries.
        new: Dictionary of dictionaries.
        what: String, what a part is, for the lines.

    Example:

    >>> differences({"lr": {"max": 0.1}}, {"lr": {"max": 1.0}, "units": {"min": 8}}, "parameter")
    ["parameter 'lr': max was 0.1, is 1.0", "parameter 'units' is new"]
    """
    lines = [f"{what} {name!r} is gone" for name in old if name not in new]
    for name, settings in new.items():
        if name not in old:
            lines.append(f"{what} {name!r} is new")
            continue
        before = old[name]
        changed = [
            f"{key} was {before.get(key)!r}, is {settings.get(key)!r}"
            for key in dict.fromkeys([*before, *settings])
            if before.get(key) != settings.get(key)
        ]
        if changed:
            lines.append(f"{what} {name!r}: {'; '.join(changed)}")
    return lines


def _name(parameter: Any) -> str:
    conditions = [f"{c.name} in {c.values}" for c in parameter.conditions]
    return parameter.name + (f" if {' and '.join(conditions)}" if conditions else "")


def _settings(parameter: Any) -> dict:
    config = {k: v for k, v in parameter.get_config().items() if k not in ("name", "conditions")}
    return _plain({"type": type(parameter).__name__, **config})


def _layers(model: keras.Model) -> list[dict]:
    found = []
    for layer in getattr(model, "layers", []):
        found += _layers(layer) if isinstance(layer, keras.Model) else [_config(layer)]
    return found


def _config(part: Any) -> dict:
    try:
        config = part.get_config()
    except NotImplementedError:
        config = {}
    return _plain({"class": type(part).__name__, **config})


def _plain(value: Any) -> Any:
    """Returns a value as JSON would give it back, without the names that Keras makes up."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in ("name", "build_config")}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "get_config") and not isinstance(value, type):
        return _config(value)
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        return getattr(value, "__name__", type(value).__name__)
