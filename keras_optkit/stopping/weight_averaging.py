"""The callback that trains as ever and ends with an average of the weights."""

import contextlib
import math
import numbers
import types
import warnings
from typing import Any

import keras
from keras import ops

from keras_optkit.core.additions import add_variables, after_update
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.checks import check_count
from keras_optkit.core.duration import parse, to_steps
from keras_optkit.core.fit_scope import owners, settled
from keras_optkit.core.optimizer import (
    ensure_built,
    iterations,
    members,
    require_compiled,
    update_count,
    updates_per_batch,
)
from keras_optkit.normalization.collect import batch_norm_layers, require_batch_norm_layers
from keras_optkit.normalization.recalibrate import recalibrate_batch_norm
from keras_optkit.stopping.averages import RULES, mean_of_latest
from keras_optkit.stopping.epoch_boundary import EpochBoundary, replace_methods

_DEFAULTS = {"ema": (0, 1), "swa": (0.75, "1ep"), "lawa": (0, "1ep")}


class WeightAveraging(OptkitCallback):
    """Trains the model as ever, and evaluates, saves and ends with an average of its weights.

    Between two epochs the model holds the average: in the validation of `fit`, in every
    `on_epoch_end` (so for `ModelCheckpoint` and for `EarlyStopping(restore_best_weights=True)`, in
    any order of the callbacks), and when `fit` ends, whatever ended it. What is saved within an
    epoch by `model.save` or `model.save_weights` is the average, too. Training itself goes on with
    the weights that the optimizer makes. Weights that another callback puts into the model between
    two epochs are what training goes on with.

    Averages that are taken every so many steps are taken inside the compiled step. Before the first
    one, the model is as it is without this callback. While `Pruning` is on its way to the final
    sparsity no average is made, and zeros stay zeros.

    Moving statistics of BatchNorm are not averaged. They are those of the weights that are trained,
    which for an average over few steps are close. Otherwise pass `data`, and each average gets its
    own.

    Args:
        method: `"ema"`, the exponential moving average; `"swa"`, the mean of all weights since
            `start`; or `"lawa"`, the mean of the latest `last` ones.
        decay: Float in [0, 1), for `"ema"`: the share of the old average in the new one. It
            remembers about `1 / (1 - decay)` weights. Defaults to 0.999.
        start: Duration, `"10ep"`, `"500step"`, a fraction of the run or a number of steps, from
            which weights are averaged. Defaults to 0.75 for `"swa"` (as in the paper), else 0.
        every: Duration between two weights that enter the average: a number of steps, or whole
            epochs such as `"1ep"`. Defaults to 1 step for `"ema"`, else `"1ep"`.
        last: Integer >= 1, for `"lawa"`: how many weights are averaged. All of them are held in
            memory. Defaults to 6.
        data: `None`, or the inputs from which the statistics of BatchNorm are computed for each
            average, see `keras_optkit.normalization.recalibrate_batch_norm`. That is one pass for
            each epoch: a part of the training data will do, such as `dataset.take(50)`.

    Attributes:
        count: Integer, how many weights have entered the average.

    Raises:
        ValueError: At construction, if an argument is out of its range; before the first step, if
            the optimizer keeps averages itself (`use_ema=True`), there is a second
            `WeightAveraging`, or `data` is given for a model without BatchNorm.

    Example:

    ```python
    callbacks = [
        keras_optkit.callbacks.WeightAveraging("ema", decay=0.99),
        keras.callbacks.ModelCheckpoint("best.keras", save_best_only=True),
    ]
    model.fit(x, y, validation_split=0.2, epochs=30, callbacks=callbacks)
    ```

    Reference:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.
        Kaddour, "Stop Wasting My Time! Saving Days of ImageNet and BERT Training with Latest
        Weight Averaging", 2022.
    """

    def __init__(
        self,
        method: str = "ema",
        decay: float = 0.999,
        start: int | float | str | None = None,
        every: int | str | None = None,
        last: int = 6,
        data: Any = None,
    ):
        super().__init__()
        if method not in RULES:
            names = ", ".join(f'"{name}"' for name in RULES)
            raise ValueError(f"`method` must be one of {names}. Received: method={method!r}")
        number = isinstance(decay, numbers.Real) and not isinstance(decay, bool)
        if not number or not 0 <= decay < 1:
            raise ValueError(f"`decay` must be in [0, 1). Received: decay={decay!r}")
        if check_count("last", last) == 0:
            raise ValueError(f"`last` must be an integer >= 1. Received: last={last!r}")
        if isinstance(data, types.GeneratorType):
            raise ValueError(
                "`data` is read once for each epoch, and a generator can be read only once. Pass "
                f"arrays or a dataset. Received: data={data!r}"
            )
        self.method = method
        self.decay = decay
        self.start = _DEFAULTS[method][0] if start is None else start
        self.every = _DEFAULTS[method][1] if every is None else every
        self.last = last
        self.data = data
        parse(self.start, "start")
        amount, unit = parse(self.every, "every")
        if amount < 1 or unit == "run" or amount != int(amount):
            raise ValueError(
                '`every` must be a number of steps >= 1, or whole epochs such as "1ep". '
                f"Received: every={every!r}"
            )
        self._by_epoch = unit == "ep"
        self._options = {"decay": decay} if method == "ema" else {}
        self._raw: list | None = None
        self.count = 0

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._raw = None
        self.count = 0

    def _install(self, epoch, state):
        model = self.model
        optimizer = require_compiled(model, "WeightAveraging")
        self._check(model, optimizer)
        ensure_built(model, "WeightAveraging")
        self._optimizer = optimizer
        # `Pruning` is what says that it is not settled: its zeros have to stay.
        self._zeros_stay = any(hasattr(type(owner), "settled") for owner in owners(model))
        self._weights = list(model.trainable_variables)
        kept = (self.last,) if self.method == "lawa" else ()
        self._averages = [
            self._add_variable((*kept, *weight.shape), _wide(weight.dtype))
            for weight in self._weights
        ]
        self._count = self._add_variable((), "int32")
        self._seen = self._add_variable((), "int32")
        self._epochs_done = epoch
        in_steps = not self._by_epoch or parse(self.start)[1] == "step"
        self._first_step = self._first_update(epoch, state) if in_steps else 0
        if state is not None:
            self._load(state)
        if not self._by_epoch:
            self._start_step = to_steps(self.start, self.run, "start")
            after_update(optimizer, self._after_update, self._fit_scope)
        saves = {"save": self._with_average, "save_weights": self._with_average}
        replace_methods(model, saves, self._fit_scope)
        EpochBoundary(model, self._epoch_ended, self._give_back, self._fit_scope)
        # An exception may leave the average in the model; the next `fit` goes on without it.
        self._fit_scope.on_close(self._give_back)

    def _check(self, model, optimizer) -> None:
        if any(getattr(member, "use_ema", False) for member in members(optimizer)):
            raise ValueError(
                "The optimizer averages the weights itself. Compile the model with "
                "`use_ema=False`, or leave out `WeightAveraging`. "
                f"Received: optimizer={optimizer!r}"
            )
        if sum(isinstance(owner, WeightAveraging) for owner in owners(model)) > 1:
            raise ValueError(
                "A `fit` ends with one average of the weights. Pass one `WeightAveraging` only. "
                f"Received: {self!r} beside another"
            )
        if self.data is not None:
            require_batch_norm_layers(model)
        elif self._by_epoch and batch_norm_layers(model):
            warnings.warn(
                "The moving statistics of BatchNorm will be those of the last weights, and not of "
                "their average over several epochs. Pass `data` to compute them for each average.",
                stacklevel=2,
            )

    def _add_variable(self, shape, dtype) -> keras.Variable:
        (variable,) = add_variables(
            self.model, self._optimizer, [shape], dtype, "zeros", "average", self._fit_scope
        )
        return variable

    # Within the compiled step, or at the end of an epoch.

    def _after_update(self) -> None:
        update = ops.cast(update_count(self._optimizer) - self._first_step, "int32")
        every = int(parse(self.every)[0])
        due = True
        if every > 1 or self._start_step > 1 or updates_per_batch(self._optimizer) < 1:
            due = ops.equal((update - self._start_step) % every, 0)
            due = ops.logical_and(due, update >= max(self._start_step, 1))
            # Under gradient accumulation, steps without an update come by here as well.
            due = ops.logical_and(due, update > self._seen)
            self._seen.assign(update)
        self._take(due)

    def _take(self, due: Any) -> None:
        """Lets the weights of the moment enter the average, if that is due."""
        rule, count = RULES[self.method], ops.convert_to_tensor(self._count)

        def taken():
            return [
                rule(
                    ops.convert_to_tensor(average),
                    ops.cast(ops.stop_gradient(ops.convert_to_tensor(weight)), average.dtype),
                    count,
                    **self._options,
                )
                for average, weight in zip(self._averages, self._weights, strict=True)
            ]

        def kept():
            return [ops.convert_to_tensor(average) for average in self._averages]

        values = taken() if due is True else ops.cond(due, taken, kept)
        for average, value in zip(self._averages, values, strict=True):
            average.assign(value)
        self._count.assign(count + ops.cast(due, "int32"))

    # Between two epochs.

    def _epoch_ended(self) -> None:
        if self._raw is not None:
            return
        self._epochs_done += 1
        if not settled(self.model):
            self._count.assign(0)
            return
        if self._by_epoch and self._epoch_is_due():
            self._take(True)
        self._put_in(recalibrate=True)

    def _epoch_is_due(self) -> bool:
        (amount, unit), (every, _) = parse(self.start), parse(self.every)
        if unit == "step":
            made = iterations(self._optimizer) - self._first_step
            return made >= amount and self._epochs_done % every == 0
        start = math.ceil(amount * self.params["epochs"] if unit == "run" else amount)
        return self._epochs_done >= start and (self._epochs_done - start) % every == 0

    def _put_in(self, recalibrate: bool) -> None:
        """Puts the average into the model, where there is one."""
        self.count = int(ops.convert_to_numpy(self._count))
        if self.count == 0:
            return
        self._raw = [ops.copy(ops.convert_to_tensor(variable)) for variable in self._held()]
        for weight, value in zip(self._weights, self._values(), strict=True):
            # A copy: on JAX, a variable would share the array, which a step may write over.
            weight.assign(ops.copy(value))
        if recalibrate and self.data is not None:
            try:
                recalibrate_batch_norm(self.model, self.data)
            except BaseException:
                self._give_back()
                raise

    def _give_back(self) -> None:
        """Puts the weights that are trained back, unless others have been put in meanwhile."""
        raw, unchanged = self._raw, self._raw is not None and self._unchanged()
        self._raw = None
        if unchanged:
            for variable, value in zip(self._held(), raw, strict=True):
                variable.assign(value)

    def _held(self) -> list[keras.Variable]:
        """What differs between the model that is trained and the one that is shown."""
        return self._weights + (self._model.non_trainable_weights if self.data is not None else [])

    def _values(self) -> list:
        """The average of each weight, while the weights that are trained are put aside."""
        values = []
        for average, raw in zip(self._averages, self._raw, strict=False):
            value = ops.convert_to_tensor(average)
            if self.method == "lawa":
                value = mean_of_latest(value, self.count)
            value = ops.cast(value, raw.dtype)
            if self._zeros_stay:
                value = ops.where(ops.equal(raw, 0), ops.zeros_like(value), value)
            values.append(value)
        return values

    def _unchanged(self) -> bool:
        pairs = zip(self._weights, self._values(), strict=True)
        return all(bool(ops.all(ops.equal(weight, value))) for weight, value in pairs)

    @contextlib.contextmanager
    def _showing_average(self):
        if self._raw is not None:
            yield
            return
        self._put_in(recalibrate=False)
        try:
            yield
        finally:
            self._give_back()

    def _with_average(self, own, *args, **kwargs):
        with self._showing_average():
            return own(*args, **kwargs)

    def on_train_batch_begin(self, batch, logs=None):
        # A run that is resumed between two epochs begins with the average in the model.
        if self._raw is not None:
            self._give_back()

    def on_train_end(self, logs=None):
        # What `fit` ends with stays.
        self._raw = None
        super().on_train_end(logs)
        if self._installed and self.count == 0:
            warnings.warn(
                "No weights were averaged: training ended before the first ones were due. "
                f"Received: start={self.start!r}, every={self.every!r}",
                stacklevel=2,
            )

    def get_state(self) -> dict[str, Any]:
        """Returns the averages, and the trained weights while the model holds the average."""
        put_aside = self._raw is not None and self._unchanged()
        return {
            "start": self._first_step,
            "count": int(ops.convert_to_numpy(self._count)),
            "seen": int(ops.convert_to_numpy(self._seen)),
            "averages": [_array(average) for average in self._averages],
            "raw": [_array(value) for value in self._raw] if put_aside else None,
        }

    def _load(self, state: dict[str, Any]) -> None:
        shapes = [list(value.shape) for value in state["averages"]]
        expected = [list(average.shape) for average in self._averages]
        if shapes != expected:
            raise ValueError(
                "The state is that of another model, or of another `method` or `last`. Received: "
                f"averages of shapes {shapes}, where {expected} are expected"
            )
        for average, value in zip(self._averages, state["averages"], strict=True):
            average.assign(value)
        self.count = state["count"]
        self._count.assign(self.count)
        self._seen.assign(state["seen"])
        if state["raw"] is not None:
            # The model holds the average, until the first step of this `fit` (if there is one).
            self._raw = [ops.convert_to_tensor(value) for value in state["raw"]]


def _wide(dtype: str) -> str:
    """The type of an average: that of the weights, or float32 where that is a half one."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def _array(value: Any):
    return ops.convert_to_numpy(value).copy()
