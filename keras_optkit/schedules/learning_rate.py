"""The callback that puts a schedule into a compiled model."""

import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.optimizer import drive_learning_rate, iterations, require_compiled
from keras_optkit.schedules.schedule import Schedule, check_rate


class LearningRate(OptkitCallback):
    """Lets a schedule give the learning rate for one `fit`, whatever the model was compiled with.

    The rate is computed inside the compiled step, so it changes with every weight update on every
    backend and costs nothing between steps. It works on a model that has already trained, under
    gradient accumulation (the schedule counts updates, not batches), loss scaling and
    `steps_per_execution`. When `fit` ends, the optimizer has its own learning rate back, and files
    that are saved in between do not mention the schedule.

    The schedule starts at the first step of the `fit` that it is passed to, at
    `initial_epoch` if there is one.

    Args:
        schedule: A schedule of `keras_optkit.schedules`, any Keras `LearningRateSchedule`, or a
            function that takes the step (a scalar float32 tensor, counted from 0) and returns the
            rate, in `keras.ops`.
        log: Boolean, whether to put `"learning_rate"`, the rate of the epoch's last update, into
            the logs of each epoch. Defaults to True.

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

    def __init__(self, schedule: Callable, log: bool = True):
        super().__init__()
        if not callable(schedule):
            raise ValueError(
                "`schedule` must be a schedule of keras_optkit.schedules, a Keras "
                "LearningRateSchedule or a function of the step. For a constant rate, compile the "
                f"model with it. Received: schedule={schedule!r}"
            )
        self.schedule = schedule
        self.log = log

    def _install(self, epoch, state):
        optimizer = require_compiled(self.model, "LearningRate")
        if isinstance(optimizer, keras.optimizers.MultiOptimizer):
            raise ValueError(
                "`LearningRate` sets one rate, and a MultiOptimizer has several. Give each of its "
                f"optimizers a schedule of its own. Received: optimizer={optimizer!r}"
            )
        self._start = self._first_update(epoch, state)
        schedule = self._resolved()
        self._rate_at = lambda update: schedule(update - self._start)
        _check_rate_at(schedule, iterations(optimizer) - self._start)
        self._optimizer = optimizer
        self._own_rate = self._read_own_rate()
        drive_learning_rate(optimizer, self._rate_at, self._fit_scope)

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

    def _read_own_rate(self) -> float | None:
        own = self._optimizer._learning_rate
        return float(keras.ops.convert_to_numpy(own)) if isinstance(own, keras.Variable) else None

    def on_epoch_end(self, epoch, logs=None):
        if self._read_own_rate() != self._own_rate:
            raise ValueError(
                "Another callback assigned the optimizer's learning rate, which has no effect "
                "while `LearningRate` drives it. Remove one of the two. Received: "
                f"optimizer.learning_rate={self._read_own_rate()}"
            )
        if self.log and logs is not None:
            last = max(iterations(self._optimizer) - 1, self._start)
            logs["learning_rate"] = float(keras.ops.convert_to_numpy(self._rate_at(last)))

    def get_state(self) -> dict[str, Any]:
        """Returns the update at which the schedule started."""
        return {"start": self._start}


def _check_rate_at(schedule: Callable, step: int) -> None:
    """Calls a schedule once, so that what is wrong with it is told before the first step."""
    check_rate("schedule(step)", keras.ops.convert_to_numpy(schedule(step)), zero=True)
