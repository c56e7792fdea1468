"""Searches for the best settings of a model: KerasTuner's, that survive, stop early and think."""

# KerasTuner is heavy: the module of a name is imported when the name is used.
_MODULES = {
    "BayesianOptimization": "bayesian_optimization",
    "DEFAULT_SPACE": "space",
    "GridSearch": "grid_search",
    "HyperConvNet": "hyper_conv_net",
    "HyperMLP": "hyper_mlp",
    "HyperResNet": "hyper_res_net",
    "Hyperband": "hyperband",
    "MedianStopping": "trial_pruning",
    "OptkitHyperModel": "hyper_model",
    "RandomSearch": "random_search",
    "SuccessiveHalving": "trial_pruning",
    "TuneResult": "tune_result",
    "tune": "tune_model",
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
