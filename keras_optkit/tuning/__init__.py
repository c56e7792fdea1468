"""Tuning: hypermodels that know this package, and one call that searches them."""

import importlib

# Each name and the module that holds it. All of them need KerasTuner, so none is imported before
# it is asked for.
_MODULES = {
    "DEFAULT_SPACE": "space",
    "HyperConvNet": "hyper_conv_net",
    "HyperMLP": "hyper_mlp",
    "HyperResNet": "hyper_res_net",
    "OptkitHyperModel": "hyper_model",
    "TuneResult": "tune_result",
    "tune": "tune_model",
}

__all__ = [
    "DEFAULT_SPACE",
    "HyperConvNet",
    "HyperMLP",
    "HyperResNet",
    "OptkitHyperModel",
    "TuneResult",
    "tune",
]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
