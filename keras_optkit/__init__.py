"""Drop-in Keras 3 parts that make a model train faster, generalise better or ship smaller."""

# What a saved model may hold has to be registered before it can be loaded, so these are imported
# here. All of them are light; the other rooms are imported when they are first touched.
from keras_optkit import augmentation, callbacks, layers, normalization, pruning, schedules
from keras_optkit._version import __version__

_LAZY = ("data", "distillation", "distribution", "export", "tfmot", "tuning")

__all__ = [
    "__version__",
    "augmentation",
    "callbacks",
    "data",
    "distillation",
    "distribution",
    "export",
    "layers",
    "normalization",
    "pruning",
    "schedules",
    "tfmot",
    "tuning",
]


def __getattr__(name: str):
    if name in _LAZY:
        import importlib

        return importlib.import_module(f"keras_optkit.{name}")
    raise AttributeError(f"module 'keras_optkit' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_LAZY})
