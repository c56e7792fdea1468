"""Random search."""

from typing import Any

import keras_tuner

from keras_optkit.tuning.oracle import OptkitOracle
from keras_optkit.tuning.tuner import OptkitTuner


class RandomSearchOracle(OptkitOracle, keras_tuner.oracles.RandomSearchOracle):
    """KerasTuner's oracle, which here goes on until a finite space is really used up."""


class RandomSearch(OptkitTuner, keras_tuner.RandomSearch):
    """Tries settings at random, each point once.

    Args:
        hypermodel: `HyperModel`, or a callable from `HyperParameters` to a compiled model.
        objective: String, `keras_tuner.Objective`, or a list of these.
        max_trials: Integer >= 1, how many trials at most; `None` for no limit. A search that is
            opened again with more goes on.
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
        ValueError: If the space is empty, the model does not report the objective, the directory
            cannot be written to or holds another search, or an argument is out of its range.

    Example:

    ```python
    tuner = keras_optkit.tuning.RandomSearch(build, "val_accuracy", max_trials=20)
    tuner.search(x, y, validation_split=0.2, epochs=5)
    model = tuner.get_best_models()[0]
    ```

    Reference:
        Bergstra and Bengio, 2012: Random search for hyper-parameter optimization.
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = 10,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int | None = None,
        **kwargs: Any,
    ):
        self.seed = seed
        oracle = RandomSearchOracle(
            max_trials=max_trials,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        OptkitTuner.__init__(self, oracle, hypermodel, objective=objective, **kwargs)
