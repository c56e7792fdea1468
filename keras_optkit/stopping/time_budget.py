"""Training that ends before its time is up."""

import math
import numbers
import re
import time
from typing import Any

from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.console import say
from keras_optkit.stopping.reasons import StopReason

_TEXT = re.compile(r"\s*(?:([\d.]+)\s*h)?\s*(?:([\d.]+)\s*min)?\s*(?:([\d.]+)\s*s)?\s*")


def to_seconds(time: float | str, name: str = "seconds") -> float:
    """Converts a time to seconds.

    Args:
        time: A number of seconds > 0, or a string such as `"90min"`, `"1h30min"` or `"45s"`.
        name: The argument's name, for the message.

    Raises:
        ValueError: If it is neither.

    Example:

    >>> to_seconds("1h30min")
    5400.0
    """
    seconds = math.nan
    if isinstance(time, str) and time.strip() and (match := _TEXT.fullmatch(time)):
        try:
            hours, minutes, rest = (float(part or 0) for part in match.groups())
            seconds = 3600 * hours + 60 * minutes + rest
        except ValueError:
            pass
    elif isinstance(time, numbers.Real) and not isinstance(time, bool):
        seconds = float(time)
    if not 0 < seconds < math.inf:
        raise ValueError(
            f'`{name}` must be a number of seconds > 0, or a time such as "90min", "1h30min" or '
            f'"45s". Received: {name}={time!r}'
        )
    return seconds


class Budget:
    """What epochs have taken so far, and whether another one fits into a budget.

    Times are seconds since the training began, in the order in which they come.

    Args:
        seconds: Float, the budget.
        reserve: Float, how much of it stays free, or `None` for as long as the longest epoch's
            end (validation and callbacks) took.
    """

    def __init__(self, seconds: float, reserve: float | None = None):
        self.seconds = seconds
        self.reserve = reserve
        self.longest_epoch = 0.0
        self.longest_end = 0.0
        self._begin: float | None = None
        self._last_batch: float | None = None

    def epoch_begins(self, now: float) -> None:
        """Takes the time at which an epoch begins, which is when the one before has ended."""
        self._see(now)
        self._begin, self._last_batch = now, None

    def batch_ended(self, now: float) -> None:
        """Takes the time at which a batch of the epoch ended."""
        # `fit` may tell of batches from several threads.
        self._last_batch = max(now, self._last_batch or 0.0)

    def fits_another_epoch(self, now: float) -> bool:
        """Returns whether an epoch as long as the longest so far can begin now."""
        self._see(now)
        return now + self.longest_epoch + self.kept_free <= self.seconds

    def fits_another_batch(self, now: float) -> bool:
        """Returns whether there is more time than the end of an epoch takes."""
        return now + self.longest_end + self.kept_free <= self.seconds

    @property
    def kept_free(self) -> float:
        """How much time is to be left at the end of training."""
        return self.longest_end if self.reserve is None else self.reserve

    def _see(self, now: float) -> None:
        if self._begin is None:
            return
        self.longest_epoch = max(self.longest_epoch, now - self._begin)
        if self._last_batch is not None:
            self.longest_end = max(self.longest_end, now - self._last_batch)


class TimeBudget(OptkitCallback):
    """Stops training before a time budget is overrun.

    After each epoch it asks whether another one still fits, as long as the longest so far with its
    validation and all that the callbacks do, such as saving. Within an epoch it stops where the
    budget would be overrun before the epoch's end, so one that is unexpectedly long (the first
    one, say) does not overrun it either; validation and the end of that epoch then still take
    place. How long these take is not known in the first epoch: where that matters, set `reserve`.
    Time starts with the `fit`. In a run that is resumed, the time used before counts.

    Args:
        seconds: The budget: a number of seconds > 0, or a time such as `"90min"` or `"1h30min"`.
        reserve: What to leave free of it at the end, for what follows `fit`, in the same notation.
            `None` is as long as the longest end of an epoch so far: its validation and callbacks.
        verbose: 0 or 1; 1 says in one line when the budget stops training.

    Attributes:
        used: Float, the seconds used so far, those before a resume included.
        stopped_reason: `StopReason.TIME_BUDGET` after a `fit` that it stopped, else `None`.
        paused: Boolean, whether it stopped the `fit`, so that `Resume` may go on with it under a
            larger budget.
        explanation: String, one line of why it stopped.

    Raises:
        ValueError: If a time is malformed, or the reserve is not below the budget.

    Example:

    ```python
    budget = keras_optkit.callbacks.TimeBudget("90min", reserve="2min")
    model.fit(x, y, epochs=1000, callbacks=[budget])
    ```
    """

    def __init__(self, seconds: float | str, reserve: float | str | None = None, verbose: int = 0):
        super().__init__()
        self.seconds = to_seconds(seconds)
        self.reserve = None if reserve is None else to_seconds(reserve, "reserve")
        if self.reserve is not None and self.reserve >= self.seconds:
            raise ValueError(
                "`reserve` is a part of the budget and must be below it. Received: "
                f"seconds={seconds!r}, reserve={reserve!r}"
            )
        self.verbose = verbose
        self._reset()

    def _reset(self) -> None:
        self._budget = Budget(self.seconds, self.reserve)
        self._started: float | None = None
        self._used = 0.0
        self._epoch = 0
        self.stopped_reason: StopReason | None = None

    @property
    def used(self) -> float:
        """The seconds used so far."""
        since = 0.0 if self._started is None else time.monotonic() - self._started
        return self._used + since

    @property
    def paused(self) -> bool:
        """Whether it stopped the `fit`, which is then not at its end."""
        return self.stopped_reason is not None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._reset()
        self._started = time.monotonic()

    def _install(self, epoch, state):
        if state is not None:
            self._used = state["used"]
            self._budget.longest_epoch = state["longest_epoch"]
            self._budget.longest_end = state["longest_end"]

    def on_epoch_begin(self, epoch, logs=None):
        super().on_epoch_begin(epoch, logs)
        self._epoch = epoch
        self._budget.epoch_begins(self.used)

    def on_train_batch_end(self, batch, logs=None):
        now = self.used
        self._budget.batch_ended(now)
        if self.stopped_reason is None and not self._budget.fits_another_batch(now):
            self._stop()

    def on_epoch_end(self, epoch, logs=None):
        # Behind the last epoch there is nothing to stop.
        fits = self._budget.fits_another_epoch(self.used) or epoch + 1 >= self.params["epochs"]
        if self.stopped_reason is None and not fits:
            self._stop()

    def _stop(self) -> None:
        self.stopped_reason = StopReason.TIME_BUDGET
        self._stopped_epoch = self._epoch
        # Not `self.model`, which on JAX moves the state of a step that may be running.
        self._model.stop_training = True

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        self._used, self._started = self.used, None
        if self.verbose > 0 and self.stopped_reason is not None:
            say(self.explanation)

    @property
    def explanation(self) -> str:
        """One line of why it stopped."""
        if self.stopped_reason is None:
            return f"The time budget of {self.seconds:g} s did not stop training."
        return (
            f"Training ended: {self.stopped_reason.value} (epoch {self._stopped_epoch + 1}). "
            f"{self.used:.4g} s of {self.seconds:g} s are used; the longest epoch took "
            f"{self._budget.longest_epoch:.4g} s."
        )

    def get_state(self) -> dict[str, Any]:
        """Returns the time used, and what the longest epoch took."""
        return {
            "used": self.used,
            "longest_epoch": self._budget.longest_epoch,
            "longest_end": self._budget.longest_end,
        }
