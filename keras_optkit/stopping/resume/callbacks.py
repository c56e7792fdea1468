"""The states of callbacks: ours by their protocol, Keras' own by what each of them counts."""

import os
from typing import Any

import keras

from keras_optkit.core.callback import OptkitCallback

# What changes in a callback of Keras while it runs. Behind `on_train_begin`, which starts them
# afresh, these are given back.
_ATTRIBUTES: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: (
        "wait",
        "best",
        "best_epoch",
        "best_weights",
        "stopped_epoch",
    ),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        "best",
        "_batches_seen_since_last_saving",
        "_last_batch_seen",
    ),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch"),
    keras.callbacks.History: ("history", "epoch"),
}
# These know nothing of the steps before.
_STATELESS = (
    keras.callbacks.LambdaCallback,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TerminateOnNaN,
)


def keeps_state(callback: keras.callbacks.Callback) -> bool:
    """Whether this package knows how to keep the state of a callback."""
    known = (*_ATTRIBUTES, *_STATELESS, keras.callbacks.CSVLogger)
    own = hasattr(callback, "get_state") and hasattr(callback, "set_state")
    return own or isinstance(callback, known)


def get_state(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Returns the state of a callback between two batches or epochs."""
    if hasattr(callback, "get_state"):
        return callback.get_state()
    if isinstance(callback, keras.callbacks.CSVLogger):
        return _csv_state(callback)
    names = _attributes(callback)
    return {name: getattr(callback, name) for name in names if hasattr(callback, name)}


def set_state(callback: keras.callbacks.Callback, state: dict[str, Any]) -> None:
    """Gives a callback its state back, behind `on_train_begin`, before its first epoch."""
    if hasattr(callback, "set_state"):
        callback.set_state(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        _set_csv_state(callback, state)
    else:
        for name in _attributes(callback):
            if name in state:
                setattr(callback, name, state[name])


def _attributes(callback: keras.callbacks.Callback) -> tuple[str, ...]:
    kinds = [names for kind, names in _ATTRIBUTES.items() if isinstance(callback, kind)]
    return kinds[0] if kinds else ()


def _csv_state(callback: keras.callbacks.CSVLogger) -> dict[str, Any]:
    if callback.csv_file is not None and not callback.csv_file.closed:
        callback.csv_file.flush()
    text = ""
    if os.path.exists(callback.filename):
        with open(callback.filename, newline="") as file:
            text = file.read()
    return {"text": text, "keys": callback.keys}


def _set_csv_state(callback: keras.callbacks.CSVLogger, state: dict[str, Any]) -> None:
    # `on_train_begin` has emptied the file, or it holds epochs that will be run again.
    if callback.csv_file is not None:
        callback.csv_file.close()
    with open(callback.filename, "w", newline="") as file:
        file.write(state["text"])
    callback.csv_file = open(callback.filename, "a", newline="")
    callback.keys = state["keys"]
    callback.append_header = not state["text"]
    callback.writer = None


def keys_of(callbacks: list[keras.callbacks.Callback]) -> list[str]:
    """Returns a name for each callback; the second of one kind has a number behind it."""
    keys, seen = [], {}
    for callback in callbacks:
        name = callback.state_key if isinstance(callback, OptkitCallback) else None
        name = name or type(callback).__name__
        seen[name] = seen.get(name, 0) + 1
        keys.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return keys
