"""Grid search."""

from typing import Any

import keras_tuner

from keras_optkit.tuning.grid import combinations, covers
from keras_optkit.tuning.oracle import OptkitOracle
from keras_optkit.tuning.tuner import OptkitTuner


class GridSearchOracle(OptkitOracle, keras_tuner.oracles.GridSearchOracle):
    """Visits the points of a grid in order.

    What comes next is told from the trials alone. KerasTuner keeps lists of it in memory, which a
    search that is resumed no longer has.
    """

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the next point that no trial has had.

        Args:
            trial_id: String, the new trial's ID.
        """
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        for values in combinations(self.hyperparameters.space):
            if not self._duplicate(values) and not any(covers(t, values) for t in tried):
                return {"status": "RUNNING", "values": values}
        # A trial that still runs may come upon parameters that nobody knew of.
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}


class GridSearch(OptkitTuner, keras_tuner.GridSearch):
    """Tries every combination of values, the default ones first.

    A range without a step (`hp.Float`, or `hp.Int` with a log sampling) gives ten values and its
    default. Killed and started again, the search visits what is left of the grid, all of it and
    in the same order.

    Args:
        hypermodel: `HyperModel`, or a callable from `HyperParameters` to a compiled model.
        objective: String, `keras_tuner.Objective`, or a list of these.
        max_trials: Integer >= 1, how many trials at most; `None` for the whole grid. A search
            that is opened again with more goes on.
        seed: Integer, the random seed.
        hyperparameters: `HyperParameters` that override or limit the space.
        tune_new_entries: Boolean, whether parameters that are not in `hyperparameters` are tuned.
        allow_new_entries: Boolean, whether there may be such parameters.
        max_retries_per_trial: Integer, how often a failed trial is repeated.
        max_consecutive_failed_trials: Integer, after how many failures in a row the search ends.
            By default it ends after three failures if no trial has completed by then, and else
            goes on whatever fails.
        **kwargs: `directory`, `project_name`, `overwrite` and what else every tuner takes.

    Raises:
        ValueError: As `RandomSearch`.

    Example:

    ```python
    tuner = keras_optkit.tuning.GridSearch(build, "val_accuracy")
    tuner.search(x, y, validation_split=0.2, epochs=5)
    ```
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = None,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int | None = None,
        **kwargs: Any,
    ):
        self.seed = seed
        oracle = GridSearchOracle(
            max_trials=max_trials,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        OptkitTuner.__init__(self, oracle, hypermodel, objective=objective, **kwargs)
