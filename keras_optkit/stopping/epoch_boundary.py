"""What happens between two epochs before validation and before any callback."""

import functools
from collections.abc import Callable

import keras

from keras_optkit.core.fit_scope import FitScope


class EpochBoundary:
    """Calls a function right behind the last batch of an epoch, and one right before the next.

    Callbacks are called in the order of their list, so none of them can prepare the model for all
    others. `fit` itself calls three methods of the model at these moments: it asks for the metrics
    of the epoch, runs the validation, and resets the metrics for the next one. They are listened
    to until the scope closes.

    Args:
        model: The model that trains.
        ended: A function without arguments, called before the validation of an epoch.
        begins: A function without arguments, called before the `on_epoch_begin` of any callback.
        scope: The `FitScope` that it belongs to.
    """

    _METHODS = ("_get_metrics_result_or_logs", "reset_metrics", "evaluate")

    def __init__(
        self,
        model: keras.Model,
        ended: Callable[[], None],
        begins: Callable[[], None],
        scope: FitScope,
    ):
        self._ended = ended
        self._begins = begins
        self._evaluating = False
        replace_methods(model, {name: getattr(self, name) for name in self._METHODS}, scope)

    # Each takes the model's own method first. An evaluation calls the other two as well.

    def _get_metrics_result_or_logs(self, own, *args, **kwargs):
        logs = own(*args, **kwargs)
        if not self._evaluating:
            self._ended()
        return logs

    def reset_metrics(self, own, *args, **kwargs):
        if not self._evaluating:
            self._begins()
        return own(*args, **kwargs)

    def evaluate(self, own, *args, **kwargs):
        before, self._evaluating = self._evaluating, True
        try:
            return own(*args, **kwargs)
        finally:
            self._evaluating = before


def replace_methods(model: keras.Model, replacements: dict[str, Callable], scope: FitScope) -> None:
    """Puts functions in front of methods of a model until a scope closes.

    Args:
        model: The model.
        replacements: From the name of a method to a function that takes the method itself, and
            then its arguments.
        scope: The `FitScope` that this belongs to.

    Raises:
        RuntimeError: If the model has no such method.
    """
    for name, replacement in replacements.items():
        stand_in = vars(model).get(name)
        if not isinstance(stand_in, _StandIn):
            own = getattr(model, name, None)
            if own is None:
                raise RuntimeError(
                    f"keras_optkit relies on `Model.{name}`, which Keras {keras.__version__} does "
                    f"not have. Received: model={model!r}"
                )
            stand_in = _StandIn(own, vars(model).get(name))
            setattr(model, name, stand_in)
        stand_in.replacements.append(replacement)
        scope.on_close(functools.partial(_remove, model, name, stand_in, replacement))


class _StandIn:
    """Stands on a model in the place of one of its methods, for one or several replacements."""

    def __init__(self, own: Callable, before: Callable | None):
        self.own = own
        self.before = before
        self.replacements: list[Callable] = []

    def __call__(self, *args, **kwargs):
        call = self.own
        for replacement in self.replacements:
            call = functools.partial(replacement, call)
        return call(*args, **kwargs)


def _remove(model, name, stand_in, replacement) -> None:
    # Scopes close in any order.
    stand_in.replacements = [r for r in stand_in.replacements if r is not replacement]
    if not stand_in.replacements and vars(model).get(name) is stand_in:
        delattr(model, name)
        if stand_in.before is not None:
            setattr(model, name, stand_in.before)
