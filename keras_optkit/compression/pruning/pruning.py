"""The callback that prunes a model while it trains."""

import math
import warnings
from typing import Any

import keras
from keras import ops

from keras_optkit.compression.pruning.masks import keep_largest, num_kept
from keras_optkit.compression.pruning.schedules import SparsitySchedule
from keras_optkit.compression.pruning.select import Select, select_kernels
from keras_optkit.core.additions import add_variables, after_update
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.optimizer import (
    ensure_built,
    iterations,
    moving_average,
    require_compiled,
    update_count,
)


class Pruning(OptkitCallback):
    """Makes the smallest weights of a model exact zeros, step by step, while it trains.

    Masks are chosen by magnitude, each kernel by itself, and are applied inside the compiled step
    after every update, behind the optimizer's momentum, weight decay and moving averages. Whatever
    looks at the model, in any callback or in a file that is saved in mid-run, sees the zeros. There
    is no wrapper: when `fit` ends, the masks are gone and the model is an ordinary one with zeros
    in it. A later `fit` without this callback lets them grow again.

    Zeros alone do not make a file or a model faster: a dense file keeps its size, and shrinks when
    it is compressed. See `keras_optkit.export.compare`.

    Args:
        schedule: `PolynomialDecay` or `ConstantSparsity` of `keras_optkit.pruning`, which counts
            optimizer updates from the start of this `fit`.
        select: What to prune: `None` for the kernels of dense and convolutional layers; or a
            layer, a layer class, a function from a layer to a boolean, a regular expression for
            the paths of variables, or a list of these.

    Raises:
        ValueError: Before the first step, if the model is not built or not compiled, nothing is
            selected, or pruning would begin behind the end of the run.

    The share of zeros among the selected weights is put into the logs as `"sparsity"`.

    Example:

    ```python
    schedule = keras_optkit.pruning.PolynomialDecay(0.0, 0.8, begin_step="1ep", end_step="8ep")
    model.fit(x, y, epochs=10, callbacks=[keras_optkit.callbacks.Pruning(schedule)])
    ```

    Reference:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", 2017.
    """

    def __init__(self, schedule: SparsitySchedule, select: Select | None = None):
        super().__init__()
        if not isinstance(schedule, SparsitySchedule):
            raise ValueError(
                "`schedule` must be one of keras_optkit.pruning, for example "
                f"`PolynomialDecay` or `ConstantSparsity`. Received: schedule={schedule!r}"
            )
        self.schedule = schedule
        self.select = select
        self._kernels: list[keras.Variable] = []

    def _install(self, epoch, state):
        optimizer = require_compiled(self.model, "Pruning")
        self._kernels = select_kernels(self.model, self.select)
        self._active = self._resolved()
        ensure_built(self.model, "Pruning")
        self._optimizer = optimizer
        self._start = self._first_update(epoch, state)
        self._masks = add_variables(
            self.model,
            optimizer,
            [kernel.shape for kernel in self._kernels],
            dtype="bool",
            initializer="ones",
            name="pruning_mask",
            scope=self._fit_scope,
        )
        if state is not None:
            self._assign_masks(state["masks"])
        elif epoch > 0:
            # A run that goes on without its state: its zeros are the mask.
            self._assign_masks([ops.not_equal(kernel, 0) for kernel in self._kernels])
        self._update()
        after_update(optimizer, self._update, self._fit_scope)

    def _resolved(self) -> SparsitySchedule:
        run = self.run
        schedule = self.schedule.resolve(run)
        steps = run.steps
        if steps is not None and schedule.begin_step >= steps:
            raise ValueError(
                f"Pruning would begin at step {schedule.begin_step}, and this fit has {steps} "
                f"steps. Received: schedule={self.schedule!r}"
            )
        if steps is not None and schedule.end_step > steps:
            warnings.warn(
                f"Pruning reaches its final sparsity at step {schedule.end_step}, and this fit has "
                f"{steps} steps. Received: schedule={self.schedule!r}",
                stacklevel=2,
            )
        return schedule

    def _update(self) -> None:
        """Refreshes the masks if the schedule says so, and applies them."""
        step = update_count(self._optimizer) - self._start
        masks = ops.cond(
            self._active.prunes_at(step),
            lambda: self._choose(self._active.sparsity(step)),
            lambda: [ops.convert_to_tensor(mask) for mask in self._masks],
        )
        for kernel, mask, value in zip(self._kernels, self._masks, masks, strict=True):
            mask.assign(value)
            for variable in (kernel, moving_average(self._optimizer, kernel)):
                if variable is not None:
                    weights = ops.convert_to_tensor(variable)
                    # Not a product: that would leave -0.0, and NaN where a weight diverged.
                    variable.assign(ops.where(value, weights, ops.zeros_like(weights)))

    def _assign_masks(self, values: list) -> None:
        for mask, value in zip(self._masks, values, strict=True):
            mask.assign(value)

    def _choose(self, sparsity: Any) -> list:
        return [
            keep_largest(ops.abs(kernel), num_kept(math.prod(kernel.shape), sparsity))
            for kernel in self._kernels
        ]

    @property
    def settled(self) -> bool:
        """Whether the final sparsity is reached."""
        return self._active.settled_at(iterations(self._optimizer) - self._start)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            zeros = sum(int(ops.sum(ops.cast(ops.equal(k, 0), "int32"))) for k in self._kernels)
            logs["sparsity"] = zeros / sum(math.prod(kernel.shape) for kernel in self._kernels)

    def get_state(self) -> dict[str, Any]:
        """Returns the update at which pruning started, and the masks."""
        masks = [ops.convert_to_numpy(mask) for mask in self._masks]
        return {"start": self._start, "masks": masks}
