"""What the oracles of every tuner share: a state that survives, and trials told truly."""

import itertools
import os
import pathlib
import random
import shutil
from typing import Any

import numpy as np
from keras_tuner.src import backend
from keras_tuner.src.engine import hyperparameters as hp_module
from keras_tuner.src.engine import metrics_tracking
from keras_tuner.src.engine import oracle as oracle_module
from keras_tuner.src.engine import trial as trial_module

from keras_optkit.tuning.description import describe_space, differences
from keras_optkit.tuning.files import read_json, write_json
from keras_optkit.tuning.grid import combinations

# In the folder of a trial: the weights of its best epoch, and a worker's error.
CHECKPOINT_FILE = "checkpoint.weights.h5"
ERROR_FILE = "error.json"
_FINISHED = ("COMPLETED", "FAILED")
# So many trials fail before a search in which none has completed gives up.
_HOPELESS = 3


class OptkitOracle:
    """Repairs of KerasTuner's `Oracle`; a mixin that comes before one of its subclasses.

    Args:
        **kwargs: The arguments of the oracle.

    Raises:
        ValueError: If `max_trials` is not a whole number >= 1.
    """

    def __init__(self, **kwargs):
        max_trials = kwargs.get("max_trials")
        whole = isinstance(max_trials, int) and not isinstance(max_trials, bool)
        if max_trials is not None and (not whole or max_trials < 1):
            raise ValueError(
                "`max_trials` must be an integer >= 1, or None for no limit. "
                f"Received: max_trials={max_trials!r}"
            )
        super().__init__(**kwargs)
        if kwargs.get("seed") is not None:
            # KerasTuner takes the seed 0 for none.
            self.seed = self._seed_state = kwargs["seed"]
        # The tuner fills these in: what the search is for, and of how many trials it keeps weights.
        self.description: dict[str, Any] = {}
        self.keep_checkpoints: int | None = None

    def get_best_trials(self, num_trials: int = 1) -> list:
        """Returns the best trials, of those that completed.

        Args:
            num_trials: Integer, how many at most.
        """
        return sorted(
            (trial for trial in self.trials.values() if trial.status == "COMPLETED"),
            key=lambda trial: trial.score,
            reverse=self.objective.direction == "max",
        )[:num_trials]

    def objective_values(self, trials: list) -> np.ndarray:
        """Returns what trials came to; the lower the better.

        Args:
            trials: List of completed trials.

        Returns:
            Array of shape `(trials, objectives)`, negated where the objective is maximised.
        """
        each = getattr(self.objective, "objectives", None)
        if each is None:
            values = np.array([[trial.score] for trial in trials], dtype=float)
            return -values if self.objective.direction == "max" else values
        signs = [-1 if one.direction == "max" else 1 for one in each]
        return np.array(
            [
                [s * t.metrics.get_best_value(o.name) for o, s in zip(each, signs, strict=True)]
                for t in trials
            ]
        )

    def needed_trials(self) -> set[str]:
        """Returns the IDs of ended trials whose weights a later trial may begin from."""
        return set()

    def failed_trials(self) -> list:
        """Returns the trials that failed, the first first."""
        trials = (self.trials[trial_id] for trial_id in self.end_order)
        return [trial for trial in trials if trial.status == "FAILED"]

    def hopeless(self) -> bool:
        """Tells whether so many trials have failed that the search should end."""
        statuses = [self.trials[trial_id].status for trial_id in self.end_order]
        limit = self.max_consecutive_failed_trials
        if limit is None:
            return len(statuses) >= _HOPELESS and "COMPLETED" not in statuses
        return len(statuses) >= limit and set(statuses[-limit:]) == {"FAILED"}

    def _check_consecutive_failures(self):
        # KerasTuner raises here, before the trial is recorded and while it holds its lock. The
        # tuner asks `hopeless` once all is written.
        pass

    @oracle_module.synchronized
    def end_trial(self, trial):
        # KerasTuner's messages between a worker and its chief hold no error.
        path = os.path.join(self._get_trial_dir(trial.trial_id), ERROR_FILE)
        if trial.message is None and trial.status != "COMPLETED" and os.path.exists(path):
            trial.message = read_json(path)
        super().end_trial(trial)
        if self.keep_checkpoints is not None:
            self._drop_checkpoints(self.keep_checkpoints)

    def _drop_checkpoints(self, keep: int) -> None:
        """Removes the weights of ended trials that are not among the best."""
        ended = {i for i, trial in self.trials.items() if trial.status in _FINISHED}
        kept = {trial.trial_id for trial in self.get_best_trials(keep)}
        for trial_id in ended - kept - self.needed_trials():
            folder = pathlib.Path(self._get_trial_dir(trial_id))
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)

    def _random_values(self):
        values = super()._random_values()
        return self._untried_values() if values is None else values

    def _untried_values(self) -> dict[str, Any] | None:
        """Returns a point of a finite space that no trial has had, or `None` if there is none."""
        if any(getattr(parameter, "step", 0) is None for parameter in self.hyperparameters.space):
            return None
        points = combinations(self.hyperparameters.space)
        left = list(itertools.islice((p for p in points if not self._duplicate(p)), 1000))
        self._seed_state += 1
        return random.Random(self._seed_state).choice(left) if left else None

    def get_state(self):
        return {**super().get_state(), "description": self.description}

    def save(self):
        write_json(self._get_oracle_fname(), self.get_state())

    def _save_trial(self, trial):
        path = os.path.join(self._get_trial_dir(trial.trial_id), "trial.json")
        write_json(path, trial.get_state())

    def saved(self) -> bool:
        """Tells whether the project's directory holds a search."""
        return backend.io.exists(self._get_oracle_fname())

    def reload(self):
        """Takes up a search where it stopped, however it stopped.

        Raises:
            ValueError: If the directory holds another search, or a damaged file.
        """
        state = read_json(self._get_oracle_fname())
        self._check_same(state)
        pattern = os.path.join(self._project_dir, "trial_*", "trial.json")
        trials = [
            trial_module.Trial.from_state(read_json(path)) for path in backend.io.glob(pattern)
        ]
        known = {trial.trial_id: trial for trial in trials}
        # A trial is begun once both its own file and the oracle's say so.
        for trial_id in set(known) - set(state["start_order"]):
            if known[trial_id].status not in _FINISHED:
                shutil.rmtree(self._get_trial_dir(trial_id), ignore_errors=True)
                del known[trial_id]
        order = [i for i in state["start_order"] if i in known]
        order += sorted(set(known) - set(order))
        self.trials = {trial_id: known[trial_id] for trial_id in order}
        state["ongoing_trials"] = {}
        self.set_state(state)
        finished = [i for i in order if self.trials[i].status in _FINISHED]
        ended = [i for i in self.end_order if i in finished]
        self.start_order = order
        self.end_order = ended + [i for i in finished if i not in ended]
        # KerasTuner takes them from the end.
        self._retry_queue = [i for i in reversed(order) if i not in finished]
        for trial_id in self._retry_queue:
            _forget(self.trials[trial_id])
        for trial in self.trials.values():
            self._record_values(trial)

    def _check_same(self, state: dict[str, Any]) -> None:
        old, new = state.get("description"), self.description
        if old is None:
            # KerasTuner's own directory tells the space, as it was at the end.
            space = hp_module.HyperParameters.from_config(state["hyperparameters"]).space
            known = {k: v for k, v in describe_space(space).items() if k in new["space"]}
            lines = differences(known, new["space"], "parameter")
        else:
            lines = [
                f"{key}: was {old[key]!r}, is {new[key]!r}"
                for key in ("tuner", "objective")
                if old[key] != new[key]
            ]
            lines += differences({"": old["settings"]}, {"": new["settings"]}, "setting")
            lines += differences(old["space"], new["space"], "parameter")
            lines += differences(old["model"], new["model"], "model,")
        if lines:
            raise ValueError(
                "The directory holds another search:\n  "
                + "\n  ".join(lines)
                + "\nGo on with what that search was for, or start afresh with `overwrite=True` or "
                f"another `project_name`. Received: {self._project_dir!r}"
            )


def _forget(trial: Any) -> None:
    trial.metrics = metrics_tracking.MetricsTracker()
    trial.score = None
