"""Bayesian optimization."""

from typing import Any

import keras_tuner
import numpy as np
import threadpoolctl

from keras_optkit.tuning.epochs import read_epochs
from keras_optkit.tuning.oracle import OptkitOracle
from keras_optkit.tuning.pareto import scalarise
from keras_optkit.tuning.suggestion import suggest
from keras_optkit.tuning.tuner import OptkitTuner
from keras_optkit.tuning.unit_space import UnitSpace

# Closer than this, along every coordinate, two points of a continuous space are one.
_NEAR = 1e-6


class BayesianOptimizationOracle(OptkitOracle, keras_tuner.oracles.BayesianOptimizationOracle):
    """Suggests points by a Gaussian process of our own (see `suggestion.py`)."""

    _theta = None

    def _make_gpr(self):
        # KerasTuner's process is not needed, and importing scikit-learn takes a second.
        return None

    def get_state(self):
        theta = None if self._theta is None else self._theta.tolist()
        return {**super().get_state(), "theta": theta}

    def set_state(self, state):
        # These are arguments; what an earlier process was given says nothing of this one.
        arguments = self.num_initial_points, self.alpha, self.beta
        super().set_state(state)
        self.num_initial_points, self.alpha, self.beta = arguments
        theta = state.get("theta")
        self._theta = None if theta is None else np.array(theta)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the point that promises most.

        Args:
            trial_id: String, the new trial's ID.
        """
        space = UnitSpace(self.hyperparameters.space)
        # Matrices of this size gain nothing by threads, and lose much where others want the cores.
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            values = self._first(space) or self._next(space) or self._random_values()
        return {"status": "STOPPED" if values is None else "RUNNING", "values": values}

    def _rng(self, what: int) -> np.random.Generator:
        # Told by the number of trials alone, so that a search that is resumed goes on the same.
        return np.random.default_rng([self.seed, len(self.trials), what])

    def _first(self, space: UnitSpace) -> dict[str, Any] | None:
        """Returns a point of the first, space-filling ones, or `None` after them."""
        count = self.num_initial_points or max(6, space.dimension + 1)
        completed = sum(trial.status == "COMPLETED" for trial in self.trials.values())
        number = len(self.trials)
        if space.dimension == 0 or (completed >= count or number >= 2 * count):
            return None
        if number < count:
            # A Latin hypercube: each coordinate in `count` strata, one point in each.
            rng = np.random.default_rng([self.seed, count])
            strata = rng.permuted(np.tile(np.arange(count), (space.dimension, 1)), axis=1).T
            point = ((strata + rng.random(strata.shape)) / count)[number]
            values = space.decode(space.snap(point[None])[0])
            if not self._duplicate(values):
                return values
        return self._random_values()

    def _next(self, space: UnitSpace) -> dict[str, Any] | None:
        completed = [trial for trial in self.trials.values() if trial.status == "COMPLETED"]
        if space.dimension == 0 or len(completed) < 2:
            return None
        points = self._points(space, completed)
        # A failed trial says nothing of the objective, but its place is known.
        others = [trial for trial in self.trials.values() if trial.status != "COMPLETED"]
        pending = self._points(space, [t for t in others if t.status == "RUNNING"])
        known = np.vstack([points, self._points(space, others)])

        def is_new(point: np.ndarray) -> bool:
            near = np.abs(known - point).max(axis=1).min() < _NEAR
            return not near and not self._duplicate(space.decode(point))

        outputs, progress = self._outputs(completed), None
        seen = self._seen_on_the_way(completed)
        if seen is not None:
            rows, outputs, progress = seen
            points = points[rows]
        theta = self._theta
        if theta is not None and len(theta) != space.dimension + 2 + (progress is not None):
            theta = None
        point, self._theta = suggest(
            space,
            points,
            outputs,
            pending,
            self._rng(1),
            is_new,
            self.alpha,
            self.beta,
            theta,
            progress,
        )
        return None if point is None else space.decode(point)

    def _points(self, space: UnitSpace, trials: list) -> np.ndarray:
        points = [space.encode(trial.hyperparameters.values) for trial in trials]
        return np.array(points).reshape(len(points), space.dimension)

    def _seen_on_the_way(self, trials: list) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Returns what trials came to on their way, where some of them were ended early.

        Those say what a few epochs give, and the others what these few, and all of them, give.

        Returns:
            For each output the index of its trial, the output, and how far in the training it was
            seen, on a log scale; or `None` where no trial was ended early.
        """
        epochs = read_epochs(self._project_dir)
        if not any(state["pruned"] for state in epochs.values()):
            return None
        sign = -1 if self.objective.direction == "max" else 1
        rows, outputs, progress = [], [], []
        for row, trial in enumerate(trials):
            state = epochs.get(f"trial_{trial.trial_id}")
            if state is None or not state["pruned"]:
                seen = {1.0: sign * trial.score}
            else:
                seen = {}
            if state is not None:
                longest = np.log1p(state["planned"])
                best = np.inf
                for epoch, value in sorted(state["values"].items()):
                    best = min(best, sign * value) if np.isfinite(value) else best
                    # The first, second, fourth, ... of a training say most of it.
                    last = epoch == max(state["values"])
                    if np.isfinite(best) and (last or epoch & (epoch - 1) == 0):
                        seen.setdefault(float(np.log1p(epoch) / longest), best)
            rows += [row] * len(seen)
            outputs += seen.values()
            progress += seen
        return np.array(rows), np.array(outputs), np.array(progress)

    def _outputs(self, trials: list) -> np.ndarray:
        """Returns what is to be minimised."""
        values = self.objective_values(trials)
        return values[:, 0] if values.shape[1] == 1 else scalarise(values, self._rng(2))


class BayesianOptimization(OptkitTuner, keras_tuner.BayesianOptimization):
    """Looks where a Gaussian process expects most, given all trials so far.

    The process has a Matern 5/2 kernel with a length scale for each parameter, and the expected
    improvement over the best trial is maximised. Trials that run at the same time keep away from
    each other. Of several objectives the whole Pareto front is sought: each suggestion weighs them
    differently.

    Args:
        hypermodel: `HyperModel`, or a callable from `HyperParameters` to a compiled model.
        objective: String, `keras_tuner.Objective`, or a list of these.
        max_trials: Integer >= 1, how many trials at most; `None` for no limit. A search that is
            opened again with more goes on.
        num_initial_points: Integer, how many trials are spread over the space before the process
            is asked; by default one more than there are parameters, and at least 6.
        alpha: Float >= 0, the variance of the noise relative to that of the objective; by default
            it is estimated. KerasTuner's is fixed at 1e-4.
        beta: Float, the weight of the uncertainty in the lower confidence bound, KerasTuner's
            acquisition function; by default the expected improvement is taken.
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
    tuner = keras_optkit.tuning.BayesianOptimization(build, "val_accuracy", max_trials=30)
    tuner.search(x, y, validation_split=0.2, epochs=5)
    model = tuner.get_best_models()[0]
    ```

    Reference:
        Jones et al., 1998: Efficient global optimization of expensive black-box functions.
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = 10,
        num_initial_points: int | None = None,
        alpha: float | None = None,
        beta: float | None = None,
        seed: int | None = None,
        hyperparameters: keras_tuner.HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int | None = None,
        **kwargs: Any,
    ):
        oracle = BayesianOptimizationOracle(
            max_trials=max_trials,
            num_initial_points=num_initial_points,
            alpha=alpha,
            beta=beta,
            seed=seed,
            hyperparameters=hyperparameters,
            tune_new_entries=tune_new_entries,
            allow_new_entries=allow_new_entries,
            max_retries_per_trial=max_retries_per_trial,
            max_consecutive_failed_trials=max_consecutive_failed_trials,
        )
        OptkitTuner.__init__(self, oracle, hypermodel, objective=objective, **kwargs)
