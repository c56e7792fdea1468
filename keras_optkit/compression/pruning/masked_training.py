"""The base of callbacks that hold weights at zero while a model trains."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.pruning.mask_variables import MaskVariables
from keras_optkit.compression.pruning.select import Select, select_kernels
from keras_optkit.core.additions import after_update
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.core.optimizer import ensure_built, require_compiled


class MaskedTraining(OptkitCallback):
    """Holds masks over kernels for one `fit`, inside the compiled step.

    A subclass checks and narrows the selected kernels in `_prepare`, which must not change the
    model, and may choose new masks in `_update`, which runs in the step after every update.

    Args:
        select: See `Pruning`.
        log_layers: Boolean, whether to log the sparsity of each kernel.
    """

    def __init__(self, select: Select | None, log_layers: bool):
        super().__init__()
        self.select = select
        self.log_layers = log_layers
        self._kernels: list[keras.Variable] = []

    def _prepare(self, kernels: list[keras.Variable]) -> list[keras.Variable]:
        raise NotImplementedError

    def _update(self) -> None:
        """Lays the masks over the kernels."""
        self._masks.apply()

    def _install(self, epoch, state):
        name = type(self).__name__
        self._optimizer = require_compiled(self.model, name)
        self._kernels = self._prepare(select_kernels(self.model, self.select))
        ensure_built(self.model, name)
        self._start = self._first_update(epoch, state)
        self._masks = MaskVariables(self.model, self._optimizer, self._kernels, self._fit_scope)
        if state is not None:
            # Masks chosen anew could differ where weights are equal.
            self._assign(state["masks"])
            self._masks.apply()
        else:
            if epoch > 0 or not self._starts_dense:
                # A run that goes on without its state: its zeros are the mask.
                self._assign([_array(kernel) != 0 for kernel in self._kernels])
            self._update()
        after_update(self._optimizer, self._update, self._fit_scope)

    # Whether a run that starts has all of its weights.
    _starts_dense = True

    def _assign(self, masks: list[np.ndarray]) -> None:
        shapes = [tuple(kernel.shape) for kernel in self._kernels]
        if [mask.shape for mask in masks] != shapes:
            raise ValueError(
                "The state that is resumed is of other kernels than those that are selected now. "
                f"Received: masks of shapes {[m.shape for m in masks]}, kernels of {shapes}"
            )
        for i, mask in enumerate(masks):
            self._masks.assign(i, mask)

    def on_epoch_end(self, epoch, logs=None):
        if logs is None:
            return
        zeros = [np.size(w) - np.count_nonzero(w) for w in map(_array, self._kernels)]
        sizes = [math.prod(kernel.shape) for kernel in self._kernels]
        logs["sparsity"] = float(sum(zeros) / sum(sizes))
        if self.log_layers:
            for kernel, zero, size in zip(self._kernels, zeros, sizes, strict=True):
                logs[f"sparsity/{kernel.path}"] = float(zero / size)

    def get_state(self) -> dict[str, Any]:
        """Returns the update at which the run started, and the masks as boolean arrays."""
        return {"start": self._start, "masks": self._masks.to_numpy()}


def _array(kernel: keras.Variable) -> np.ndarray:
    return ops.convert_to_numpy(kernel)
