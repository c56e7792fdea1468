"""Searches for the best settings of a model: KerasTuner's, that survive, stop early and think."""

# KerasTuner is heavy: the module of a name is imported when the name is used.
_MODULES = {
    "BayesianOptimization": "bayesian_optimization",
    "GridSearch": "grid_search",
    "Hyperband": "hyperband",
    "MedianStopping": "trial_pruning",
    "RandomSearch": "random_search",
    "SuccessiveHalving": "trial_pruning",
}

__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name in _MODULES:
        import importlib

        module = importlib.import_module(f"keras_optkit.tuning.{_MODULES[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'keras_optkit.tuning' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_MODULES})
