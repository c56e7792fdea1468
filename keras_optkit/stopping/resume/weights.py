"""All variables that a training changes, taken and put back, and whether a state fits a model."""

import re
from typing import Any

import keras

from keras_optkit.core.additions import own_variables
from keras_optkit.core.optimizer import members
from keras_optkit.core.variables import read, write

# Keras numbers the layers that a process makes: "dense_3" may be "dense" in the next.
_NUMBER = re.compile(r"_\d+(?=[_/]|$)")


def take_variables(model: keras.Model) -> list[Any]:
    """Returns the values of all variables: weights, statistics, seeds, metrics and optimizers."""
    return [read(variable) for _, variable in _variables(model)]


def put_back_variables(model: keras.Model, values: list[Any]) -> None:
    """Assigns what `take_variables` returned for a model of the same architecture."""
    for (_, variable), value in zip(_variables(model), values, strict=True):
        write(variable, value)


def take_metrics(model: keras.Model) -> list[Any]:
    """Returns the values of the metrics' variables, which differ between processes."""
    return [read(variable) for variable in model.metrics_variables]


def put_back_metrics(model: keras.Model, values: list[Any]) -> None:
    """Assigns what `take_metrics` returned."""
    for variable, value in zip(model.metrics_variables, values, strict=True):
        write(variable, value)


def describe_variables(model: keras.Model) -> list[str]:
    """Returns a line for each variable: whose it is, its path, its data type and its shape."""
    return [
        f"{owner} {_NUMBER.sub('', variable.path)} {variable.dtype} {list(variable.shape)}"
        for owner, variable in _variables(model)
    ]


def check_same_model(model: keras.Model, described: list[str], directory: str) -> None:
    """Raises if a state was not taken from a model and an optimizer like these.

    Args:
        model: The built and compiled model that is to go on.
        described: What `describe_variables` returned for the model that was saved.
        directory: Where the state comes from, for the message.

    Raises:
        ValueError: If the variables are others.
    """
    now = describe_variables(model)
    if now == described:
        return
    differing = [pair for pair in zip(described, now, strict=False) if pair[0] != pair[1]]
    saved, here = differing[0] if differing else (f"{len(described)} variables", f"{len(now)}")
    raise ValueError(
        "The directory holds the training of another model or optimizer. Give this one a "
        f"directory of its own, or remove that one. Saved: {saved}; here: {here}. "
        f"Received: directory={directory!r}"
    )


def learning_rates(model: keras.Model) -> list[keras.Variable | None]:
    """Returns the rate of each optimizer inside, or `None` where a schedule gives it."""
    rates = [optimizer._learning_rate for optimizer in _inner_optimizers(model)]
    return [rate if isinstance(rate, keras.Variable) else None for rate in rates]


def _inner_optimizers(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    optimizer = getattr(model, "optimizer", None)
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        return []
    return members(optimizer)


def _variables(model: keras.Model) -> list[tuple[str, keras.Variable]]:
    found = [("model", variable) for variable in model.variables]
    found += [("metric", variable) for variable in model.metrics_variables]
    # A model with a training step of its own may hold more than one.
    for owner in {id(o): o for o in [model.optimizer, *vars(model).values()]}.values():
        if isinstance(owner, keras.optimizers.Optimizer):
            name = type(owner).__name__
            found += [(name, variable) for variable in own_variables(owner)]
    return list({id(variable): (name, variable) for name, variable in found}.values())
