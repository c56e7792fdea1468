"""What a callback changes on a model for one `fit`, and puts back however that `fit` ends."""

import weakref
from collections.abc import Callable

import keras

_ACTIVE: "weakref.WeakKeyDictionary[keras.Model, list[FitScope]]" = weakref.WeakKeyDictionary()


class FitScope:
    """Changes to a model and its optimizer that hold for one `fit`.

    A callback opens a scope when training begins, registers how to undo each change, and closes it
    when training ends. An exception in `fit` skips `on_train_end`; the scope is then closed by the
    next `fit` on this model, before its first step. `fit` calls `model.make_train_function()` once,
    between telling its callbacks the model and their `on_train_begin`, and that call is listened
    to for this purpose.

    Args:
        model: The `keras.Model` that trains.
        owner: The callback that the scope belongs to.
    """

    def __init__(self, model: keras.Model, owner: keras.callbacks.Callback):
        self.owner = owner
        self._model = weakref.ref(model)
        self._undo: list[Callable[[], None]] = []
        scopes = _ACTIVE.setdefault(model, [])
        if not scopes:
            model.make_train_function = _Listener(model)
        scopes.append(self)

    def on_close(self, undo: Callable[[], None]) -> None:
        """Registers a function without arguments that undoes one change."""
        self._undo.append(undo)

    @property
    def changed(self) -> bool:
        """Whether anything was changed that is not undone yet."""
        return bool(self._undo)

    def close(self) -> None:
        """Undoes the changes, last first. Closing twice does nothing."""
        changed = self.changed
        while self._undo:
            self._undo.pop()()
        model = self._model()
        if model is None or self not in _ACTIVE.get(model, []):
            return
        if changed:
            # What is compiled holds the change; the next `fit` compiles anew.
            model.train_function = None
        scopes = _ACTIVE[model]
        scopes.remove(self)
        if not scopes:
            del _ACTIVE[model]
            del model.make_train_function


class _Listener:
    """Stands in for `model.make_train_function` while a scope is open."""

    def __init__(self, model: keras.Model):
        self._model = weakref.ref(model)

    def __call__(self, force: bool = False) -> None:
        model = self._model()
        # `fit` never forces. A callback that has changed the model in mid-run has to.
        if not force:
            for scope in list(_ACTIVE.get(model, [])):
                scope.close()
        type(model).make_train_function(model, force=force)


def owners(model: keras.Model) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that hold a scope on this model at present."""
    return [scope.owner for scope in _ACTIVE.get(model, [])]


def settled(model: keras.Model) -> bool:
    """Returns whether no callback is still on its way to the model that it makes.

    A callback says so by an attribute `settled`; without one it counts as settled.
    """
    return all(getattr(callback, "settled", True) for callback in owners(model))
