"""The callback that cuts the learning rate where a metric no longer improves."""

from typing import Any

from keras import ops

from keras_optkit.core.additions import add_variables, learning_rate_at, scale_learning_rate
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.checks import check_count
from keras_optkit.core.console import say
from keras_optkit.core.duration import parse, to_steps
from keras_optkit.core.fit_scope import settled
from keras_optkit.core.monitor import Monitor
from keras_optkit.core.optimizer import ensure_built, iterations, members, require_compiled
from keras_optkit.schedules.schedule import check_rate


class ReduceOnPlateau(OptkitCallback):
    """Cuts the learning rate when a metric has stopped improving, whatever schedule it follows.

    The arguments of `keras.callbacks.ReduceLROnPlateau`, in its order and with its meaning. The
    cut is a factor on the rate that the optimizer has, or that `callbacks.LearningRate` gives it,
    in either order of the two. It acts inside the compiled step and lasts until the end of `fit`,
    when the optimizer has its own rate back. A value that is not finite is never the best one, and
    counts as an epoch without improvement. A monitor that does not exist is told before the first
    step. Epochs without the monitored value, and those in which another callback of this package
    is still changing the model (`Pruning` on its way to the final sparsity), do not count.

    Args:
        monitor: String, the metric to watch. Defaults to `"val_loss"`.
        factor: Float in (0, 1), what the rate is multiplied with at each cut. Defaults to 0.1.
        patience: Integer >= 0, the number of counted epochs without improvement after which the
            rate is cut. Defaults to 10.
        verbose: 0 or 1; 1 says each cut in one line.
        mode: String, `"auto"`, `"min"` or `"max"`.
        min_delta: Float, the least absolute change that counts as an improvement.
        cooldown: Integer >= 0, the number of epochs after a cut that do not count.
        min_lr: Float >= 0, the rate that no cut goes below. A schedule may. Defaults to 0.
        warmup: Duration, `"2ep"`, `"500step"`, a fraction of the run or a number of steps, over
            which the rate rises from 0 on a line. Its epochs do not count. Defaults to 0.
        restore_best_weights: Boolean, whether a cut goes back to the weights of the best epoch. The
            optimizer's own state stays. Defaults to False.
        log: Boolean, whether to put `"learning_rate"`, the rate of the epoch's last update, into
            the logs of each epoch. Defaults to True.

    Attributes:
        cuts: List of integers, the epochs (from 0) at whose end the rate was cut.

    Raises:
        ValueError: At construction, if an argument is out of its range; before the first step, if
            the monitor does not exist or its direction cannot be told.

    Example:

    ```python
    callbacks = [
        keras_optkit.callbacks.LearningRate(keras_optkit.schedules.CosineDecay(0.1)),
        keras_optkit.callbacks.ReduceOnPlateau(factor=0.5, patience=3),
    ]
    model.fit(x, y, validation_split=0.2, epochs=100, callbacks=callbacks)
    ```
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
        warmup: int | float | str = 0,
        restore_best_weights: bool = False,
        log: bool = True,
    ):
        super().__init__()
        self.factor = check_rate("factor", factor)
        if not self.factor < 1:
            raise ValueError(f"`factor` must be in (0, 1). Received: factor={factor!r}")
        parse(warmup, "warmup")
        self._monitor = Monitor(monitor, mode, min_delta)
        self.monitor = monitor
        self.patience = check_count("patience", patience)
        self.verbose = verbose
        self.cooldown = check_count("cooldown", cooldown)
        self.min_lr = check_rate("min_lr", min_lr, zero=True)
        self.warmup = warmup
        self.restore_best_weights = restore_best_weights
        self.log = log
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.cooling = 0
        self.cuts: list[int] = []
        self.best_value: float | None = None
        self.best_weights: list | None = None

    def _install(self, epoch, state):
        self._reset()
        self._monitor.bind(self.model)
        optimizer = require_compiled(self.model, "ReduceOnPlateau")
        if not members(optimizer):
            # A MultiOptimizer that is made of a function learns its members when it is built.
            ensure_built(self.model, "ReduceOnPlateau")
        self._start = self._first_update(epoch, state)
        self._warmup_steps = to_steps(self.warmup, self.run, "warmup")
        # The factor before and since the last cut, and the update from which the latter holds: so
        # the rate of an update is the same whether it is asked for before or behind the cut.
        (self._factors,) = add_variables(
            self.model, optimizer, [(2,)], "float32", "ones", "plateau_factors", self._fit_scope
        )
        (self._since,) = add_variables(
            self.model, optimizer, [()], "int32", "zeros", "plateau_since", self._fit_scope
        )
        if state is not None:
            for name in ("wait", "cooling", "cuts", "best_value", "best_weights"):
                setattr(self, name, state[name])
            self._assign_factors(state["since"])
        self._optimizer = optimizer
        for member in members(optimizer):
            scale_learning_rate(member, self._scale, self._fit_scope)

    def _scale(self, rate: Any, update: Any) -> Any:
        """The rate that an update uses in place of the one that it was given."""
        before, now = self._factors[0], self._factors[1]
        factor = ops.where(ops.cast(update, "int32") < self._since, before, now)
        rate = ops.cast(rate, "float32")
        cut = ops.maximum(rate * factor, ops.minimum(rate, self.min_lr))
        if self._warmup_steps == 0:
            return cut
        done = ops.cast(update - self._start, "float32") / self._warmup_steps
        return cut * ops.minimum(done, 1.0)

    def _assign_factors(self, since: int) -> None:
        cuts = len(self.cuts)
        self._factors.assign([self.factor ** max(cuts - 1, 0), self.factor**cuts])
        self._since.assign(since)

    def on_epoch_end(self, epoch, logs=None):
        model, logs = self.model, {} if logs is None else logs
        # `self.model`, on JAX, brings the optimizer's variables up to date.
        optimizer = require_compiled(model, "ReduceOnPlateau")
        updates = iterations(optimizer)
        if self.log:
            last = max(updates - 1, self._start)
            logs["learning_rate"] = learning_rate_at(optimizer, last)
        value = self._monitor.read(logs, "ReduceOnPlateau")
        if value is None or updates - self._start < self._warmup_steps or not settled(model):
            return
        if self.cooling > 0:
            self.cooling -= 1
            self.wait = 0
        if self._monitor.better(value, self.best_value):
            self.best_value, self.wait = value, 0
            if self.restore_best_weights:
                self.best_weights = model.get_weights()
        elif self.cooling == 0:
            self.wait += 1
            if self.wait >= self.patience:
                self._cut(epoch, updates)

    def _cut(self, epoch: int, updates: int) -> None:
        before = learning_rate_at(self._optimizer, updates)
        if before <= self.min_lr * (1 + 1e-6):
            return
        self.cuts.append(epoch)
        self._assign_factors(updates)
        self.wait, self.cooling = 0, self.cooldown
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
        if self.verbose > 0:
            after = learning_rate_at(self._optimizer, updates)
            say(
                f"Epoch {epoch + 1}: ReduceOnPlateau cuts the learning rate from {before:.6g} to "
                f"{after:.6g}; best {self.monitor}: {self.best_value}"
            )

    def get_state(self) -> dict[str, Any]:
        """Returns the cuts made, the patience used up, and the best epoch's value and weights."""
        return {
            "start": self._start,
            "since": int(ops.convert_to_numpy(self._since)),
            "wait": self.wait,
            "cooling": self.cooling,
            "cuts": list(self.cuts),
            "best_value": self.best_value,
            "best_weights": self.best_weights,
        }
