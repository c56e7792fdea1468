"""Which metric a search is for, settled against a model before the first trial."""

import inspect
from collections.abc import Iterable
from typing import Any

import keras
from keras_tuner.src.engine import metrics_tracking
from keras_tuner.src.engine import objective as kt_objective

from keras_optkit.core.monitor import Monitor


def settle_objective(objective: Any, model: keras.Model | None) -> Any:
    """Returns KerasTuner's `Objective` for what the user gave.

    The direction is the metric's own where the model is known. KerasTuner guesses it from the name
    alone, and takes every metric that is no accuracy for a loss (`f1_score`, `r2_score`).

    Args:
        objective: `None`, a string, an `Objective`, or a list of strings and `Objective`s.
        model: The compiled model, or `None` where nothing is known of it.

    Raises:
        ValueError: If the model has no such metric, or its direction cannot be told.
    """
    if isinstance(objective, (list, tuple)):
        if not objective:
            raise ValueError("`objective` must name a metric. Received: objective=[]")
        return kt_objective.MultiObjective([settle_objective(one, model) for one in objective])
    if not isinstance(objective, str):
        return kt_objective.create_objective(objective)
    if model is None or not model.compiled:
        direction = metrics_tracking.infer_metric_direction(objective)
        if direction is None:
            return kt_objective.create_objective(objective)
        return kt_objective.Objective(objective, direction)
    monitor = Monitor(objective)
    try:
        monitor.bind(model)
    except ValueError as error:
        text = str(error).split(" A value that")[0].split(" Pass `mode")[0]
        raise ValueError(
            f"{text.replace('monitor ', 'objective ', 1)} A value that the model does not report "
            "itself is passed as `keras_tuner.Objective(name, direction)`. "
            f"Received: objective={objective!r}"
        ) from None
    return kt_objective.Objective(objective, monitor.direction)


def check_reported(objective: Any, model: keras.Model) -> None:
    """Proves that a model reports an objective.

    Args:
        objective: KerasTuner's `Objective`.
        model: The compiled model.

    Raises:
        ValueError: If there is none, or if the model has only a metric of a like name.
    """
    if isinstance(objective, kt_objective.DefaultObjective):
        raise ValueError(
            "`objective` must name a metric that `fit` reports, for example 'val_loss'. It can be "
            "left out where `HyperModel.fit` returns a single float. Received: objective=None"
        )
    for one in getattr(objective, "objectives", [objective]):
        # What no metric is near to may come from a callback.
        Monitor(one.name, mode=one.direction).bind(model)


def check_validated(
    objective: Any, metrics: Iterable[str], args: tuple, kwargs: dict[str, Any]
) -> None:
    """Proves that `fit` gets validation data where the objective needs them.

    Args:
        objective: KerasTuner's `Objective`.
        metrics: The names of the metrics that the model has.
        args: The positional arguments of `fit`.
        kwargs: The keyword arguments of `fit`.

    Raises:
        ValueError: If it is a validation metric and there are none.
    """
    names = list(inspect.signature(keras.Model.fit).parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("validation_split") or given.get("validation_data") is not None:
        return
    for one in getattr(objective, "objectives", [objective]):
        if one.name.startswith("val_") and one.name[4:] in metrics:
            raise ValueError(
                f"The objective '{one.name}' needs `validation_data` or `validation_split` in "
                f"`search`. Received: {', '.join(given) or 'no arguments'}"
            )
