"""Several processes that act as one: the same data, one set of callbacks that decides and writes.

All that a `fit` decides between two steps is decided by the chief: the logs of an epoch are its
logs, and training stops where it stops. The callbacks of the others run, as their state belongs to
the training, and write nothing.
"""

import contextlib
import functools
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_optkit.core.processes import Processes, processes, shared_by
from keras_optkit.distribution import preflight
from keras_optkit.distribution.replaced import replaced
from keras_optkit.stopping.resume.file import decode, encode
from keras_optkit.stopping.resume.random import random_state, set_random_state

_WRITING_METHODS = ("save", "save_weights", "export")


@contextlib.contextmanager
def one_training(
    model: keras.Model, group: Processes, method: str, arguments: dict[str, Any]
) -> Iterator[None]:
    """Lets the processes act as one in a call of a method of a model, which all of them make.

    Args:
        model: The model.
        group: The processes.
        method: String, the name of the method, such as `"fit"`.
        arguments: The arguments of the call, by name.

    Raises:
        ValueError: If the processes do not all pass the same.
    """
    if processes() is group or method.endswith("_on_batch"):
        # `fit` calls `evaluate`.
        with shared_by(group):
            yield
        return
    _check_alike(group, method, arguments)
    if method == "fit":
        # The order of the data is drawn in each process.
        state = random_state()
        state = decode(group.from_chief(lambda: encode(state)))
        if not group.is_chief:
            set_random_state(state)
    together = _Together(model, group)
    with shared_by(group), contextlib.ExitStack() as stack:
        stack.enter_context(together)
        yield


def write_nothing(model: keras.Model) -> None:
    """Lets the methods of a model that write files do nothing, as the chief writes them.

    Args:
        model: The model, in a process that is not the chief.
    """
    for name in _WRITING_METHODS:
        vars(model)[name] = _Unwritten(getattr(type(model), name))


class _Unwritten:
    """Stands on a model in the place of a method that writes a file."""

    def __init__(self, own: Callable):
        self.__name__ = own.__name__
        self.__doc__ = own.__doc__

    def __call__(self, *args, **kwargs) -> None:
        pass


def _check_alike(group: Processes, method: str, arguments: dict[str, Any]) -> None:
    """Raises, in all processes, if they call another method or pass other data or lengths."""
    own = {"method": method, "batch size": preflight.batch_size(arguments)}
    for name in ("epochs", "initial_epoch", "steps_per_epoch", "steps", "validation_steps"):
        own[name] = arguments.get(name)
    for name in ("x", "y", "sample_weight", "validation_data"):
        parts = keras.tree.flatten(arguments.get(name))
        own[f"shapes of {name}"] = [str(getattr(part, "shape", None)) for part in parts]
        # By these an order that each process has drawn for itself is noticed.
        own[f"checksum of the first and the last sample of {name}"] = _checksum(parts)
    found = group.gather(json.dumps(own, default=str).encode())

    def compare() -> bytes:
        for index, content in enumerate(found[1:], 1):
            other = json.loads(content)
            # As the others, it went through JSON.
            for name, value in json.loads(found[0]).items():
                if other[name] != value:
                    return (
                        f"Every process has to pass the same to `{method}`: the whole data, and "
                        f"the batch size of all together. The chief's {name}: {value}. Received: "
                        f"{other[name]} in process {index}"
                    ).encode()
        return b""

    problem = group.from_chief(compare)
    if problem:
        raise ValueError(problem.decode())


def _checksum(arrays: list[Any]) -> int:
    total = 0
    for part in arrays:
        if len(getattr(part, "shape", ())) and part.shape[0]:
            for end in (part[:1], part[-1:]):
                is_tensor = keras.ops.is_tensor(end)
                end = keras.ops.convert_to_numpy(end) if is_tensor else np.asarray(end)
                # The bytes of objects, such as texts, are where these lie in this process.
                content = repr(end.tolist()).encode() if end.dtype.hasobject else end.tobytes()
                total = zlib.crc32(content, total)
    return total


class _Together(contextlib.AbstractContextManager):
    """What the list of callbacks does differently while a model trains in several processes."""

    def __init__(self, model: keras.Model, group: Processes):
        self._model = model
        self._group = group
        self._stack = contextlib.ExitStack()
        self._adapted: set[int] = set()
        names = ["set_model", "set_params", "on_train_begin", "on_train_batch_end", "on_epoch_end"]
        self._own = {name: getattr(keras.callbacks.CallbackList, name) for name in names}

    def __enter__(self):
        methods = {name: self._choose(name, own) for name, own in self._own.items()}
        self._stack.enter_context(replaced(keras.callbacks.CallbackList, **methods))
        return self

    def __exit__(self, *error):
        self._stack.close()

    def _choose(self, name: str, own: Callable) -> Callable:
        ours = getattr(self, f"_{name}")

        @functools.wraps(own)
        def call(callbacks, *args, **kwargs):
            model = args[0] if name == "set_model" else getattr(callbacks, "_model", None)
            if model is not self._model:
                # A callback may train another model, in this process alone.
                return own(callbacks, *args, **kwargs)
            return ours(callbacks, functools.partial(own, callbacks), *args, **kwargs)

        return call

    def _set_model(self, callbacks, own, model):
        if not self._group.is_chief:
            for callback in callbacks.callbacks:
                if id(callback) not in self._adapted:
                    self._adapted.add(id(callback))
                    self._stack.enter_context(_writing_nothing(callback))
        own(model)

    def _set_params(self, callbacks, own, params):
        # Only the chief draws a progress bar.
        own(params if self._group.is_chief else {**params, "verbose": 0})

    def _on_train_begin(self, callbacks, own, logs=None):
        own(logs)
        epoch = getattr(self._model, "_initial_epoch", None)
        first = json.loads(self._group.from_chief(lambda: json.dumps(epoch).encode()))
        if first != epoch:
            raise RuntimeError(
                "The chief goes on with a training that this process does not find: a callback "
                "reads files that only the chief's machine has. Use `Resume`, or a folder that all "
                f"of them share. Received: epoch {first} in the chief, {epoch} here"
            )

    def _on_train_batch_end(self, callbacks, own, batch, logs=None):
        own(batch, logs)
        if not self._group.is_chief and callbacks.callbacks:
            # A thread that tells a callback must not set it behind the chief's word.
            callbacks._flush_futures()
        self._stop_with_the_chief()

    def _on_epoch_end(self, callbacks, own, epoch, logs=None):
        own(epoch, self._logs_of_the_chief(logs))
        self._stop_with_the_chief()

    def _stop_with_the_chief(self) -> None:
        model = self._model
        stop = self._group.from_chief(lambda: b"1" if model.stop_training else b"")
        if not self._group.is_chief:
            model.stop_training = bool(stop)

    def _logs_of_the_chief(self, logs: dict | None) -> dict:
        """The same sums may be rounded differently elsewhere, and a decision depend on it."""
        logs = dict(logs or {})
        numbers = {}
        for name, value in logs.items():
            # Here they may be tensors still.
            with contextlib.suppress(TypeError, ValueError):
                numbers[name] = float(value)
        chief = json.loads(self._group.from_chief(lambda: json.dumps(numbers).encode()))
        return {**logs, **chief}


@contextlib.contextmanager
def _writing_nothing(callback: keras.callbacks.Callback) -> Iterator[None]:
    """Lets a callback of Keras write nothing for a while, and decide as it does."""
    with contextlib.ExitStack() as stack:
        if isinstance(callback, keras.callbacks.ModelCheckpoint):

            def decide(epoch, batch, logs):
                callback._should_save_model(epoch, batch, logs, "")

            stack.enter_context(replaced(callback, _save_model=decide, verbose=0))
        elif isinstance(callback, keras.callbacks.BackupAndRestore):
            # It reads the chief's.
            stack.enter_context(replaced(callback, _save_model=_nothing, on_train_end=_nothing))
        elif isinstance(callback, keras.callbacks.CSVLogger):
            stack.enter_context(replaced(callback, filename=os.devnull))
        elif isinstance(callback, keras.callbacks.TensorBoard):
            folder = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            stack.enter_context(replaced(callback, log_dir=folder))
        elif isinstance(callback, keras.callbacks.RemoteMonitor):
            stack.enter_context(replaced(callback, on_epoch_end=_nothing))
        yield


def _nothing(*args, **kwargs) -> None:
    pass
