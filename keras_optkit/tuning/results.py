"""What a trial returned, as the metrics of its best epoch."""

import math
import numbers
from typing import Any

import keras
import numpy as np


def summarise(results: Any, objective: Any) -> tuple[dict[str, float], int]:
    """Returns the metrics of the best epoch of a trial, and which epoch that was.

    Epochs whose objective is NaN or infinite do not count.

    Args:
        results: A float, a dictionary of metrics, a `History`, or a list of these, one for each
            execution, which is averaged.
        objective: KerasTuner's `Objective`.

    Returns:
        The metrics, with the objective among them, and the best epoch, counted from 0.

    Raises:
        ValueError: If no epoch has a finite objective, or any.
    """
    if isinstance(results, list):
        each = [summarise(result, objective) for result in results]
        names = dict.fromkeys(name for metrics, _ in each for name in metrics)
        averages = {n: float(np.mean([m[n] for m, _ in each if n in m])) for n in names}
        return averages, int(np.mean([step for _, step in each]))
    if isinstance(results, keras.callbacks.History):
        epochs = _epochs(results.history)
    elif isinstance(results, numbers.Real):
        epochs = [{objective.name: float(results)}]
    else:
        epochs = [dict(results)]
    return _best(epochs, objective)


def _epochs(history: dict[str, list]) -> list[dict]:
    """Returns the metrics of each epoch. Those that `validation_freq` leaves out are not there."""
    count = max(map(len, history.values()), default=0)
    epochs: list[dict] = [{} for _ in range(count)]
    for name, values in history.items():
        stride = count // max(len(values), 1)
        for i, value in enumerate(values):
            epochs[(i + 1) * stride - 1][name] = value
    return epochs


def _best(epochs: list[dict], objective: Any) -> tuple[dict[str, float], int]:
    best, step = None, 0
    seen = []
    for epoch, metrics in enumerate(epochs):
        if not objective.has_value(metrics):
            continue
        value = float(objective.get_value(metrics))
        seen.append(value)
        if not math.isfinite(value):
            continue
        if best is None or objective.better_than(value, best[objective.name]):
            best, step = {**metrics, objective.name: value}, epoch
    if not seen:
        raise ValueError(
            f"The objective '{objective.name}' is not among what the trial reported. "
            f"Received: {sorted({name for metrics in epochs for name in metrics})}"
        )
    if best is None:
        raise ValueError(
            f"The objective '{objective.name}' was finite in none of the {len(epochs)} epochs. "
            f"Received: {seen}"
        )
    return {n: float(v) for n, v in best.items() if isinstance(v, numbers.Real)}, step
