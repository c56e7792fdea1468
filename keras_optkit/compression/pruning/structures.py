"""What stays or goes as a whole: the base of structures, for which it is a single weight."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

from keras_optkit.compression.pruning.masks import keep_largest, keep_largest_of_all, num_kept


class Structure:
    """The base of structures, and the plainest one: each weight by itself.

    A subclass pools the scores of a kernel to one for each unit that stays or goes as a whole, and
    spreads the mask of the units over the kernel.
    """

    def check(self, path: str, shape: tuple[int, ...]) -> None:
        """Raises a `ValueError` if a kernel of this shape cannot have this structure."""

    def pool(self, scores: Any) -> Any:
        """Returns one score for each unit."""
        return scores

    def spread(self, mask: Any, shape: tuple[int, ...]) -> Any:
        """Returns the mask of a kernel of a shape from that of its units."""
        return mask

    def choose(
        self, scores: Sequence[Any], sparsities: Sequence[Any], axes: Sequence[int], scope: str
    ) -> list[Any]:
        """Returns which weights of each kernel stay.

        Args:
            scores: List of float tensors, one for each kernel; the higher, the more it matters.
            sparsities: List of scalar float32 tensors, the share of zeros in each kernel.
            axes: List of integers, the axis of each kernel along which inputs are summed.
            scope: `"layer"` or `"global"`, which compares the units of all kernels with each other
                and takes the first of `sparsities` for all.

        Returns:
            List of boolean tensors of the shapes of `scores`.
        """
        units = [self.pool(s) for s in scores]
        sizes = [math.prod(u.shape) for u in units]
        if scope == "global":
            masks = keep_largest_of_all(units, num_kept(sum(sizes), sparsities[0]))
        else:
            masks = [
                keep_largest(u, num_kept(size, sparsity))
                for u, size, sparsity in zip(units, sizes, sparsities, strict=True)
            ]
        return [self.spread(m, tuple(s.shape)) for m, s in zip(masks, scores, strict=True)]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Structure":
        """Makes a structure from what `get_config` returned."""
        return cls(**config)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


def is_count(value: Any) -> bool:
    """Tells whether a value is an integer >= 1."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= 1
