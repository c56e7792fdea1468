"""What every tuner here adds to KerasTuner's: searches that survive, and say what went wrong."""

import contextlib
import copy
import gc
import traceback
from typing import Any

import keras
import keras_tuner
from keras_tuner.src.engine import hypermodel as hm_module
from keras_tuner.src.engine import tuner_utils

from keras_optkit.core.monitor import compiled_metrics
from keras_optkit.tuning.description import describe_model, describe_objective, describe_space
from keras_optkit.tuning.files import check_directory, write_json
from keras_optkit.tuning.objective import check_reported, check_validated, settle_objective
from keras_optkit.tuning.oracle import OptkitOracle
from keras_optkit.tuning.results import summarise


class OptkitTuner:
    """Repairs of KerasTuner's `Tuner`; a mixin that comes before one of its subclasses.

    - A trial that fails is recorded with its error, and the search goes on. A search in which no
      trial completes raises, with the first error.
    - All files are written whole or not at all. Killed at any moment, a search that is started
      again repeats the trial that ran, and no other.
    - A directory knows what its search is for, and refuses another with the difference.
    - The objective, the model and the directory are checked before the first trial.
    - The dtype policy and the distribution that are set outside `build` hold in every trial.

    Args:
        oracle: An `OptkitOracle`.
        hypermodel: `HyperModel` or callable, as KerasTuner's.
        objective: String, `Objective`, or a list of these.
        **kwargs: Arguments of KerasTuner's `Tuner`.
    """

    def __init__(
        self,
        oracle: OptkitOracle,
        hypermodel: Any = None,
        *,
        objective: Any = None,
        directory: str | None = None,
        overwrite: bool = False,
        **kwargs: Any,
    ):
        if hypermodel is None and self._trains_models:
            raise ValueError(
                "`hypermodel` may be left out only where a subclass defines `run_trial`. "
                "Received: hypermodel=None"
            )
        check_directory(directory)
        # What building a model needs, before anything on the disk is touched.
        self.hypermodel = hm_module.get_hypermodel(hypermodel)
        for name in ("distribution_strategy", "optimizer", "loss", "metrics"):
            setattr(self, name, kwargs.get(name))
        self._first_error: Exception | None = None
        self._validation_metrics: dict = {}
        model = self._explore(oracle)
        if model is not None:
            self._check_model(model)
        reports = model if self._fits_by_keras else None
        oracle.objective = settle_objective(objective, reports)
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
            "model": {} if model is None else describe_model(model),
        }
        del model, reports
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
        model = self._build_hypermodel(hp) if self._trains_models else self.hypermodel.build(hp)
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
        if not self._trains_models:
            return
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
        super().search(*fit_args, **fit_kwargs)
        if not self._is_worker() and not self.oracle.get_best_trials():
            self._give_up()

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        if not self._is_worker() and self.oracle.hopeless():
            self._give_up()

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
        ) from self._first_error

    def _try_run_and_update_trial(self, trial, *fit_args, **fit_kwargs):
        try:
            self._run_and_update_trial(trial, *fit_args, **fit_kwargs)
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            skipped = isinstance(error, keras_tuner.errors.FailedTrialError)
            trial.status = "FAILED" if skipped else "INVALID"
            trial.message = traceback.format_exc()
            # Without its frames, which would keep the failed model in memory.
            self._first_error = self._first_error or error.with_traceback(None)
        else:
            trial.status = "COMPLETED"
            trial.message = None

    def _run_and_update_trial(self, trial, *fit_args, **fit_kwargs):
        results = self.run_trial(trial, *fit_args, **fit_kwargs)
        objective = self.oracle.objective
        if self.oracle.get_trial(trial.trial_id).metrics.exists(objective.name):
            # A `run_trial` that reports to the oracle itself, as was KerasTuner's way once.
            return
        if not hasattr(objective, "objectives"):
            tuner_utils.validate_trial_results(results, objective, "Tuner.run_trial()")
        metrics, step = summarise(results, objective)
        self.oracle.update_trial(trial.trial_id, metrics, step=step)

    def run_trial(self, trial, *fit_args, **fit_kwargs):
        """Trains the model of a trial, `executions_per_trial` times.

        Args:
            trial: KerasTuner's `Trial`.
            *fit_args: What `search` was given.
            **fit_kwargs: What `search` was given.

        Returns:
            List of what `HyperModel.fit` returned.
        """
        fit_kwargs = self._fit_arguments(trial, fit_kwargs)
        callbacks = fit_kwargs.pop("callbacks", None) or []
        # Of all executions the best epoch is kept.
        checkpoint = tuner_utils.SaveBestEpoch(
            self.oracle.objective, self._get_checkpoint_fname(trial.trial_id)
        )
        results = []
        for execution in range(self.executions_per_trial):
            own = self._deepcopy_callbacks(callbacks)
            self._configure_tensorboard_dir(own, trial, execution)
            own += [tuner_utils.TunerCallback(self, trial), checkpoint]
            arguments = {**copy.copy(fit_kwargs), "callbacks": own}
            results.append(self._build_and_fit_model(trial, *fit_args, **arguments))
        return results

    def _fit_arguments(self, trial: Any, fit_kwargs: dict[str, Any]) -> dict[str, Any]:
        """Returns the arguments of `fit` in a trial."""
        return dict(fit_kwargs)

    def _configure_tensorboard_dir(self, callbacks, trial, execution=0):
        # KerasTuner imports tensorboard in every trial, and fails them all where it is missing.
        if any(type(callback).__name__ == "TensorBoard" for callback in callbacks):
            super()._configure_tensorboard_dir(callbacks, trial, execution)

    def _try_build(self, hp):
        with _kept_settings():
            keras.backend.clear_session(free_memory=False)
        gc.collect()
        model = self._build_hypermodel(hp)
        self._check_model(model)
        size = keras_tuner.src.engine.tuner.maybe_compute_model_size(model)
        if self.max_model_size and size > self.max_model_size:
            raise keras_tuner.errors.FailedTrialError(
                f"The model has {size} parameters. Received: max_model_size={self.max_model_size}"
            )
        return model


@contextlib.contextmanager
def _kept_settings():
    """Puts back what `clear_session` resets though it is no state of a model."""
    policy = keras.config.dtype_policy()
    distribution = keras.distribution.distribution()
    yield
    keras.config.set_dtype_policy(policy)
    if distribution is not None:
        keras.distribution.set_distribution(distribution)


def _fill_with_defaults(hp: keras_tuner.HyperParameters) -> None:
    """Settles all active values, the same at each start, where KerasTuner draws them."""
    for parameter in hp.space:
        if not hp.is_active(parameter):
            hp.values.pop(parameter.name, None)
        elif parameter.name not in hp.values:
            hp.values[parameter.name] = parameter.default
