"""What every tuner here adds to KerasTuner's: searches that survive, and say what went wrong."""

import contextlib
import pathlib
from typing import Any

import keras
import keras_tuner
from keras_tuner.src.distribute import utils as dist_utils
from keras_tuner.src.engine import hypermodel as hm_module

from keras_optkit.core.checks import check_count
from keras_optkit.core.console import say
from keras_optkit.core.monitor import compiled_metrics
from keras_optkit.tuning.description import describe_model, describe_objective, describe_space
from keras_optkit.tuning.epochs import read_epochs
from keras_optkit.tuning.files import check_directory, write_json
from keras_optkit.tuning.objective import check_reported, check_validated, settle_objective
from keras_optkit.tuning.oracle import OptkitOracle
from keras_optkit.tuning.pareto import pareto_front
from keras_optkit.tuning.trial_runner import TrialRunner
from keras_optkit.tuning.workers import search_in_parallel

# Of how many trials the weights are kept unless something else is asked for.
_KEPT = 10


class OptkitTuner(TrialRunner):
    """Repairs of KerasTuner's `Tuner`; a mixin that comes before one of its subclasses.

    - A trial that fails is recorded with its error, and the search goes on. A search in which no
      trial completes raises, with the first error.
    - All files are written whole or not at all. Killed at any moment, a search that is started
      again repeats the trial that ran, and no other.
    - A directory knows what its search is for, and refuses another with the difference.
    - The objective, the model and the directory are checked before the first trial.
    - KerasTuner's chief and workers (`KERASTUNER_TUNER_ID`, `KERASTUNER_ORACLE_IP` and
      `KERASTUNER_ORACLE_PORT`, and a directory that they share) work as they do there.
    - The dtype policy and the distribution that are set outside `build` hold in every trial.

    Args:
        oracle: An `OptkitOracle`.
        hypermodel: `HyperModel` or callable, as KerasTuner's.
        objective: String, `Objective`, or a list of these. `Objective("parameters", "min")` is the
            size of the model, which every trial reports, and `Objective("latency", "min")` the
            milliseconds of a prediction, which is measured where it is asked for.
        trial_pruner: `SuccessiveHalving` or `MedianStopping`, asked after each epoch whether the
            trial should go on; `None` to let all trials run to their end.
        keep_checkpoints: Integer >= 1, of how many of the best trials the weights are kept;
            `None` for all, as KerasTuner does, which fills disks.
        workers: Integer >= 1, how many trials are trained at the same time, each by a process of
            its own on this machine. What a trial comes to does not depend on which process has it;
            what is suggested depends on which trials have ended by then. Workers print nothing of
            `fit`, and callbacks are sent to them: what these collect stays there.
        directory: String, where the files of the search are.
        overwrite: Boolean, whether a search that is there is removed.
        **kwargs: Arguments of KerasTuner's `Tuner`.
    """

    def __init__(
        self,
        oracle: OptkitOracle,
        hypermodel: Any = None,
        *,
        objective: Any = None,
        trial_pruner: Any = None,
        keep_checkpoints: int | None = _KEPT,
        workers: int = 1,
        directory: str | None = None,
        overwrite: bool = False,
        **kwargs: Any,
    ):
        if hypermodel is None and self._trains_models:
            raise ValueError(
                "`hypermodel` may be left out only where a subclass defines `run_trial`. "
                "Received: hypermodel=None"
            )
        if keep_checkpoints is not None and not check_count("keep_checkpoints", keep_checkpoints):
            raise ValueError(
                "`keep_checkpoints` must be an integer >= 1, or None for all of them. "
                "Received: keep_checkpoints=0"
            )
        if trial_pruner is not None and not hasattr(trial_pruner, "should_stop"):
            raise ValueError(
                "`trial_pruner` must be a `SuccessiveHalving` or a `MedianStopping`, or have a "
                f"method `should_stop` like theirs. Received: trial_pruner={trial_pruner!r}"
            )
        if trial_pruner is not None and isinstance(objective, (list, tuple)):
            raise ValueError(
                "`trial_pruner` compares trials by one objective. Leave it out, or choose one. "
                f"Received: objective={objective!r}"
            )
        _check_workers(workers, kwargs.get("distribution_strategy"))
        self.workers = workers
        self.trial_pruner = trial_pruner
        self.keep_checkpoints = keep_checkpoints
        check_directory(directory)
        # What building a model needs, before anything on the disk is touched.
        self.hypermodel = hm_module.get_hypermodel(hypermodel)
        for name in ("distribution_strategy", "optimizer", "loss", "metrics"):
            setattr(self, name, kwargs.get(name))
        self.first_error: Exception | None = None
        self._validation_metrics: dict = {}
        model = self._explore(oracle)
        reports = model if self._fits_by_keras else None
        oracle.objective = settle_objective(objective, reports)
        oracle.keep_checkpoints = keep_checkpoints
        if reports is not None:
            check_reported(oracle.objective, reports)
            self._validation_metrics = compiled_metrics(reports) or {}
        if not oracle.hyperparameters.space and self._fits_by_keras:
            raise ValueError(
                "The search space is empty: `build(hp)` asks `hp` for nothing. Tune something, "
                "for example `hp.Float('learning_rate', 1e-4, 1e-1, sampling='log')`. "
                f"Received: hypermodel={hypermodel!r}"
            )
        oracle.description = {
            "tuner": type(self).__name__,
            "objective": describe_objective(oracle.objective),
            "settings": self._settings(oracle),
            "space": describe_space(oracle.hyperparameters.space),
            "model": describe_model(model) if isinstance(model, keras.Model) else {},
        }
        keras_tuner.Tuner.__init__(
            self,
            oracle,
            hypermodel=self.hypermodel,
            directory=directory,
            overwrite=overwrite,
            **kwargs,
        )

    @property
    def _trains_models(self) -> bool:
        """Whether `run_trial` builds and fits a model, or is a function of the user's own."""
        return type(self).run_trial.__module__.startswith("keras_optkit.")

    @property
    def _fits_by_keras(self) -> bool:
        """Whether what a trial reports is what `Model.fit` reports."""
        fit = getattr(type(self.hypermodel), "fit", None)
        known = ("keras_tuner.", "keras_optkit.")
        return self._trains_models and fit is not None and fit.__module__.startswith(known)

    def _settings(self, oracle: OptkitOracle) -> dict[str, Any]:
        """Returns the arguments without which a search cannot be gone on with."""
        return {}

    def _explore(self, oracle: OptkitOracle) -> keras.Model | None:
        """Builds models until every conditional parameter has been seen; returns the first."""
        if self.hypermodel is None:
            return None
        hp = oracle.get_space()
        self.hypermodel.declare_hyperparameters(hp)
        oracle.update_space(hp)
        hp = oracle.get_space()
        if self._trains_models:
            model = self._build_hypermodel(hp)
            self._check_model(model)
        else:
            model = self.hypermodel.build(hp)
        oracle.update_space(hp)
        seen, waiting = list(hp.active_scopes), list(hp.inactive_scopes)
        while waiting:
            scope = waiting.pop(0)
            if scope in seen:
                continue
            seen.append(scope)
            hp = oracle.get_space()
            for condition in scope:
                hp.values[condition.name] = condition.values[0]
            _fill_with_defaults(hp)
            # What fails here fails in its trials too, and is recorded there.
            with contextlib.suppress(Exception):
                self.hypermodel.build(hp)
            oracle.update_space(hp)
            seen += hp.active_scopes
            waiting += hp.inactive_scopes
        return model

    def _check_model(self, model: Any) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(
                "`build(hp)` must return a compiled `keras.Model`. Did you forget `return model`? "
                f"Received: {model!r}"
            )
        if self._fits_by_keras and not model.compiled:
            raise ValueError(
                "`build(hp)` must return a compiled model: call `model.compile(...)` in it. "
                f"Received: {model!r}, not compiled"
            )

    def _populate_initial_space(self):
        # The space is known by now. A search that was killed in its first trial left a state, but
        # not the file by which KerasTuner tells that there is one.
        if not self._is_worker() and self.oracle.saved():
            self.oracle.reload()

    def reload(self):
        self._populate_initial_space()

    def save(self):
        if not self._is_worker():
            self.oracle.save()
        write_json(self._get_tuner_fname(), self.get_state())

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """Searches for the best settings.

        Args:
            *fit_args: What `fit` takes.
            **fit_kwargs: What `fit` takes.

        Raises:
            ValueError: If the objective is a validation metric and there is no validation data.
            RuntimeError: If no trial completed, with the error of the first one.
        """
        check_validated(self.oracle.objective, self._validation_metrics, fit_args, fit_kwargs)
        if self.workers > 1:
            self.oracle.verbose = fit_kwargs.get("verbose", "auto")
            if self._trains_models:
                fit_kwargs["verbose"] = 0
            search_in_parallel(self, fit_args, fit_kwargs)
        else:
            super().search(*fit_args, **fit_kwargs)
        if self._is_worker():
            return
        if not self.oracle.get_best_trials():
            self._give_up()
        if self.oracle.verbose:
            for line in self._report():
                say(line)

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        if not self._is_worker() and self.oracle.hopeless():
            self._give_up()

    def while_waiting(self) -> None:
        """Is called a few times a second while workers train; what it raises ends the search."""

    def note_error(self, error: Exception | None, forget: bool = False) -> None:
        """Keeps the first error of all trials, for a search in which none completes.

        Args:
            error: What a trial failed with, or `None`.
            forget: Boolean, whether to forget the one that is known.
        """
        if error is not None:
            # Without its frames, which would keep the failed model in memory.
            error = error.with_traceback(None)
        self.first_error = error if forget else self.first_error or error

    def pareto_front(self) -> list:
        """Returns the trials that none betters in one objective without being worse in another.

        With one objective these are the best trials.
        """
        done = [t for t in self.oracle.trials.values() if t.status == "COMPLETED"]
        if not done:
            return []
        on_front = pareto_front(self.oracle.objective_values(done))
        return [trial for trial, is_on in zip(done, on_front, strict=True) if is_on]

    def epochs_saved(self) -> dict[str, int]:
        """Returns what `trial_pruner` has spared.

        Returns:
            A dictionary of `trials`, how many were judged, `pruned`, how many of them were stopped
            early, `epochs`, how many they ran, and `saved`, how many they were spared.
        """
        trials = read_epochs(self.project_dir).values()
        spared = [t["planned"] - max(t["values"]) for t in trials if t["pruned"]]
        run = sum(len(t["values"]) for t in trials)
        return {"trials": len(trials), "pruned": len(spared), "epochs": run, "saved": sum(spared)}

    def disk_usage(self) -> int:
        """Returns how many bytes the files of this search take."""
        files = pathlib.Path(self.project_dir).rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())

    def retrain_best(self, *fit_args: Any, rank: int = 0, **fit_kwargs: Any) -> keras.Model:
        """Trains the best settings anew, on all the data, for as many epochs as were best.

        It says beforehand what to expect. Nothing is held back, so nothing can be measured here:
        keep a test set for that.

        Args:
            *fit_args: What `fit` takes, with all the data and without validation data.
            rank: Integer, 0 for the best trial, 1 for the second best, and so on.
            **fit_kwargs: What `fit` takes. `epochs` overrides the number found.

        Returns:
            The trained model.

        Raises:
            ValueError: If there is no such trial, or data is held back for validation.

        Example:

        ```python
        model = tuner.retrain_best(x, y, batch_size=32)
        ```
        """
        held = [n for n in ("validation_split", "validation_data") if fit_kwargs.get(n) is not None]
        if held:
            raise ValueError(
                "`retrain_best` trains on all the data: join what is validated on to the training "
                f"data. Received: {held[0]}={type(fit_kwargs[held[0]]).__name__}"
            )
        best = self.oracle.get_best_trials(rank + 1)
        if len(best) <= rank:
            raise ValueError(
                f"{len(best)} trials have completed; `rank` counts from 0. Received: rank={rank}"
            )
        trial = best[rank]
        values = trial.hyperparameters.values
        epochs = trial.best_step + 1 + values.get("tuner/initial_epoch", 0)
        epochs = fit_kwargs.setdefault("epochs", epochs)
        direction = "up to" if self.oracle.objective.direction == "max" else "down to"
        say(
            f"Trial {trial.trial_id} went {direction} {self.oracle.objective.name} "
            f"{trial.score:.5g}. It is trained again, on all the data, for {epochs} epochs; expect "
            "about that or a little better, and measure it on data that no trial has seen."
        )
        # Not from the weights of a trial, which Hyperband goes on with.
        fresh = trial.hyperparameters.copy()
        fresh.values = {k: v for k, v in values.items() if k != "tuner/trial_id"}
        model = self._try_build(fresh)
        self.hypermodel.fit(fresh, model, *fit_args, **fit_kwargs)
        return model

    def _report(self) -> list[str]:
        lines = []
        if self.trial_pruner is not None:
            told = self.epochs_saved()
            lines.append(
                f"Trial pruning: {told['pruned']} of {told['trials']} trials were stopped early; "
                f"{told['epochs']} epochs run, {told['saved']} saved."
            )
        if self.keep_checkpoints is not None:
            megabytes = self.disk_usage() / 1e6
            lines.append(
                f"The weights of the best {self.keep_checkpoints} trials are kept; the search "
                f"takes {megabytes:.1f} MB in {self.project_dir!r}."
            )
        return lines

    def _give_up(self) -> None:
        failed = self.oracle.failed_trials()
        done = len(self.oracle.get_best_trials(len(self.oracle.trials)))
        first = failed[0] if failed else None
        limit = self.oracle.max_consecutive_failed_trials
        reason = f"{limit} trials failed in a row" if done else "No trial completed"
        raise RuntimeError(
            f"{reason}: {len(failed)} of {len(self.oracle.trials)} failed. Each is recorded with "
            f"its error in {self.project_dir!r}. The first, trial {first and first.trial_id}, "
            f"failed with:\n{first and first.message}"
        ) from self.first_error


def _check_workers(workers: Any, strategy: Any) -> None:
    if check_count("workers", workers) == 0:
        raise ValueError("`workers` must be an integer >= 1. Received: workers=0")
    if workers == 1:
        return
    if dist_utils.has_chief_oracle():
        raise ValueError(
            "`workers` is for one machine; this process is a chief or a worker of KerasTuner's. "
            f"Start more of these. Received: workers={workers}"
        )
    distribution = strategy or keras.distribution.distribution()
    if distribution is not None:
        raise ValueError(
            "`workers` trains each trial on its own, and a distribution spreads one over several "
            f"devices: choose one of them. Received: workers={workers}, {distribution!r}"
        )


def _fill_with_defaults(hp: keras_tuner.HyperParameters) -> None:
    """Settles all active values, the same at each start, where KerasTuner draws them."""
    for parameter in hp.space:
        if not hp.is_active(parameter):
            hp.values.pop(parameter.name, None)
        elif parameter.name not in hp.values:
            hp.values[parameter.name] = parameter.default
