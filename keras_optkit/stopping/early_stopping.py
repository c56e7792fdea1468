"""Early stopping that a NaN, a typo or a second `fit` does not lead astray."""

import math
import os
from collections.abc import Sequence
from typing import Any

from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.checks import check_count
from keras_optkit.core.console import say
from keras_optkit.core.duration import parse
from keras_optkit.core.fit_scope import settled
from keras_optkit.core.monitor import Monitor
from keras_optkit.core.optimizer import iterations, require_compiled
from keras_optkit.stopping import prechelt
from keras_optkit.stopping.best_weights import BestWeights
from keras_optkit.stopping.reasons import StopReason
from keras_optkit.stopping.watch import Watch


class EarlyStopping(OptkitCallback):
    """Stops training when a metric no longer improves.

    The arguments of `keras.callbacks.EarlyStopping`, in its order, with its meaning, and with
    these differences. A value that is not finite is never the best one. A monitor that does not
    exist, or whose direction cannot be told, is an error before the first step. Epochs without the
    monitored value (`validation_freq`) do not count towards the patience, and neither do epochs in
    which another callback of this package is still changing the model (`Pruning` on its way to the
    final sparsity): the best weights are weights that the run may end with. Under an optimizer
    with `use_ema=True`, or with `WeightAveraging`, the weights that are kept are the averaged ones,
    as at the end of `fit`.

    Args:
        monitor: String, the metric to watch, or a list of them; the first one says which epoch is
            best. Defaults to `"val_loss"`. The arguments `mode`, `min_delta`, `baseline`, `target`
            and `divergence` hold for all, or are lists with one item for each.
        min_delta: Float, the least change that counts as an improvement.
        patience: How long to wait for an improvement: an integer >= 0, the number of evaluated
            epochs; or a duration, `"3ep"`, `"500step"` (optimizer updates) or a fraction of the
            run such as 0.1.
        verbose: 0 or 1; 1 says in one line why training stopped.
        mode: String, `"auto"`, `"min"` or `"max"`.
        baseline: Float or `None`, the value that has to be beaten for the patience to start anew.
        restore_best_weights: Boolean, whether `fit` ends with the weights of the best epoch.
        start_from_epoch: Integer >= 0, the first epoch (from 0) that counts.
        check_finite: What a NaN or an infinite value does: `"ignore"` (an epoch without
            improvement), `"stop"` or `"raise"`. It holds in epochs that do not count, too.
        min_delta_mode: `"absolute"`, or `"relative"` where `min_delta` is a share of the best
            value: 0.01 asks for one percent.
        window: Integer >= 1, the number of values that are averaged; the average, over those that
            there are at first, takes the place of the value in all that is decided.
        combine: `"any"` stops when any of several monitors has run out of patience, or is on its
            target; `"all"` when all are. Divergence of any stops in both cases.
        target: Float or `None`; training stops as soon as the value is as good as this.
        divergence: Float or `None`; training stops as soon as the value is worse than this.
        criterion: Decides in place of the patience: `"GL5"`, `"PQ0.75"` or `"UP4"`, Prechelt's
            criteria in his notation, or an object of `keras_optkit.stopping.prechelt`. It is for
            one monitor that is an error and should fall. `"PQ"` also reads `"loss"`.
        path: Where to keep the best weights: `None` for memory, or a file that ends in
            `.weights.h5` or `.keras`, which is replaced in one go. It stays when `fit` ends.
        restore_optimizer: Boolean, whether the optimizer's state of the best epoch (momenta,
            counts) is restored with its weights.

    Attributes:
        stopped_reason: A `StopReason`, after `fit`.
        stopped_epoch: Integer, the epoch (from 0) that training was stopped in; 0 if it was not.
        best_epoch: Integer, the best epoch (from 0), or `None` if none counted.
        best_value: Float, the metric in the best epoch, or `None`.
        explanation: String, one line of why training ended and which epoch was best.

    Raises:
        ValueError: At construction, if an argument is out of its range or contradicts another;
            before the first step, if a monitor does not exist or its direction cannot be told.
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
        monitor: str | Sequence[str] = "val_loss",
        min_delta: float | Sequence[float] = 0,
        patience: int | float | str = 0,
        verbose: int = 0,
        mode: str | Sequence[str] = "auto",
        baseline: float | Sequence[float | None] | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
        check_finite: str = "ignore",
        min_delta_mode: str = "absolute",
        window: int = 1,
        combine: str = "any",
        target: float | Sequence[float | None] | None = None,
        divergence: float | Sequence[float | None] | None = None,
        criterion: str | prechelt.Criterion | None = None,
        path: str | os.PathLike | None = None,
        restore_optimizer: bool = False,
    ):
        super().__init__()
        _check_choice("check_finite", check_finite, ("ignore", "stop", "raise"))
        _check_choice("min_delta_mode", min_delta_mode, ("absolute", "relative"))
        _check_choice("combine", combine, ("any", "all"))
        if check_count("window", window) == 0:
            raise ValueError(f"`window` must be an integer >= 1. Received: window={window!r}")
        names = [monitor] if isinstance(monitor, str) else list(monitor)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`monitor` must name metrics, each once. Received: {monitor!r}")
        relative = min_delta_mode == "relative"
        settings = zip(
            names,
            _for_each("mode", mode, names),
            _for_each("min_delta", min_delta, names),
            _for_each("baseline", baseline, names),
            _for_each("target", target, names),
            _for_each("divergence", divergence, names),
            strict=True,
        )
        self._watches = [
            Watch(Monitor(name, direction, delta, relative), window, base, good, bad)
            for name, direction, delta, base, good, bad in settings
        ]
        self._patience = _parse_patience(patience)
        self._criterion = None if criterion is None else prechelt.get(criterion)
        if criterion is not None and (patience != 0 or len(names) > 1):
            raise ValueError(
                "`criterion` decides in place of `patience`, for one monitor. "
                f"Received: criterion={criterion!r}, patience={patience!r}, monitor={monitor!r}"
            )
        if not restore_best_weights and (path is not None or restore_optimizer):
            raise ValueError(
                "`path` and `restore_optimizer` say how the best weights are kept, which is done "
                f"with `restore_best_weights=True`. Received: path={path!r}, "
                f"restore_optimizer={restore_optimizer!r}, restore_best_weights=False"
            )
        self._best = BestWeights(path, restore_optimizer)
        self.monitor = monitor
        self.patience = patience
        self.verbose = verbose
        self.restore_best_weights = restore_best_weights
        self.start_from_epoch = check_count("start_from_epoch", start_from_epoch)
        self.check_finite = check_finite
        self.combine = combine
        self._reset()

    def _reset(self) -> None:
        for watch in self._watches:
            watch.reset()
        self._best.reset()
        # What the criterion looks at: the monitored errors, and the training losses.
        self._errors: list[list[float]] = [[], []]
        self._updates = 0
        self.best_epoch: int | None = None
        self.stopped_epoch = 0
        self.stopped_reason: StopReason | None = None
        self._detail = ""

    @property
    def best_value(self) -> float | None:
        """The first monitor's value in the best epoch, or `None`."""
        return self._watches[0].best

    @property
    def best_weights(self) -> list | None:
        """The weights of the best epoch where they are kept in memory, or `None`."""
        return self._best.weights

    @property
    def wait(self) -> float:
        """How long the first monitor has not improved, in epochs or in steps."""
        return self._watches[0].wait

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._reset()

    def _install(self, epoch, state):
        for watch in self._watches:
            watch.monitor.bind(self.model)
            watch.check()
        if self._criterion is not None and self._watches[0].monitor.direction == "max":
            raise ValueError(
                "Prechelt's criteria are for an error, which should fall. "
                f"Received: monitor={self.monitor!r}, which should rise"
            )
        self._updates = self._count_updates()
        if state is not None:
            self._load(state)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        # It goes on, so whatever had stopped a run that is resumed no longer does.
        self.stopped_reason, self.stopped_epoch, self._detail = None, 0, ""
        read = [watch.monitor.read(logs, "EarlyStopping") for watch in self._watches]
        found = {w: v for w, v in zip(self._watches, read, strict=True) if v is not None}
        if self._stopped_by_not_finite(epoch, found):
            return
        if epoch < self.start_from_epoch or not settled(self.model):
            self._updates = self._count_updates()
            return
        if not found:
            return
        updates = self._count_updates()
        time = updates - self._updates if self._patience[1] == "step" else 1
        self._updates = updates
        for watch, value in found.items():
            watch.update(value, time)
        if self._watches[0] in found and self._watches[0].improved:
            self.best_epoch = epoch
            if self.restore_best_weights:
                self._best.keep(self.model)
        self._decide(epoch, found, logs)

    def _decide(self, epoch, found, logs) -> None:
        combined = any if self.combine == "any" else all
        diverged = [watch for watch in found if watch.diverged]
        with_target = [watch for watch in self._watches if watch.target is not None]
        if diverged:
            watch = diverged[0]
            beyond = f"{watch.monitor.name} is {watch.value:.6g}, worse than {watch.divergence:g}"
            self._stop(epoch, StopReason.DIVERGED, beyond)
        elif with_target and combined(watch.on_target for watch in with_target):
            watch = next(watch for watch in with_target if watch.on_target)
            self._stop(epoch, StopReason.TARGET, f"{watch.monitor.name} is {watch.value:.6g}")
        elif self._criterion is not None:
            if self._criterion_met(logs):
                self._stop(epoch, StopReason.CRITERION, repr(self._criterion))
        elif epoch > 0 and combined(watch.exhausted(self._wait_limit) for watch in self._watches):
            self._stop(epoch, StopReason.PATIENCE)

    @property
    def _wait_limit(self) -> float:
        amount, unit = self._patience
        return amount * self.params["epochs"] if unit == "run" else amount

    def _criterion_met(self, logs) -> bool:
        value = self._watches[0].value
        if not math.isfinite(value):
            return False
        validation, training = self._errors
        validation.append(value)
        training.append(float(logs.get("loss", math.nan)))
        return self._criterion.stops(validation, training)

    def _stopped_by_not_finite(self, epoch, found) -> bool:
        bad = [(w.monitor.name, v) for w, v in found.items() if not math.isfinite(v)]
        if not bad or self.check_finite == "ignore":
            return False
        name, value = bad[0]
        if self.check_finite == "raise":
            raise FloatingPointError(f"Epoch {epoch + 1}: {name} is {value}")
        self._stop(epoch, StopReason.NOT_FINITE, f"{name} is {value}")
        return True

    def _count_updates(self) -> int:
        return iterations(require_compiled(self.model, "EarlyStopping"))

    def _stop(self, epoch: int, reason: StopReason, detail: str = "") -> None:
        self.stopped_epoch = epoch
        self.stopped_reason = reason
        self._detail = detail
        self.model.stop_training = True

    def on_train_end(self, logs=None):
        state = self._take_pending_state()
        if not self._installed and state is not None:
            # A run that was over already: what is left to do is its end.
            self._load(state)
        super().on_train_end(logs)
        if self.stopped_reason is None:
            stopped = self.model.stop_training
            self.stopped_reason = StopReason.OTHER if stopped else StopReason.COMPLETED
        if self._best.kept:
            self._best.restore(self.model)
        if self.verbose > 0:
            say(self.explanation)

    @property
    def explanation(self) -> str:
        """One line of why training ended and which epoch was best."""
        if self.stopped_reason is None:
            return "Training has not ended."
        line = f"Training ended: {self.stopped_reason.value}"
        if self.stopped_reason not in (StopReason.COMPLETED, StopReason.OTHER):
            detail = f": {self._detail}" if self._detail else ""
            line += f" (epoch {self.stopped_epoch + 1}{detail})"
        if self.best_epoch is None:
            return f"{line}. No epoch counted."
        name = self._watches[0].monitor.name
        line += f". Best {name}: {self.best_value:.6g} in epoch {self.best_epoch + 1}"
        return line + (", whose weights are restored." if self._best.kept else ".")

    def get_state(self) -> dict[str, Any]:
        """Returns the patience used up, and the best epoch with its values and weights."""
        return {
            "watches": {watch.monitor.name: watch.get_state() for watch in self._watches},
            "errors": [list(errors) for errors in self._errors],
            "updates": self._updates,
            "best_epoch": self.best_epoch,
            "best": self._best.get_state(),
            "stopped_epoch": self.stopped_epoch,
            "stopped_reason": self.stopped_reason and self.stopped_reason.name,
            "detail": self._detail,
        }

    def _load(self, state: dict[str, Any]) -> None:
        if list(state["watches"]) != [watch.monitor.name for watch in self._watches]:
            # Another monitor: what was best by the old one says nothing about it.
            return
        for watch in self._watches:
            watch.set_state(state["watches"][watch.monitor.name])
        self._errors = [list(errors) for errors in state["errors"]]
        self._updates = state["updates"]
        self.best_epoch = state["best_epoch"]
        self._best.set_state(state["best"])
        self.stopped_epoch = state["stopped_epoch"]
        self._detail = state["detail"]
        reason = state["stopped_reason"]
        self.stopped_reason = None if reason is None else StopReason[reason]


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        choices = " or ".join(f'"{choice}"' for choice in allowed)
        raise ValueError(f"`{name}` must be {choices}. Received: {name}={value!r}")


def _for_each(name: str, value: Any, monitors: list[str]) -> list:
    """One value for each monitor."""
    if not isinstance(value, (list, tuple)):
        return [value] * len(monitors)
    if len(value) != len(monitors):
        raise ValueError(
            f"`{name}` must be one value, or a list with one for each of the {len(monitors)} "
            f"monitors. Received: {name}={value!r}, monitor={monitors!r}"
        )
    return list(value)


def _parse_patience(patience: int | float | str) -> tuple[float, str]:
    """The patience in its unit: `"ep"`, `"step"` or `"run"`."""
    if isinstance(patience, (str, float)):
        return parse(patience, "patience")
    return float(check_count("patience", patience)), "ep"
