"""The callback that puts a schedule into a compiled model."""

import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_optkit.core.additions import (
    drive_learning_rate,
    drive_momentum,
    learning_rate_at,
)
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.optimizer import ensure_built, iterations, members, require_compiled
from keras_optkit.schedules.schedule import Schedule, check_rate

_TABLE = keras.backend.backend() == "torch"


class LearningRate(OptkitCallback):
    """Lets a schedule give the learning rate for one `fit`, whatever the model was compiled with.

    The rate is computed inside the compiled step, so it changes with every weight update on every
    backend and costs nothing between steps. It works on a model that has already trained, under
    gradient accumulation (the schedule counts updates, not batches), loss scaling and
    `steps_per_execution`. When `fit` ends, the optimizer has its own learning rate back, and files
    that are saved in between do not mention the schedule.

    The schedule starts at the first step of the `fit` that it is passed to, at
    `initial_epoch` if there is one.

    The optimizers in a `keras.optimizers.MultiOptimizer` keep the ratios of their own rates: the
    schedule is the rate of the one whose own rate is highest.

    Args:
        schedule: A schedule of `keras_optkit.schedules`, any Keras `LearningRateSchedule`, or a
            function that takes the step (a scalar float32 tensor, counted from 0) and returns the
            rate, in `keras.ops`.
        log: Boolean, whether to put `"learning_rate"`, the rate of the epoch's last update, into
            the logs of each epoch. `"step"` also puts the rate of each step into the logs of its
            batch, which callbacks behind this one and the progress bar see, and waits for each
            step to end. Defaults to True.

    Raises:
        ValueError: Before the first step, if the model is not compiled with a Keras optimizer, if
            a duration needs the length of data that has none, or if something else in the `fit`
            sets the learning rate.

    Example:

    ```python
    schedule = keras_optkit.schedules.CosineDecay(0.1, "30ep").with_warmup("2ep")
    model.fit(x, y, epochs=30, callbacks=[keras_optkit.callbacks.LearningRate(schedule)])
    ```
    """

    def __init__(self, schedule: Callable, log: bool | str = True):
        super().__init__()
        if not callable(schedule):
            raise ValueError(
                "`schedule` must be a schedule of keras_optkit.schedules, a Keras "
                "LearningRateSchedule or a function of the step. For a constant rate, compile the "
                f"model with it. Received: schedule={schedule!r}"
            )
        if log not in (True, False, "step"):
            raise ValueError(f'`log` must be True, False or "step". Received: log={log!r}')
        self.schedule = schedule
        self.log = log
        if log == "step":
            # On the instance: with a method of the class, `fit` would call it for the others too.
            self.on_train_batch_end = self._log_rate
            self.async_safe = False

    def _install(self, epoch, state):
        optimizer = require_compiled(self.model, "LearningRate")
        if not members(optimizer):
            # A MultiOptimizer that is made of a function learns its members when it is built.
            ensure_built(self.model, "LearningRate")
        self._optimizers = members(optimizer)
        self._start = self._first_update(epoch, state)
        schedule = self._resolved()
        rate = self._since_start(self._tabulated(schedule))
        check_rate("schedule(step)", _number(rate(iterations(optimizer))), zero=True)
        self._own_rates = self._read_own_rates()
        for member, share in zip(self._optimizers, self._shares(), strict=True):
            scaled = rate if share == 1 else lambda update, share=share: rate(update) * share
            drive_learning_rate(member, scaled, self._fit_scope)
            if getattr(schedule, "cycle_momentum", False):
                drive_momentum(member, self._since_start(schedule.momentum), self._fit_scope)

    def _tabulated(self, schedule: Callable) -> Callable:
        """The same schedule; on torch, whose steps are not compiled, from a table of the run."""
        steps = self.run.steps
        if not _TABLE or not isinstance(schedule, Schedule) or steps not in range(1, 10**7):
            return schedule
        table = schedule.table(steps)
        if table is None:
            return schedule
        return lambda step: table[keras.ops.minimum(step, steps - 1)]

    def _since_start(self, function: Callable) -> Callable:
        return lambda update: function(update - self._start)

    def _shares(self) -> list[float]:
        """Each optimizer's rate as a share of the schedule's."""
        if len(self._optimizers) == 1:
            return [1]
        if None in self._own_rates or max(self._own_rates) <= 0:
            raise ValueError(
                "Optimizers in a MultiOptimizer keep the ratios of their learning rates under "
                "`LearningRate`, so these must be numbers. Received: learning rates "
                f"{[optimizer._learning_rate for optimizer in self._optimizers]}"
            )
        return [rate / max(self._own_rates) for rate in self._own_rates]

    def _resolved(self) -> Callable:
        if not isinstance(self.schedule, keras.optimizers.schedules.LearningRateSchedule):
            # Python numbers do not mix with TensorFlow's int64 counter, and do with a float.
            return lambda step: self.schedule(keras.ops.cast(step, "float32"))
        if not isinstance(self.schedule, Schedule):
            return self.schedule
        schedule = self.schedule.resolve(self.run)
        steps = self.run.steps
        if schedule.end is not None and steps is not None and schedule.end > steps:
            warnings.warn(
                f"The schedule lasts {schedule.end} steps and this fit only {steps}, so it will "
                f"not come to its end. Received: schedule={self.schedule!r}",
                stacklevel=2,
            )
        return schedule

    def _read_own_rates(self) -> list[float | None]:
        rates = [optimizer._learning_rate for optimizer in self._optimizers]
        return [_number(rate) if isinstance(rate, keras.Variable) else None for rate in rates]

    def on_epoch_end(self, epoch, logs=None):
        if self._read_own_rates() != self._own_rates:
            raise ValueError(
                "Another callback assigned the optimizer's learning rate, which has no effect "
                "while `LearningRate` drives it. Remove one of the two; for a rate that is cut on "
                "a plateau use `keras_optkit.callbacks.ReduceOnPlateau`. Received: "
                f"optimizer.learning_rate={self._read_own_rates()}"
            )
        if self.log and logs is not None:
            self._log_rate(epoch, logs)

    def _log_rate(self, index, logs=None):
        # `self.model`, on JAX, brings the optimizer's variables up to date.
        optimizer = require_compiled(self.model, "LearningRate")
        last = max(iterations(optimizer) - 1, self._start)
        logs["learning_rate"] = learning_rate_at(optimizer, last)

    def get_state(self) -> dict[str, Any]:
        """Returns the update at which the schedule started."""
        return {"start": self._start}


def _number(value: Any) -> float:
    return float(keras.ops.convert_to_numpy(value))
