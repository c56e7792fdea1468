"""Hyperband."""

from typing import Any

import keras_tuner

from keras_optkit.core.checks import check_count
from keras_optkit.tuning.oracle import OptkitOracle
from keras_optkit.tuning.tuner import OptkitTuner

_ENDED = ("COMPLETED", "FAILED")


class HyperbandOracle(OptkitOracle, keras_tuner.oracles.HyperbandOracle):
    """KerasTuner's brackets, promoting also where trials failed or the space is used up.

    KerasTuner waits for more trials of a round to complete than are thrown out, which after
    failures may be never, and ends the search when there are no new points for a first round,
    whatever could be promoted.
    """

    _used_up = False

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns a trial to promote, or a new one for the first round of a bracket.

        Args:
            trial_id: String, the new trial's ID.
        """
        while True:
            for bracket in self._brackets:
                values = self._begin(trial_id, bracket) or self._promote(trial_id, bracket)
                if values is not None:
                    return {"status": "RUNNING", "values": values}
            last = self._current_iteration + 1 >= self.hyperband_iterations
            if self._used_up or (self._current_bracket == 0 and last):
                return {"status": "IDLE" if self.ongoing_trials else "STOPPED"}
            self._increment_bracket_num()
            self._start_new_bracket()

    def needed_trials(self) -> set[str]:
        """Returns the trials that may be promoted, and those that running ones begin from."""
        running = [trial for trial in self.trials.values() if trial.status not in _ENDED]
        needed = {trial.hyperparameters.values.get("tuner/trial_id") for trial in running}
        for bracket in self._brackets:
            rounds = bracket["rounds"]
            for i in range(len(rounds) - 1):
                if len(rounds[i + 1]) < self._get_size(bracket["bracket_num"], i + 1):
                    needed |= {info["id"] for info in rounds[i]}
        return needed - {None}

    def _begin(self, trial_id: str, bracket: dict) -> dict[str, Any] | None:
        first = bracket["rounds"][0]
        if self._used_up or len(first) >= self._get_size(bracket["bracket_num"], 0):
            return None
        values = self._random_values()
        if values is None:
            self._used_up = True
            return None
        first.append({"past_id": None, "id": trial_id})
        return {**values, **self._place(bracket, 0)}

    def _promote(self, trial_id: str, bracket: dict) -> dict[str, Any] | None:
        number, rounds = bracket["bracket_num"], bracket["rounds"]
        # Whether no trial will be added to the round any more.
        full = self._used_up or len(rounds[0]) >= self._get_size(number, 0)
        for i in range(1, len(rounds)):
            before = [self.trials[info["id"]] for info in rounds[i - 1]]
            size, past_size = self._get_size(number, i), self._get_size(number, i - 1)
            over = full and all(trial.status in _ENDED for trial in before)
            selected = {info["past_id"] for info in rounds[i]}
            candidates = [
                trial
                for trial in before
                if trial.status == "COMPLETED" and trial.trial_id not in selected
            ]
            enough = over or len(candidates) > past_size - size
            if len(rounds[i]) < size and candidates and enough:
                sign = -1 if self.objective.direction == "max" else 1
                best = min(candidates, key=lambda trial: sign * trial.score)
                rounds[i].append({"past_id": best.trial_id, "id": trial_id})
                place = {"tuner/trial_id": best.trial_id, **self._place(bracket, i)}
                return {**best.hyperparameters.values, **place}
            full = over
        return None

    def _place(self, bracket: dict, round_num: int) -> dict[str, int]:
        number = bracket["bracket_num"]
        done = self._get_epochs(number, round_num - 1) if round_num else 0
        return {
            "tuner/epochs": self._get_epochs(number, round_num),
            "tuner/initial_epoch": done,
            "tuner/bracket": number,
            "tuner/round": round_num,
        }


class Hyperband(OptkitTuner, keras_tuner.Hyperband):
    """Gives many settings a few epochs, and the best of them more, in brackets.

    Args:
        hypermodel: `HyperModel`, or a callable from `HyperParameters` to a compiled model.
        objective: String, `keras_tuner.Objective`, or a list of these.
        max_epochs: Integer >= 1, how many epochs the best trials get.
        factor: Integer >= 2, the share of trials that is promoted is one in `factor`, to `factor`
            times the epochs.
        hyperband_iterations: Integer >= 1, how often all brackets are run. A search that is
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
        ValueError: As `RandomSearch`.

    Example:

    ```python
    tuner = keras_optkit.tuning.Hyperband(build, "val_accuracy", max_epochs=27)
    tuner.search(x, y, validation_split=0.2)
    ```

    Reference:
        Li et al., 2018: Hyperband: a novel bandit-based approach to hyperparameter optimization.
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int = 1,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int | None = None,
        **kwargs: Any,
    ):
        if not check_count("max_epochs", max_epochs):
            raise ValueError("`max_epochs` must be an integer >= 1. Received: max_epochs=0")
        oracle = HyperbandOracle(
            max_epochs=max_epochs,
            factor=factor,
            hyperband_iterations=hyperband_iterations,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        OptkitTuner.__init__(self, oracle, hypermodel, objective=objective, **kwargs)

    def _settings(self, oracle: HyperbandOracle) -> dict[str, Any]:
        return {"max_epochs": oracle.max_epochs, "factor": oracle.factor}

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> Any:
        model = keras_tuner.Tuner._build_hypermodel(self, hp)
        if "tuner/trial_id" in hp.values:
            self._load_weights(model, hp.values["tuner/trial_id"])
        return model

    def _fit_arguments(self, trial: Any, fit_kwargs: dict[str, Any]) -> dict[str, Any]:
        values = trial.hyperparameters.values
        if "tuner/epochs" not in values:
            return dict(fit_kwargs)
        epochs = {"epochs": values["tuner/epochs"], "initial_epoch": values["tuner/initial_epoch"]}
        return {**fit_kwargs, **epochs}
