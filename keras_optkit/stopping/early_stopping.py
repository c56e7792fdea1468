"""Early stopping that a NaN, a typo or a second `fit` does not lead astray."""

import enum
import math
from typing import Any

from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.checks import check_count
from keras_optkit.core.console import say
from keras_optkit.core.fit_scope import settled
from keras_optkit.core.monitor import Monitor
from keras_optkit.core.weights import weights_at_end


class StopReason(enum.Enum):
    """Why a `fit` ended."""

    COMPLETED = "all epochs were run"
    PATIENCE = "no improvement within the patience"
    NOT_FINITE = "the monitored value was not finite"


class EarlyStopping(OptkitCallback):
    """Stops training when a metric no longer improves.

    The arguments of `keras.callbacks.EarlyStopping`, in its order, with its meaning, and with
    these differences. A value that is not finite is never the best one. A monitor that does not
    exist, or whose direction cannot be told, is an error before the first step. Epochs without the
    monitored value (`validation_freq`) do not count towards the patience, and neither do epochs in
    which another callback of this package is still changing the model (`Pruning` on its way to the
    final sparsity): the best weights are weights that the run may end with. Under an optimizer
    with `use_ema=True` the weights that are kept are the averaged ones, as at the end of `fit`.

    Args:
        monitor: String, the metric to watch. Defaults to `"val_loss"`.
        min_delta: Float, the least absolute change that counts as an improvement.
        patience: Integer >= 0, the number of evaluated epochs without improvement after which
            training stops.
        verbose: 0 or 1; 1 says in one line why training stopped.
        mode: String, `"auto"`, `"min"` or `"max"`.
        baseline: Float or `None`, the value that has to be beaten for the patience to start anew.
        restore_best_weights: Boolean, whether `fit` ends with the weights of the best epoch.
        start_from_epoch: Integer >= 0, the first epoch that counts.
        check_finite: What a NaN or an infinite value does: `"ignore"` (an epoch without
            improvement), `"stop"` or `"raise"`.

    Attributes:
        stopped_reason: A `StopReason`, after `fit`.
        stopped_epoch: Integer, the epoch (from 0) that training was stopped in; 0 if it was not.
        best_epoch: Integer, the best epoch (from 0), or `None` if none counted.
        best_value: Float, the metric in the best epoch, or `None`.

    Raises:
        ValueError: At construction, if an argument is out of its range; before the first step, if
            the monitor does not exist or its direction cannot be told.
        FloatingPointError: In `fit`, at a value that is not finite, with `check_finite="raise"`.

    Example:

    ```python
    stop = keras_optkit.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    model.fit(x, y, validation_split=0.2, epochs=100, callbacks=[stop])
    stop.stopped_reason  # StopReason.PATIENCE
    ```

    Reference:
        Prechelt, "Early Stopping - But When?", 1998.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        check_finite: str = "ignore",
    ):
        super().__init__()
        if check_finite not in ("ignore", "stop", "raise"):
            raise ValueError(
                '`check_finite` must be "ignore", "stop" or "raise". '
                f"Received: check_finite={check_finite!r}"
            )
        self._monitor = Monitor(monitor, mode, min_delta)
        self.monitor = monitor
        self.patience = check_count("patience", patience)
        self.verbose = verbose
        self.baseline = baseline
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = check_count("start_from_epoch", start_from_epoch)
        self.check_finite = check_finite
        self._reset()

    def _reset(self) -> None:
        self.wait = 0
        self.best_value: float | None = None
        self.best_epoch: int | None = None
        self.best_weights: list | None = None
        self.stopped_epoch = 0
        self.stopped_reason: StopReason | None = None

    def _install(self, epoch, state):
        self._reset()
        self._monitor.bind(self.model)
        if state is not None:
            for name in ("wait", "best_value", "best_epoch", "best_weights"):
                setattr(self, name, state[name])

    def on_epoch_end(self, epoch, logs=None):
        value = self._monitor.read(logs or {}, "EarlyStopping")
        if value is None or epoch < self.start_from_epoch or not settled(self.model):
            return
        if not math.isfinite(value) and self.check_finite != "ignore":
            if self.check_finite == "raise":
                raise FloatingPointError(f"Epoch {epoch + 1}: {self.monitor} is {value}")
            self._stop(epoch, StopReason.NOT_FINITE)
            return
        self.wait += 1
        if self._monitor.better(value, self.best_value):
            self.best_value, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = weights_at_end(self.model)
            if self.baseline is None or self._monitor.better(value, self.baseline):
                self.wait = 0
                return
        elif self.wait >= self.patience and epoch > 0:
            self._stop(epoch, StopReason.PATIENCE)

    def _stop(self, epoch: int, reason: StopReason) -> None:
        self.stopped_epoch = epoch
        self.stopped_reason = reason
        self.model.stop_training = True

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self.stopped_reason is None:
            self.stopped_reason = StopReason.COMPLETED
        if self.restore_best_weights and self.best_weights is not None:
            self.model.set_weights(self.best_weights)
        if self.verbose > 0:
            say(self.explanation)

    @property
    def explanation(self) -> str:
        """One line of why training ended and which epoch was best."""
        if self.stopped_reason is None:
            return "Training has not ended."
        line = f"Training ended: {self.stopped_reason.value}"
        if self.stopped_reason is not StopReason.COMPLETED:
            line += f" (epoch {self.stopped_epoch + 1})"
        if self.best_epoch is None:
            return f"{line}. No epoch counted."
        line += f". Best {self.monitor}: {self.best_value:.6g} in epoch {self.best_epoch + 1}"
        return line + (", whose weights are restored." if self.best_weights is not None else ".")

    def get_state(self) -> dict[str, Any]:
        """Returns the patience used up, and the best epoch with its value and weights."""
        return {
            "wait": self.wait,
            "best_value": self.best_value,
            "best_epoch": self.best_epoch,
            "best_weights": self.best_weights,
        }
