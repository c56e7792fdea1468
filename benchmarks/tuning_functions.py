"""Test functions for searches, and searches of them by several libraries."""

import tempfile

import numpy as np

# Dixon and Szego, 1978; Laguna and Marti, 2005, for Levy's function.
_HARTMANN_A = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_HARTMANN_P = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
_HARTMANN_C = np.array([1, 1.2, 3, 3.2])


def branin(x):
    """Has its minimum 0.397887 at three points of [-5, 10] x [0, 15]."""
    a, b = x
    valley = b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6
    return valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10


def hartmann6(x):
    """Has its minimum -3.32237 in [0, 1]^6."""
    return -_HARTMANN_C @ np.exp(-np.sum(_HARTMANN_A * (x - _HARTMANN_P) ** 2, axis=1))


def levy4(x):
    """Has its minimum 0 at (1, 1, 1, 1), in [-10, 10]^4."""
    w = 1 + (x - 1) / 4
    inner = np.sum((w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2))
    last = (w[-1] - 1) ** 2 * (1 + np.sin(2 * np.pi * w[-1]) ** 2)
    return np.sin(np.pi * w[0]) ** 2 + inner + last


# The function, the bounds of its variables, its minimum.
FUNCTIONS = {
    "Branin": (branin, [(-5, 10), (0, 15)], 0.397887),
    "Hartmann 6": (hartmann6, [(0, 1)] * 6, -3.32237),
    "Levy 4": (levy4, [(-10, 10)] * 4, 0.0),
}


def make_oracle(method, bounds, seed, folder):
    """Returns the oracle of a method that KerasTuner's interface is for."""
    import keras_tuner

    from keras_optkit.tuning.bayesian_optimization import BayesianOptimizationOracle

    hp = keras_tuner.HyperParameters()
    for i, (low, high) in enumerate(bounds):
        hp.Float(f"x{i}", low, high)
    kinds = {
        "ours": BayesianOptimizationOracle,
        "KerasTuner": keras_tuner.oracles.BayesianOptimizationOracle,
        "random": keras_tuner.oracles.RandomSearchOracle,
    }
    arguments = {"alpha": None, "beta": None} if method == "ours" else {}
    objective = keras_tuner.Objective("y", "min")
    oracle = kinds[method](
        objective=objective,
        max_trials=None,
        hyperparameters=hp,
        # KerasTuner adds 1 with each draw: near seeds would give the same points.
        seed=10_000 * seed + 1,
        **arguments,
    )
    oracle._set_project_dir(folder, method)
    oracle.verbose = 0
    return oracle


def search(task):
    """Returns the lowest value so far after each trial of a search.

    Args:
        task: The method, the function's name, the seed and the number of trials.
    """
    method, name, seed, trials = task
    function, bounds, _ = FUNCTIONS[name]
    if method == "Optuna TPE":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))

        def objective(trial):
            floats = [trial.suggest_float(f"x{i}", *bound) for i, bound in enumerate(bounds)]
            return function(np.array(floats))

        study.optimize(objective, n_trials=trials)
        values = [trial.value for trial in study.trials]
    else:
        values = []
        with tempfile.TemporaryDirectory() as folder:
            oracle = make_oracle(method, bounds, seed, folder)
            for _ in range(trials):
                trial = oracle.create_trial("tuner0")
                floats = [trial.hyperparameters.values[f"x{i}"] for i in range(len(bounds))]
                values.append(float(function(np.array(floats))))
                oracle.update_trial(trial.trial_id, {"y": values[-1]})
                trial.status = "COMPLETED"
                oracle.end_trial(trial)
    return np.minimum.accumulate(values)
