"""The masks of one `fit`: variables of the compiled step, and how they are laid over kernels."""

from collections.abc import Callable, Sequence
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
        # XLA makes one pass of the update and the mask, for which a byte a weight is enough. What
        # runs operation by operation is faster with a bitwise `and` than with `where` (on torch
        # twenty times), for which a mask has the kernel's width: all ones, or all zeros.
        backend = keras.backend.backend()
        self._words = backend == "torch" or (backend == "tensorflow" and not model.jit_compile)
        self._kernels = kernels
        self._averages = [moving_average(optimizer, kernel) for kernel in kernels]
        self._variables = [
            add_variables(
                model,
                optimizer,
                [kernel.shape],
                dtype=f"int{_bits(kernel)}" if self._words else "bool",
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
        self._variables[index].assign(self._word(index, mask) if self._words else mask)

    def _word(self, index: int, mask: Any) -> Any:
        # A word of ones is -1.
        return -ops.cast(mask, self._variables[index].dtype)

    def apply(self) -> None:
        """Makes the weights that are masked, and their moving averages, exact zeros."""
        self._apply(range(len(self._kernels)))

    def _apply(self, indices: Sequence[int]) -> None:
        for i in indices:
            for variable in self._held(i):
                if self._words:
                    _and(variable, self._variables[i])
                else:
                    variable.assign(_masked(ops.convert_to_tensor(variable), self[i]))

    def refresh(self, indices: Sequence[int], due: Any, choose: Callable) -> None:
        """Chooses some masks anew where that is due, and lays them over their kernels.

        In a compiled step it costs nearly nothing where it is not due. The masks are laid over the
        weights where these are updated, in one pass with that, and what chooses anew stands in a
        loop of one round or none: XLA would copy what goes through a conditional.

        Args:
            indices: Which masks.
            due: Scalar boolean tensor.
            choose: A function from the list of the kernels' weights to that of their masks.
        """
        if self._words:
            self._refresh_words(indices, due, choose)
            self._apply(indices)
            return
        # The averages stand behind the kernels.
        held = [(i, self._kernels[i]) for i in indices]
        held += [(i, self._averages[i]) for i in indices if self._averages[i] is not None]
        masks = {i: self[i] for i in indices}
        weights = []
        for i, variable in held:
            # What is chosen from are the weights as they were updated, the masked ones too.
            kept = ops.logical_or(masks[i], due)
            weights.append(_masked(ops.convert_to_tensor(variable), kept))
            variable.assign(weights[-1])

        def renew(left, masks, weights):
            chosen = dict(zip(indices, choose(weights[: len(indices)]), strict=True))
            weights = [_masked(w, chosen[i]) for (i, _), w in zip(held, weights, strict=True)]
            return ops.zeros_like(left), list(chosen.values()), weights

        start = (due, list(masks.values()), weights)
        _, masks, weights = ops.while_loop(lambda left, *_: left, renew, start)
        for i, mask in zip(indices, masks, strict=True):
            self.assign(i, mask)
        for (_, variable), value in zip(held, weights, strict=True):
            variable.assign(value)

    def _refresh_words(self, indices: Sequence[int], due: Any, choose: Callable) -> None:
        def chosen():
            masks = choose([ops.convert_to_tensor(self._kernels[i]) for i in indices])
            return [self._word(i, mask) for i, mask in zip(indices, masks, strict=True)]

        def kept():
            return [ops.convert_to_tensor(self._variables[i]) for i in indices]

        if keras.backend.backend() == "torch":
            if not due:
                return
            words = chosen()
        else:
            # Replicas must not assign in a conditional; what is assigned here is not copied.
            words = ops.cond(due, chosen, kept)
        for i, word in zip(indices, words, strict=True):
            self._variables[i].assign(word)

    def _held(self, index: int) -> list[keras.Variable]:
        pair = (self._kernels[index], self._averages[index])
        return [variable for variable in pair if variable is not None]

    def to_numpy(self) -> list[np.ndarray]:
        """Returns the masks as boolean arrays."""
        return [ops.convert_to_numpy(v).astype(bool) for v in self._variables]


def _masked(weights: Any, mask: Any) -> Any:
    # Not a product: that would leave -0.0, and NaN where a weight diverged.
    return ops.where(mask, weights, ops.zeros_like(weights))


def _bits(kernel: keras.Variable) -> int:
    return 8 * np.dtype(keras.backend.standardize_dtype(kernel.dtype)).itemsize


def _and(weights: keras.Variable, words: keras.Variable) -> None:
    """Lays a mask over weights."""
    if keras.backend.backend() == "torch":
        weights.value.detach().view(words.value.dtype).bitwise_and_(words.value)
        return
    import tensorflow as tf

    weights, words = weights.value, ops.convert_to_tensor(words)
    kept = tf.bitwise.bitwise_and(tf.bitcast(weights, words.dtype), words)
    weights.assign(tf.bitcast(kept, weights.dtype))
