"""Models that are made in the scope of a distribution train on it, wherever `fit` is called."""

import contextlib
import functools
import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import keras

from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.one_training import write_nothing
from keras_optkit.distribution.replaced import replaced

_METHODS = (
    "fit",
    "evaluate",
    "predict",
    "train_on_batch",
    "test_on_batch",
    "predict_on_batch",
)
_OPEN: list[Distribution] = []
_MADE: "weakref.WeakKeyDictionary[keras.Model, Distribution]" = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def placing(distribution: Distribution) -> Iterator[None]:
    """Places the models that are made and compiled inside of it on a distribution.

    Args:
        distribution: The distribution whose scope this is.

    Raises:
        RuntimeError: If the scope of another distribution is open.
    """
    if _OPEN and _OPEN[-1] is not distribution:
        raise RuntimeError(
            "A model cannot be on two distributions; leave the one scope before the other. "
            f"Received: {distribution!r} inside the scope of {_OPEN[-1]!r}"
        )
    _OPEN.append(distribution)
    try:
        if len(_OPEN) > 1:
            yield
            return
        # Loading a compiled model asks whether its class has a `compile` of its own.
        trainer = next(base for base in keras.Model.__mro__ if "compile" in vars(base))
        new, own_compile = keras.Model.__new__, trainer.compile

        def __new__(cls, *args, **kwargs):  # noqa: N807
            model = new(cls, *args, **kwargs)
            if isinstance(model, keras.Model):
                _MADE[model] = distribution
            return model

        @functools.wraps(own_compile)
        def compile(self, *args, **kwargs):
            if _MADE.get(self) is not distribution:
                raise ValueError(
                    "A model must be built inside the scope that it is compiled in; put both, or "
                    "`keras.models.load_model`, into `with distribution.scope():`. Received: "
                    f"model={self.name!r}, built outside of it"
                )
            own_compile(self, *args, **kwargs)
            distribution.check_placed(self)
            attach(self, distribution)

        with (
            replaced(keras.Model, __new__=staticmethod(__new__)),
            replaced(trainer, compile=compile),
        ):
            yield
    finally:
        _OPEN.pop()
        if not _OPEN:
            for model, made_by in list(_MADE.items()):
                if made_by is distribution and "compile" not in vars(model):
                    vars(model)["compile"] = _Guard(model)


def attach(model: keras.Model, distribution: Distribution) -> None:
    """Lets a model train on a distribution, wherever `fit` is called.

    Args:
        model: The model.
        distribution: The distribution, whose `running` prepares each call.
    """
    # Not through `setattr`: the model need not track them, and no file holds them.
    for name in _METHODS:
        vars(model)[name] = _Placed(model, name, distribution)
    if not distribution.is_chief:
        write_nothing(model)


def detach(model: keras.Model) -> None:
    """Undoes `attach`, where it was called."""
    for name in _METHODS:
        vars(model).pop(name, None)


class _Placed:
    """Stands on a model in the place of a method, and calls it on the model's distribution."""

    def __init__(self, model: keras.Model, name: str, distribution: Distribution):
        # As a bound method does: `make_model().fit(...)` has no other reference.
        self._model = model
        self._name = name
        self._distribution = distribution
        own = getattr(type(model), name)
        self.__name__ = name
        self.__doc__ = own.__doc__
        self.__signature__ = inspect.signature(functools.partial(own, model))

    def __call__(self, *args, **kwargs) -> Any:
        model = self._model
        own = getattr(type(model), self._name)
        try:
            arguments = self.__signature__.bind(*args, **kwargs)
        except TypeError:
            # Python says it better.
            return own(model, *args, **kwargs)
        arguments.apply_defaults()
        with self._distribution.running(model, self._name, arguments.arguments):
            return own(model, *args, **kwargs)


class _Guard:
    """Stands on a model in the place of `compile` once the scope that it was made in is closed."""

    def __init__(self, model: keras.Model):
        self._model = model

    def __call__(self, *args, **kwargs) -> None:
        model = self._model
        if not _OPEN:
            raise ValueError(
                "A model that was built in the scope of a distribution must be compiled in it, "
                "too: its optimizer and metrics live on the same devices. Received: "
                f"model={model.name!r}, compiled outside of `with distribution.scope():`"
            )
        type(model).compile(model, *args, **kwargs)
