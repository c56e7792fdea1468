"""Epochs count for the objective only once a model is as sparse as it will be."""

import math
from typing import Any

import keras


class SettledEpochs(keras.callbacks.Callback):
    """Keeps the objective out of the logs of epochs before the pruning target is reached.

    Otherwise the best epoch of a trial, and the weights that are kept of it, would be one from
    before the pruning. It stands in front of the callbacks of the tuner.

    Args:
        callbacks: List of callbacks, of which those with an attribute `settled` are asked.
        objective: `keras_tuner.Objective`, or several in one.
    """

    async_safe = True

    def __init__(self, callbacks: list, objective: Any):
        super().__init__()
        self._asked = [c for c in callbacks if hasattr(type(c), "settled")]
        parts = getattr(objective, "objectives", [objective])
        self._directions = {part.name: part.direction for part in parts}
        self.left_out = 0

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None and not all(c.settled for c in self._asked):
            self.left_out += 1
            for name in self._directions:
                logs.pop(name, None)

    def complete(self, history: Any) -> Any:
        """Returns a history with the worst there is in the epochs that were left out.

        The number of the best epoch is then counted from the first epoch of the run.

        Args:
            history: What `fit` returned.
        """
        if isinstance(history, keras.callbacks.History) and self.left_out:
            for name, direction in self._directions.items():
                worst = -math.inf if direction == "max" else math.inf
                kept = history.history.get(name, [])
                history.history[name] = [worst] * self.left_out + kept
        return history
