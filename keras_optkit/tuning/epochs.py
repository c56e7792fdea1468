"""What each epoch of each trial came to: kept beside the trials, and asked whether to go on."""

import os
import statistics
import warnings
from time import perf_counter
from typing import Any

import keras
import numpy as np
from keras_tuner.src import backend

from keras_optkit.tuning.files import read_json, write_json
from keras_optkit.tuning.training_data import is_dataset

_FILE = "epochs.json"
_CALLS = 30


class ParametersCallback(keras.callbacks.Callback):
    """Puts the number of the model's parameters among the metrics of each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["parameters"] = self.model.count_params()


class LatencyCallback(keras.callbacks.Callback):
    """Puts the milliseconds of a prediction for one example among the metrics of each epoch.

    It is the median of 30 calls of `predict_on_batch`, measured before the training: it does not
    depend on the weights.

    Args:
        x: What `fit` was given: arrays, a `tf.data.Dataset` or a `PyDataset`.

    Raises:
        ValueError: If an example cannot be taken without being lost for the training.
    """

    def __init__(self, x: Any):
        super().__init__()
        self.example = _one_example(x)
        self._latency = float("nan")

    def on_train_begin(self, logs=None):
        for _ in range(3):
            self.model.predict_on_batch(self.example)
        seconds = []
        for _ in range(_CALLS):
            start = perf_counter()
            self.model.predict_on_batch(self.example)
            seconds.append(perf_counter() - start)
        self._latency = 1000 * statistics.median(seconds)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["latency"] = self._latency


def _one_example(x: Any) -> Any:
    if is_dataset(x):
        batch = next(iter(x.take(1)))
        x = batch[0] if isinstance(batch, tuple) else batch
    elif isinstance(x, keras.utils.PyDataset):
        x = x[0][0]
    elif not all(hasattr(array, "__array__") for array in keras.tree.flatten(x)):
        raise ValueError(
            "The objective 'latency' is measured with an example from arrays, a `tf.data.Dataset` "
            f"or a `PyDataset`. Received: x={type(x).__name__}"
        )
    return keras.tree.map_structure(lambda array: np.asarray(array)[:1], x)


class TrialPruningCallback(keras.callbacks.Callback):
    """Ends a `fit` that a pruner says is not worth more epochs.

    The values of all epochs are in files beside the trials, so that they outlive the process, and
    so that workers that share the directory see each other's.

    Args:
        pruner: A `SuccessiveHalving` or `MedianStopping`.
        objective: KerasTuner's `Objective`.
        folder: String, the trial's folder.
    """

    def __init__(self, pruner: Any, objective: Any, folder: str):
        super().__init__()
        self.pruner, self.objective, self.folder = pruner, objective, folder
        self.pruned = False
        self._values: dict[int, float] = {}

    def on_epoch_end(self, epoch, logs=None):
        if not self.objective.has_value(logs or {}):
            return
        self._values[epoch + 1] = float(self.objective.get_value(logs))
        others = read_epochs(os.path.dirname(self.folder))
        others.pop(os.path.basename(self.folder), None)
        histories = [other["values"] for other in others.values()]
        last = epoch + 1 == self.params["epochs"]
        if not last and self.pruner.should_stop(self._values, histories, self.objective.direction):
            self.pruned = self.model.stop_training = True
        state = {"values": self._values, "pruned": self.pruned, "planned": self.params["epochs"]}
        write_json(os.path.join(self.folder, _FILE), state)

    def on_train_end(self, logs=None):
        if not self._values:
            warnings.warn(
                f"The epochs of this trial had no '{self.objective.name}' in their logs: "
                "`trial_pruner` had nothing to judge it by.",
                stacklevel=2,
            )


def read_epochs(project: str) -> dict[str, dict]:
    """Returns what is known of the epochs of all trials of a search.

    Args:
        project: String, the project's directory.

    Returns:
        A dictionary from the name of a trial's folder to a dictionary of `values`, from the number
        of epochs to the objective, `pruned`, and `planned`, the number of epochs it was to have.
    """
    found = {}
    for path in sorted(backend.io.glob(os.path.join(project, "trial_*", _FILE))):
        state = read_json(path)
        state["values"] = {int(epoch): value for epoch, value in state["values"].items()}
        found[os.path.basename(os.path.dirname(path))] = state
    return found
