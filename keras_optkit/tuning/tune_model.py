"""One call from a model and its data to the best settings."""

import contextlib
import inspect
import numbers
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
from keras_tuner.src.distribute import utils as dist_utils

from keras_optkit.core.checks import check_count
from keras_optkit.core.messages import did_you_mean
from keras_optkit.core.monitor import compiled_metrics
from keras_optkit.core.optimizer import ensure_built
from keras_optkit.tuning.bayesian_optimization import BayesianOptimization
from keras_optkit.tuning.deadline import Deadline, TimeIsUp
from keras_optkit.tuning.files import check_directory
from keras_optkit.tuning.grid_search import GridSearch
from keras_optkit.tuning.hyper_model import OptkitHyperModel
from keras_optkit.tuning.hyperband import Hyperband
from keras_optkit.tuning.progress import ProgressTable, last_line
from keras_optkit.tuning.random_search import RandomSearch
from keras_optkit.tuning.search_data import split_data
from keras_optkit.tuning.tune_result import FinishedTrial, TuneResult
from keras_optkit.tuning.tuner import OptkitTuner

TUNERS = {
    "bayesian": BayesianOptimization,
    "grid": GridSearch,
    "hyperband": Hyperband,
    "random": RandomSearch,
}
_TRIALS = 20


def tune(
    model_or_build: keras.Model | keras_tuner.HyperModel | Callable,
    data: Any,
    objective: Any = None,
    trials: int | None = None,
    minutes: float | None = None,
    tuner: str | type = "bayesian",
    space: Mapping[str, Any] | Sequence[str] | None = None,
    epochs: int = 10,
    batch_size: int | None = None,
    held_out: float = 0.2,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    directory: str | os.PathLike | None = None,
    project_name: str = "search",
    overwrite: bool = False,
    seed: int = 0,
    verbose: bool = True,
    **kwargs: Any,
) -> TuneResult:
    """Searches for the settings with which a model learns best.

    A line is written for each trial. Ctrl-C, or the end of `minutes`, ends the search and loses no
    trial that has finished; what was found so far is returned. Called again with the same
    `directory`, or with more trials, it goes on where it stopped, and repeats the trial that was
    interrupted.

    Args:
        model_or_build: A compiled model, from whose weights every trial begins; or a function that
            returns one, `build()` or `build(hp)`; or a `keras_tuner.HyperModel`, such as
            `HyperConvNet`.
        data: `(x, y)` or `(x, y, sample_weight)` of arrays, of which `held_out` is held out;
            `((x, y), (x_val, y_val))`; or `(train, validation)` of two datasets, such as
            `keras_optkit.data.load(split=["train", "test"])`.
        objective: String, a metric as `fit` reports it, such as `"val_accuracy"`, or a
            `keras_tuner.Objective`. `None` for the accuracy where the model reports one, and for
            `"val_loss"` else.
        trials: Integer >= 1, how many trials there are at most, those of earlier calls included.
            `None` for no limit but `minutes`, or for 20 where that is `None` too.
        minutes: Number above 0, after how many no more is tried. The trial that then runs is given
            up, unless none has finished yet.
        tuner: `"bayesian"`, `"grid"`, `"random"`, `"hyperband"`, or a tuner class that takes their
            arguments.
        space: What is searched, see `OptkitHyperModel`. `None` for its default; for a `HyperModel`,
            what it searches itself.
        epochs: Integer >= 1, of each trial; the longest one of `"hyperband"`. A trial counts by its
            best epoch.
        batch_size: Integer >= 1, of arrays.
        held_out: Float in (0, 1), the share of arrays that trials are compared by, drawn at random.
        callbacks: Callbacks for each trial, such as `EarlyStopping`. Each trial has copies.
        directory: Where the search is kept, with all that `TuneResult.save` writes. `None` for a
            temporary one.
        project_name: String, the folder in `directory`.
        overwrite: Boolean, whether to start afresh where the directory holds a search.
        seed: Integer, for what is held out, for the tuner, and for augmentation.
        verbose: Boolean, whether to write the table.
        **kwargs: Further arguments of the tuner, such as
            `trial_pruner=keras_optkit.tuning.SuccessiveHalving()`, which ends bad trials early, or
            `workers=4`, which trains four at a time.
            Of all trials but the best (`keep_checkpoints=1`) the weights are removed.

    Returns:
        A `TuneResult`: `print` it, take its `model`, `save` its pictures.

    Raises:
        ValueError: Before the first trial, if an argument is out of its range, the space is empty
            or has a name that is not known, the model does not report the objective (the nearest is
            offered), is not compiled, or the directory cannot be written to.
        RuntimeError: If no trial completed, with the error of the first one.

    Example:

    ```python
    result = keras_optkit.tuning.tune(build, (x, y), trials=20, directory="outputs")
    print(result)
    result.model.save("best.keras")
    ```
    """
    if trials is None and minutes is None:
        trials = _TRIALS
    _check(trials, minutes, epochs, batch_size)
    if dist_utils.has_chief_oracle():
        raise ValueError(
            "`tune` searches in one process, and this one is a chief or worker of KerasTuner's. "
            "Use a tuner of keras_optkit.tuning there. Received: KERASTUNER_ORACLE_IP="
            f"{os.environ['KERASTUNER_ORACLE_IP']!r}"
        )
    kind = _tuner_class(tuner)
    hypermodel = _hypermodel(model_or_build, space, seed)
    arguments = split_data(data, held_out, seed)
    if batch_size is not None:
        arguments["batch_size"] = batch_size
    with contextlib.ExitStack() as stack:
        if directory is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="optkit_tuning_"))
        else:
            folder = os.fspath(directory)
        check_directory(folder)
        limit = {"max_trials": trials}
        if issubclass(kind, keras_tuner.Hyperband):
            limit = {"max_epochs": epochs}
        else:
            arguments["epochs"] = epochs
        if issubclass(kind, OptkitTuner):
            # No more than is returned.
            kwargs.setdefault("keep_checkpoints", 1)
        search = kind(
            hypermodel,
            objective=_objective_of(hypermodel) if objective is None else objective,
            seed=seed,
            directory=folder,
            project_name=project_name,
            overwrite=overwrite,
            **limit,
            **kwargs,
        )
        # Hyperband ends by its own plan, or here.
        search.oracle.max_trials = trials
        deadline = Deadline(minutes)
        search.while_waiting = deadline.check
        _watch(search.oracle, deadline, verbose)
        stopped = None
        try:
            search.search(**arguments, callbacks=[*callbacks, deadline], verbose=0)
        except KeyboardInterrupt as error:
            if not deadline.armed:
                raise
            stopped = "time is up" if isinstance(error, TimeIsUp) else "interrupted"
        kept = None if directory is None else os.fspath(search.project_dir)
        result = _result(search, kept, stopped)
    if kept is not None:
        result.save(kept)
    if verbose:
        _say(str(result))
    return result


def _check(trials, minutes, epochs, batch_size) -> None:
    if trials is not None and check_count("trials", trials) == 0:
        raise ValueError(
            "`trials` must be an integer >= 1, or None for no limit but `minutes`. "
            f"Received: trials={trials!r}"
        )
    if minutes is not None:
        number = isinstance(minutes, numbers.Real) and not isinstance(minutes, bool)
        if not number or not minutes > 0:
            raise ValueError(f"`minutes` must be a number > 0. Received: minutes={minutes!r}")
    for name, value in (("epochs", epochs), ("batch_size", batch_size)):
        if value is not None and check_count(name, value) == 0:
            raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")


def _tuner_class(tuner: Any) -> type:
    if inspect.isclass(tuner) and issubclass(tuner, keras_tuner.Tuner):
        return tuner
    if tuner not in TUNERS:
        raise ValueError(
            f"`tuner` must be one of {', '.join(map(repr, TUNERS))}, or a tuner class. "
            f"{did_you_mean(str(tuner), TUNERS)} Received: tuner={tuner!r}"
        )
    return TUNERS[tuner]


def _hypermodel(source: Any, space: Any, seed: int) -> keras_tuner.HyperModel:
    if isinstance(source, keras_tuner.HyperModel) and space is None:
        return source
    return OptkitHyperModel(source, space, seed=seed)


def _objective_of(hypermodel: keras_tuner.HyperModel) -> str:
    model = hypermodel.build(keras_tuner.HyperParameters())
    compiled = isinstance(model, keras.Model) and getattr(model, "compiled", False)
    reported = (compiled_metrics(model) if compiled else None) or ()
    accuracies = [name for name in reported if name == "acc" or name.endswith("accuracy")]
    return f"val_{accuracies[0]}" if accuracies else "val_loss"


def _watch(oracle: Any, deadline: Deadline, verbose: bool) -> None:
    """Lets a line be written as each trial ends, and the deadline be kept between two of them."""
    create, end = oracle.create_trial, oracle.end_trial
    objective, space = oracle.objective, oracle.get_space().space
    table = ProgressTable(objective.name, objective.direction, space) if verbose else None
    for trial in oracle.trials.values():
        if trial.status == "COMPLETED":
            deadline.armed = True
            if table:
                table.seen(trial.score)

    def create_trial(tuner_id):
        deadline.check()
        trial = create(tuner_id)
        if table and trial.status == "RUNNING":
            table.begin(trial.trial_id)
        return trial

    def end_trial(trial):
        end(trial)
        ended = oracle.get_trial(trial.trial_id)
        deadline.armed = deadline.armed or ended.status == "COMPLETED"
        if table and ended.status in ("COMPLETED", "FAILED"):
            table.end(oracle.start_order.index(trial.trial_id) + 1, ended)

    oracle.create_trial, oracle.end_trial = create_trial, end_trial


def _result(search: keras_tuner.Tuner, directory: str | None, stopped: str | None) -> TuneResult:
    oracle = search.oracle
    trials = []
    for number, trial_id in enumerate(oracle.start_order, 1):
        trial = oracle.trials[trial_id]
        done = trial.status == "COMPLETED"
        trials.append(
            FinishedTrial(
                number=number,
                status=trial.status,
                score=float(trial.score) if done else None,
                best_epoch=trial.best_step + 1 if done else None,
                values=dict(trial.hyperparameters.values),
                error=last_line(trial.message) if trial.status == "FAILED" else None,
            )
        )
    with warnings.catch_warnings():
        # The optimizer of a model that will not train on has no state to load.
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        (model,) = search.get_best_models(1)
    # A file with an optimizer that is half there is loaded with a warning.
    ensure_built(model, "tune")
    (hyperparameters,) = search.get_best_hyperparameters(1)
    notes = []
    if getattr(search, "trial_pruner", None) is not None:
        told = search.epochs_saved()
        notes.append(
            f"{told['pruned']} of {told['trials']} trials were stopped early, which saved "
            f"{told['saved']} epochs of {told['epochs'] + told['saved']}"
        )
    notes += _front(search)
    return TuneResult(
        objective=oracle.objective.name,
        direction=oracle.objective.direction,
        trials=trials,
        space=oracle.get_space().space,
        model=model,
        hyperparameters=hyperparameters,
        directory=directory,
        stopped=stopped,
        notes=notes,
    )


def _front(search: keras_tuner.Tuner) -> list[str]:
    """Returns a line for each trial on the Pareto front, where there are several objectives."""
    each = getattr(search.oracle.objective, "objectives", [])
    if not each or not isinstance(search, OptkitTuner):
        return []
    lines = ["Pareto front (nothing is better in one without being worse in another):"]
    for trial in search.pareto_front():
        values = [f"{one.name} {trial.metrics.get_best_value(one.name):.4g}" for one in each]
        number = search.oracle.start_order.index(trial.trial_id) + 1
        lines.append(f"  trial {number}: {', '.join(values)}")
    return lines


def _say(text: str) -> None:
    import sys

    from rich.console import Console

    Console(file=sys.stdout, highlight=False).print(f"\n{text}", markup=False, soft_wrap=True)
