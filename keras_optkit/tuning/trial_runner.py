"""How every tuner here runs a trial, what becomes of one that fails, and what a trial leaves."""

import contextlib
import copy
import gc
import pathlib
import traceback
from typing import Any

import keras
import keras_tuner
from keras_tuner.src.engine import tuner_utils

from keras_optkit.tuning.epochs import (
    LatencyCallback,
    ParametersCallback,
    TrialPruningCallback,
)
from keras_optkit.tuning.files import read_json, write_json
from keras_optkit.tuning.oracle import ERROR_FILE
from keras_optkit.tuning.results import summarise


class TrialRunner:
    """The part of `OptkitTuner` that one trial takes place in."""

    def _try_run_and_update_trial(self, trial, *fit_args, **fit_kwargs):
        try:
            self._run_and_update_trial(trial, *fit_args, **fit_kwargs)
        except keras_tuner.errors.FatalError:
            raise
        except Exception as error:
            skipped = isinstance(error, keras_tuner.errors.FailedTrialError)
            trial.status = "FAILED" if skipped else "INVALID"
            trial.message = traceback.format_exc()
            if self._is_worker():
                path = pathlib.Path(self.get_trial_dir(trial.trial_id), ERROR_FILE)
                write_json(str(path), trial.message)
            self.note_error(error)
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
            if self._measures_latency:
                own.append(LatencyCallback(fit_args[0] if fit_args else fit_kwargs.get("x")))
            own += [ParametersCallback(), tuner_utils.TunerCallback(self, trial), checkpoint]
            pruning = None
            if self.trial_pruner is not None and execution == 0:
                pruning = TrialPruningCallback(
                    self.trial_pruner, self.oracle.objective, self.get_trial_dir(trial.trial_id)
                )
                own.append(pruning)
            arguments = {**copy.copy(fit_kwargs), "callbacks": own}
            results.append(self._build_and_fit_model(trial, *fit_args, **arguments))
            if pruning is not None and pruning.pruned:
                break
        return results

    @property
    def _measures_latency(self) -> bool:
        objective = self.oracle.objective
        return "latency" in [one.name for one in getattr(objective, "objectives", [objective])]

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

    def load_model(self, trial):
        path = self._get_checkpoint_fname(trial.trial_id)
        if not keras_tuner.src.backend.io.exists(path):
            raise ValueError(
                f"The weights of trial {trial.trial_id} were not kept. "
                f"Received: keep_checkpoints={self.keep_checkpoints}"
            )
        model = self._try_build(trial.hyperparameters)
        self._load_weights(model, trial.trial_id)
        return model

    def _load_weights(self, model: keras.Model, trial_id: str) -> None:
        """Gives a model that was built with the values of a trial the weights of its best epoch."""
        if not model.built:
            model.build_from_config(read_json(self._get_build_config_fname(trial_id)))
            # Keras builds the layers of a subclassed model here, and still takes it for unbuilt.
            model.built = all(layer.built for layer in model.layers)
        with keras_tuner.src.engine.tuner.maybe_distribute(self.distribution_strategy):
            model.load_weights(self._get_checkpoint_fname(trial_id))


@contextlib.contextmanager
def _kept_settings():
    """Puts back what `clear_session` resets though it is no state of a model."""
    policy = keras.config.dtype_policy()
    distribution = keras.distribution.distribution()
    yield
    keras.config.set_dtype_policy(policy)
    if distribution is not None:
        keras.distribution.set_distribution(distribution)
