"""The schedule that prunes once."""

from typing import Any

from keras import ops

from keras_optkit.compression.pruning.schedules import SparsitySchedule
from keras_optkit.core.serialization import register_sparsity


@register_sparsity
class OneShot(SparsitySchedule):
    """Prunes once, and lets the weights that stay train on.

    Args:
        target_sparsity: Float in [0, 1), the share of weights that are zero.
        begin_step: When: `"2ep"`, `"500step"`, a fraction of the run in [0, 1], or an integer
            number of optimizer updates. Defaults to 0, before the first step, which suits a model
            that has trained before.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> schedule = OneShot(0.5, begin_step=100)
    >>> schedule.prunes_at(100), schedule.prunes_at(200)
    (True, False)
    """

    frequency = 1

    def __init__(self, target_sparsity: float, begin_step: int | float | str = 0):
        self.target_sparsity = target_sparsity
        self.begin_step = begin_step
        self.end_step = -1
        self._validate(target_sparsity=target_sparsity)

    def sparsity(self, step: Any) -> Any:
        return ops.cast(self.target_sparsity, "float32")

    def prunes_at(self, step: Any) -> Any:
        return step == self.begin_step

    def with_frequency(self, frequency: int) -> "OneShot":
        raise ValueError(
            "`OneShot` chooses its masks once; leave `frequency` out, or use `ConstantSparsity`. "
            f"Received: frequency={frequency!r}"
        )

    def get_config(self) -> dict[str, Any]:
        return {"target_sparsity": self.target_sparsity, "begin_step": self.begin_step}
