"""N of every M weights along the input."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.pruning.structures import Structure, is_count
from keras_optkit.core.serialization import register_sparsity


@register_sparsity
class NMSparsity(Structure):
    """Keeps N of every M consecutive weights along the input axis, which some hardware skips.

    The structure sets the sparsity, `1 - n / m`, and the schedule says when: its final sparsity
    must be this one, and on the way there it keeps more than N of M. A short last group keeps N
    too.

    Args:
        n: Integer, how many stay; 1 <= n < m.
        m: Integer, of how many.

    Raises:
        ValueError: If an argument is not as above.

    Example:

    >>> NMSparsity(2, 4).sparsity
    0.5

    Reference:
        Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021 (2:4).
    """

    def __init__(self, n: int, m: int):
        if not (is_count(n) and is_count(m) and n < m):
            raise ValueError(
                "`NMSparsity` keeps `n` of every `m` weights, integers with 1 <= n < m. "
                f"Received: n={n!r}, m={m!r}"
            )
        self.n, self.m = int(n), int(m)

    @property
    def sparsity(self) -> float:
        """The share of weights that are zero."""
        return 1 - self.n / self.m

    def choose(self, scores, sparsities, axes, scope):
        return [self._choose(*each) for each in zip(scores, sparsities, axes, strict=True)]

    def _choose(self, scores: Any, sparsity: Any, axis: int) -> Any:
        groups = self.groups(scores, axis, -math.inf)
        kept = ops.cast(ops.round(self.m * (1.0 - ops.cast(sparsity, "float32"))), "int32")
        kept = ops.minimum(ops.maximum(kept, self.n), self.m)
        one, other = ops.expand_dims(groups, -1), ops.expand_dims(groups, -2)
        later = np.triu(np.ones((self.m, self.m), bool), 1)
        ahead = (other > one) | ((other == one) & later)
        mask = ops.sum(ops.cast(ahead, "int32"), axis=-1) < kept
        moved = list(scores.shape)
        moved.append(moved.pop(axis))
        mask = ops.reshape(mask, (*moved[:-1], -1))[..., : moved[-1]]
        return ops.moveaxis(mask, -1, axis)

    def groups(self, values: Any, axis: int, fill: float) -> Any:
        """Returns the groups of M along an axis, as a tensor of shape `(..., groups, m)`.

        Args:
            values: Tensor of rank >= 1.
            axis: Integer, the axis.
            fill: Float, what a short last group is filled up with.
        """
        values = ops.moveaxis(values, axis, -1)
        missing = -values.shape[-1] % self.m
        if missing:
            padding = [(0, 0)] * (len(values.shape) - 1) + [(0, missing)]
            values = ops.pad(values, padding, constant_values=fill)
        return ops.reshape(values, (*values.shape[:-1], values.shape[-1] // self.m, self.m))

    def get_config(self):
        return {"n": self.n, "m": self.m}


def input_axis(layer: keras.layers.Layer, variable: keras.Variable) -> int:
    """Returns the axis of a kernel along which the layer sums its inputs.

    Args:
        layer: The layer that owns the kernel.
        variable: The kernel.
    """
    rank = len(variable.shape)
    if isinstance(layer, keras.layers.EinsumDense):
        _, kernel, output = layer.equation.replace("->", ",").split(",")
        summed = [i for i, label in enumerate(kernel) if label not in output]
        return summed[-1] if summed else rank - 2
    transposed = ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
    if isinstance(layer, tuple(getattr(keras.layers, name) for name in transposed)):
        return rank - 1
    return max(rank - 2, 0)
