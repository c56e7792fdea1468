"""The callback with which a training that was killed goes on as if it had not been."""

import os
import pathlib
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras.ops import convert_to_numpy

from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.console import say
from keras_optkit.core.duration import Run
from keras_optkit.core.fit_scope import FitScope
from keras_optkit.core.optimizer import require_compiled, updates_per_batch
from keras_optkit.core.processes import processes
from keras_optkit.stopping.epoch_boundary import replace_methods
from keras_optkit.stopping.resume.callbacks import get_state, keeps_state, keys_of, set_state
from keras_optkit.stopping.resume.data import DataOrder, build_from
from keras_optkit.stopping.resume.every import Every
from keras_optkit.stopping.resume.file import NewerFormatError, Store, decode, encode
from keras_optkit.stopping.resume.fit import RunningFit, inside_fit
from keras_optkit.stopping.resume.settings import changes, settings
from keras_optkit.stopping.resume.weights import (
    check_same_model,
    describe_variables,
    learning_rates,
    put_back_metrics,
    put_back_variables,
    take_metrics,
    take_variables,
)

# How many `fit`s into each directory have come to their end in this process: the next one goes on
# with the next training that a killed process left there.
_ENDED: dict[str, int] = {}


class Position(NamedTuple):
    """Where a training goes on: the epoch and the batch in it that come next, from 0."""

    epoch: int
    batch: int


class Resume(keras.callbacks.Callback):
    """Lets a training that was killed go on, at its next start, as if nothing had happened.

    The script stays as it is: run it again, with the same `epochs`. Weights and optimizer come back
    byte for byte, and with them metrics in progress, the epoch and the batch, the state of every
    callback, the history, the states of random numbers and the order of the data. A run that had
    come to its end is recognised: `fit` returns at once, with the whole history and the final
    weights. A later `fit` in the same script has its own state in the same directory.

    What you change between two starts (epochs, the learning rate, a callback's patience) holds, and
    is told in one line. A run that a callback had stopped goes on only if a setting of a callback
    was changed. The state is written to a temporary file, synced and renamed, with a checksum; the
    last two are kept, and where the newer is damaged the older is used. SIGTERM saves, and ends the
    process with exit code 143.

    What it cannot bring back: random numbers that a `map` of a `tf.data` pipeline draws from
    variables outside the model, the order of data that is shuffled without a seed, and on torch
    those that a `PyDataset` draws while it makes an item. Without `keras.utils.set_random_seed`,
    Keras on TensorFlow shuffles arrays in such an order.

    Of several processes that train together, the chief saves and reads, and all go on there.

    Args:
        directory: String or path, where the state is kept; one directory for each training. It is
            made where it is missing.
        callbacks: Callbacks whose state must be kept: an error says where that is not possible.
            They take part in the `fit` even if they are not in its own list. `None` keeps the
            state of every callback of the `fit` that has one.
        every: How often to save: `"2ep"`, `"500step"` or a number of steps (updates), a fraction of
            the run, or a time as in `"30s"`, `"10min"`, `"1h"`. Defaults to every epoch. The end of
            the run is saved in any case.
        verbose: 0 or 1; 1 says in one line where training goes on. Problems are always told.

    Attributes:
        resumed_from: A `Position(epoch, batch)`, or `None` if training began afresh.
        save_seconds: List of floats, how long each save took.

    Raises:
        ValueError: At construction, if `every` is malformed; before the first step, if the
            directory is a file, cannot be written to, or holds the training of another model or a
            state of a newer format.

    Example:

    ```python
    callbacks = [
        keras.callbacks.EarlyStopping(patience=5),
        keras_optkit.callbacks.Resume("runs/digits", every="10min"),
    ]
    model.fit(x, y, validation_split=0.2, epochs=100, callbacks=callbacks)
    ```
    """

    # Nothing here needs the logs of a single batch, so `fit` need not wait for them.
    async_safe = True

    def __init__(
        self,
        directory: str | os.PathLike,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        every: int | float | str = "1ep",
        verbose: int = 1,
    ):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.callbacks = None if callbacks is None else list(callbacks)
        self.every = every
        self.verbose = verbose
        self.resumed_from: Position | None = None
        self.save_seconds: list[float] = []
        self._every = Every(every)
        self._scope: FitScope | None = None
        for callback in self.callbacks or []:
            if not keeps_state(callback):
                raise ValueError(
                    "`Resume` does not know the state of this callback. Give it the methods "
                    "`get_state()` and `set_state(state)`, see keras_optkit.core.state. "
                    f"Received: callbacks=[..., {callback!r}, ...]"
                )

    def on_train_begin(self, logs=None):
        if self._scope is not None:
            self._scope.close()
        self._scope = FitScope(self.model, self)
        try:
            self._begin()
        except BaseException:
            self._scope.close()
            raise

    def _begin(self) -> None:
        self._key = os.path.realpath(self.directory)
        self._store = Store(self.directory, _ENDED.get(self._key, 0))
        processes().from_chief(self._prepare_store)
        self._fit = RunningFit()
        self._siblings, missing = self._find_siblings()
        self._data = DataOrder(self._fit.epochs)
        self._state = self._read()
        self._first_epoch, self._batches_before = 0, 0
        self._settings = settings(self.model, self._siblings, self.params["epochs"])
        self._ended = self._fresh = False
        self.resumed_from, self.save_seconds = None, []
        self._own_initial_epoch = getattr(self.model, "_initial_epoch", None)
        if self._state is not None:
            self._prepare_to_go_on()
        self._first, self._last = _Before(self), _Behind(self)
        self._fit.surround(self._first, self._last, missing)
        for callback in missing:
            callback.on_train_begin()
        self._begun = False
        self._signal = _Terminated()

    def _prepare_store(self) -> bytes:
        self._store.prepare()
        return b""

    def _find_siblings(self) -> tuple[list, list]:
        """The callbacks whose state is kept, and those of them that `fit` was not given."""
        present = [callback for callback in self._fit.callbacks if callback is not self]
        for callback in present:
            if isinstance(callback, (Resume, keras.callbacks.BackupAndRestore)):
                raise ValueError(
                    "Two callbacks would resume this training; keep one of them. "
                    f"Received: {self!r} beside {callback!r}"
                )
        missing = [c for c in self.callbacks or [] if not any(c is other for other in present)]
        if self.callbacks is not None:
            history = [c for c in present if isinstance(c, keras.callbacks.History)]
            return [*history, *self.callbacks], missing
        for callback in present:
            if not keeps_state(callback):
                say(
                    f"Resume does not know the state of {type(callback).__name__}, which begins "
                    "anew at each start. Give it `get_state()` and `set_state(state)`."
                )
        return [callback for callback in present if keeps_state(callback)], missing

    def _read(self) -> dict[str, Any] | None:
        group = processes()
        if group.count == 1:
            return self._read_store()

        def content() -> bytes:
            state = self._read_store()
            return b"" if state is None else encode(state)

        found = group.from_chief(content)
        return decode(found) if found else None

    def _read_store(self) -> dict[str, Any] | None:
        try:
            state, problems = self._store.read()
        except NewerFormatError as error:
            raise ValueError(
                f"The state cannot be read: {error}. Received: directory={str(self.directory)!r}"
            ) from error
        for problem in problems:
            say(f"Resume: {problem}.")
        if problems:
            say(f"Resume: {'the state before is used' if state else 'training begins anew'}.")
        return state

    def _prepare_to_go_on(self) -> None:
        state, epochs = self._state, self.params["epochs"]
        build_from(self.model, self._fit.epochs)
        check_same_model(self.model, state["described"], str(self.directory))
        changed = changes(state["settings"], self._settings)
        about_callbacks = [n for n in changed if n != "epochs" and not n.startswith("optimizer")]
        epoch, batch = state["epoch"], self._batch_of(state)
        self._ended = epoch >= epochs or (state["stopped"] and not about_callbacks)
        self.resumed_from = Position(epoch, batch)
        # Should `fit` not come to its first epoch, a later one must not begin at this one.
        self._scope.on_close(self._give_back_initial_epoch)
        # The way by which Keras lets a callback choose the first epoch.
        self.model._initial_epoch = max(epochs, 1) if self._ended else epoch
        self._rate_changed = any(name.endswith("learning_rate") for name in changed)
        if self.verbose > 0:
            where = f"epoch {epoch + 1}" + (f", batch {batch + 1}" if batch else "")
            line = "the run had ended" if self._ended else f"training goes on in {where}"
            say(f"Resume: {line} ({self.directory}).")
        if changed:
            say(f"Resume: changed since the last start: {'; '.join(changed.values())}.")

    def _batch_of(self, state: dict[str, Any]) -> int:
        """The next batch; where an epoch has another number of batches now, as far through it."""
        before, now = state["data"]["batches"], self._data.batches
        if state["batch"] == 0 or before == now or None in (before, now):
            return state["batch"]
        batch = round(state["batch"] * now / before)
        say(
            f"Resume: an epoch had {before} batches at the last start and has {now} now. Training "
            "goes on as far through the epoch, but not as if nothing had happened."
        )
        return batch

    def _before_epoch(self, epoch: int) -> None:
        if not self._begun:
            self._give_back_initial_epoch()
            if self._state is None:
                self._first_epoch = epoch
            else:
                self._go_on()
            self._begin_to_count()
        self._data.begin_epoch()
        self._epoch, self._batch = epoch, 0

    def _begin_to_count(self) -> None:
        optimizer = getattr(self.model, "optimizer", None)
        updates = 1.0
        if isinstance(optimizer, keras.optimizers.Optimizer):
            updates = updates_per_batch(require_compiled(self.model, "Resume"))
        batches = self.params.get("steps")
        steps = None if batches is None else batches * updates
        done = self._batches_before + (self.resumed_from.batch if self.resumed_from else 0)
        self._every.start(Run(self.params["epochs"], steps), updates, done)

    def _go_on(self) -> None:
        state = self._state
        self._first_epoch, self._batches_before = state["first_epoch"], state["batches_before"]
        self._put_back()
        for callback, own in self._own_states():
            set_state(callback, own)
        epoch, batch = self.resumed_from
        if batch == 0:
            # What the metrics held was of the epoch before.
            self.model.reset_metrics()
        self._data.go_to(epoch - self._first_epoch, batch, state["data"])
        if batch > 0:
            # Where the data ends at this very batch, `fit` has no logs of a batch to report.
            model, name = self.model, "_get_metrics_result_or_logs"
            replace_methods(
                model,
                {name: lambda own, logs: own(logs or model.get_metrics_result())},
                self._scope,
            )

    def _put_back(self) -> None:
        # Not `float(rate)`: under a distribution it is a variable of several devices.
        own = [None if rate is None else convert_to_numpy(rate) for rate in self._rates()]
        put_back_variables(self.model, self._state["variables"])
        self._put_back_metrics()
        if self._rate_changed:
            for rate, value in zip(self._rates(), own, strict=True):
                if rate is not None:
                    rate.assign(value)

    def _put_back_metrics(self) -> None:
        """What the metrics of each process have seen of the epoch so far."""
        group, parts = processes(), self._state.get("metrics", [None])
        if len(parts) == group.count:
            if group.count > 1:
                put_back_metrics(self.model, parts[group.index])
        elif self._state["batch"] > 0:
            say(
                f"Resume: {len(parts)} processes trained at the last start, and {group.count} do "
                "now. The metrics of this epoch are those of the rest of it."
            )
            self.model.reset_metrics()

    def _rates(self) -> list:
        return learning_rates(self.model)

    def _own_states(self) -> list[tuple[keras.callbacks.Callback, dict]]:
        stored = self._state["callbacks"]
        keys = keys_of(self._siblings)
        return [(c, stored[k]) for c, k in zip(self._siblings, keys, strict=True) if k in stored]

    def _behind_epoch_begin(self) -> None:
        if not self._begun and self.resumed_from is not None and self.resumed_from.batch > 0:
            # What callbacks do at the begin of this epoch they had done before.
            self._put_back()
            for callback, own in self._own_states():
                if not hasattr(callback, "set_state"):
                    set_state(callback, own)
        self._begun = True

    def _before_batch(self, batch: int) -> None:
        self._batch = batch
        if batch == 0:
            return
        done = self._batches_before + batch
        if self._agreed(self._every.due(done)):
            self._fit.wait_for_callbacks()
            self._save(self._epoch, batch, stopped=False)
        self._signal.end_if_arrived()

    def _end_of_epoch(self, epoch: int) -> None:
        batches = self._data.batches
        self._batches_before += batches if batches is not None else self._batch
        stopped = self.model.stop_training
        last = stopped or epoch + 1 >= self.params["epochs"]
        due = self._every.due_at_end_of(epoch, self._batches_before)
        if self._agreed(last or due):
            paused = any(getattr(callback, "paused", False) for callback in self._siblings)
            self._save(epoch + 1, 0, stopped=stopped and not paused)
        self._signal.end_if_arrived()

    def _agreed(self, due: bool) -> bool:
        """Whether to save now: if the chief has to, or a process is to end, which then all are."""
        group = processes()
        self._signal.arrived = group.any(self._signal.arrived)
        due = bool(group.from_chief(lambda: b"1" if due else b""))
        return due or self._signal.arrived

    def _save(self, epoch: int, batch: int, stopped: bool) -> None:
        start = time.perf_counter()
        # `self.model`, on JAX, brings the variables up to date.
        model = self.model
        keys = keys_of(self._siblings)
        group, metrics = processes(), {}
        if group.count > 1:
            found = group.gather(encode({"metrics": take_metrics(model)}))
            if not group.is_chief:
                self._every.saved(self._batches_before + batch)
                return
            metrics = {"metrics": [decode(content)["metrics"] for content in found]}
        state = {
            **metrics,
            "epoch": epoch,
            "batch": batch,
            "stopped": stopped,
            "first_epoch": self._first_epoch,
            "batches_before": self._batches_before,
            "described": describe_variables(model),
            "variables": take_variables(model),
            "data": self._data.get_state(),
            "callbacks": {k: get_state(c) for k, c in zip(keys, self._siblings, strict=True)},
            "settings": self._settings,
        }
        try:
            self._store.write(state)
        except OSError as error:
            say(f"Resume: not saved, the last state before is kept: {error}.")
        self._every.saved(self._batches_before + batch)
        self.save_seconds.append(time.perf_counter() - start)

    def _before_train_end(self) -> None:
        if self._begun or not self._ended:
            return
        # No epoch was run. What follows is the end of the run, as it was at the end of the last.
        self._put_back()
        self._data.put_back_end(self._state["data"])
        for callback, own in self._own_states():
            set_state(callback, own)
            if isinstance(callback, OptkitCallback):
                callback.on_epoch_begin(self._state["epoch"] - 1)
        self._put_back()
        self.model.stop_training = self._state["stopped"]
        optimizer = getattr(self.model, "optimizer", None)
        if isinstance(optimizer, keras.optimizers.Optimizer):
            optimizer.finalize_variable_values(self.model.trainable_weights)

    def _give_back_initial_epoch(self) -> None:
        self.model._initial_epoch = self._own_initial_epoch

    def _behind_train_end(self) -> None:
        self._fit.remove(self._first, self._last)
        self._signal.give_back()
        self._scope.close()
        self._scope = self._state = self._fit = self._data = None
        _ENDED[self._key] = _ENDED.get(self._key, 0) + 1


class _Before(keras.callbacks.Callback):
    """Acts before all other callbacks."""

    def __init__(self, resume: Resume):
        super().__init__()
        self._resume = resume

    def on_epoch_begin(self, epoch, logs=None):
        self._resume._before_epoch(epoch)

    def on_train_batch_begin(self, batch, logs=None):
        # Here every callback has seen the batch before, and none the one that comes.
        self._resume._before_batch(batch)

    def on_train_end(self, logs=None):
        self._resume._before_train_end()


class _Behind(keras.callbacks.Callback):
    """Acts behind all other callbacks."""

    def __init__(self, resume: Resume):
        super().__init__()
        self._resume = resume

    def on_epoch_begin(self, epoch, logs=None):
        self._resume._behind_epoch_begin()

    def on_epoch_end(self, epoch, logs=None):
        self._resume._end_of_epoch(epoch)

    def on_train_end(self, logs=None):
        self._resume._behind_train_end()


class _Terminated:
    """Notes a SIGTERM, which ends the process where the training can be saved."""

    def __init__(self):
        self.arrived = False
        before = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if isinstance(before, _Terminated):
            # It was left by a `fit` that an exception ended.
            before.give_back()
        self._before = signal.getsignal(signal.SIGTERM)
        # Only the main thread may set a handler. Who ignores the signal means to.
        usable = threading.current_thread() is threading.main_thread()
        self._set = usable and self._before not in (signal.SIG_IGN, None)
        if self._set:
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, number, frame):
        self.arrived = True
        if not inside_fit(frame):
            # An exception ended the `fit`, and nothing waits for the signal any more.
            self.give_back()
            signal.raise_signal(number)

    def end_if_arrived(self) -> None:
        """Ends the process if the signal has come, after the handler that was there before."""
        if self.arrived:
            self.give_back()
            if callable(self._before):
                self._before(signal.SIGTERM, None)
            raise SystemExit(128 + signal.SIGTERM)

    def give_back(self) -> None:
        """Sets the handler that was there before."""
        if self._set:
            self._set = False
            signal.signal(signal.SIGTERM, self._before)
