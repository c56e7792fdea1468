"""The masks of one `fit`: variables of the compiled step, and how they are laid over kernels."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.core.additions import add_variables
from keras_optkit.core.fit_scope import FitScope
from keras_optkit.core.optimizer import moving_average


class MaskVariables:
    """Masks of some kernels, which exist for one `fit` and are in no file.

    Args:
        model: The model that trains.
        optimizer: Its optimizer, built.
        kernels: List of the variables that are pruned.
        scope: The `FitScope` that the masks belong to.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        kernels: list[keras.Variable],
        scope: FitScope,
    ):
        # A compiled step needs one byte a weight. Eager torch runs `where` twenty times slower
        # than a bitwise `and`, for which a mask has the kernel's width: all ones, or all zeros.
        self._words = keras.backend.backend() == "torch"
        self._kernels = kernels
        self._averages = [moving_average(optimizer, kernel) for kernel in kernels]
        self._variables = [
            add_variables(
                model,
                optimizer,
                [kernel.shape],
                dtype=_word(kernel) if self._words else "bool",
                initializer="zeros" if self._words else "ones",
                name="pruning_mask",
                scope=scope,
            )[0]
            for kernel in kernels
        ]
        if self._words:
            for i in range(len(kernels)):
                self.assign(i, np.ones(kernels[i].shape, bool))

    def __getitem__(self, index: int) -> Any:
        """Returns the mask of a kernel as a boolean tensor."""
        mask = ops.convert_to_tensor(self._variables[index])
        return ops.cast(mask, "bool") if self._words else mask

    def assign(self, index: int, mask: Any) -> None:
        """Sets the mask of a kernel from a boolean tensor."""
        variable = self._variables[index]
        # A word of ones is -1.
        variable.assign(-ops.cast(mask, variable.dtype) if self._words else mask)

    def apply(self) -> None:
        """Makes the weights that are masked, and their moving averages, exact zeros."""
        for i, pair in enumerate(zip(self._kernels, self._averages, strict=True)):
            for variable in pair:
                if variable is None:
                    continue
                if self._words:
                    _and(variable.value, self._variables[i].value)
                else:
                    weights = ops.convert_to_tensor(variable)
                    # Not a product: that would leave -0.0, and NaN where a weight diverged.
                    variable.assign(ops.where(self[i], weights, ops.zeros_like(weights)))

    def to_numpy(self) -> list[np.ndarray]:
        """Returns the masks as boolean arrays."""
        return [ops.convert_to_numpy(v).astype(bool) for v in self._variables]


def _word(kernel: keras.Variable) -> str:
    return f"int{8 * kernel.value.element_size()}"


def _and(weights: Any, mask: Any) -> None:
    weights.detach().view(mask.dtype).bitwise_and_(mask)
