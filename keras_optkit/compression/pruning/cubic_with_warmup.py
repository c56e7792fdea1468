"""The schedule of movement pruning: dense at first, a cubic ramp, then time to settle."""

from typing import Any

from keras_optkit.compression.pruning.schedules import PolynomialDecay, SparsitySchedule
from keras_optkit.core.duration import Run, to_steps
from keras_optkit.core.serialization import register_sparsity


@register_sparsity
class CubicWithWarmup(SparsitySchedule):
    """Leaves the model dense for a while, prunes it along a cubic ramp, and lets it settle.

    Its durations are measured from both ends of the run, so one schedule suits runs of any length.

    Args:
        final_sparsity: Float in [0, 1), the sparsity after the ramp.
        warmup: How long nothing is pruned: `"2ep"`, `"500step"`, a fraction of the run in [0, 1],
            or an integer number of optimizer updates. Defaults to 0.1.
        cooldown: How long the final sparsity is held at the end, likewise. Defaults to 0.3.
        initial_sparsity: Float in [0, 1), where the ramp begins. Defaults to 0.
        frequency: Integer >= 1, the number of updates from one choice of weights to the next.

    Raises:
        ValueError: If an argument is out of its range; before the first step, if `warmup` and
            `cooldown` leave no time for the ramp.

    Example:

    >>> from keras_optkit.core.duration import Run
    >>> CubicWithWarmup(0.8).resolve(Run(epochs=10, steps_per_epoch=100)).begin_step
    100

    Reference:
        Sanh, Wolf and Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning", 2020, appendix
        (the schedule); Zhu and Gupta, 2017 (the cubic ramp).
    """

    _target = "final_sparsity"

    def __init__(
        self,
        final_sparsity: float,
        warmup: int | float | str = 0.1,
        cooldown: int | float | str = 0.3,
        initial_sparsity: float = 0.0,
        frequency: int = 100,
    ):
        self.final_sparsity = final_sparsity
        self.warmup = self.begin_step = warmup
        self.cooldown = cooldown
        self.initial_sparsity = initial_sparsity
        self.frequency = frequency
        self.end_step = -1
        self._validate(final_sparsity=final_sparsity, initial_sparsity=initial_sparsity)
        to_steps(cooldown, Run(1, 1.0), "cooldown")

    def resolve(self, run: Run) -> PolynomialDecay:
        """Returns the ramp, as a `PolynomialDecay` with its beginning and end in optimizer steps.

        Args:
            run: The length of the `fit` that prunes.

        Raises:
            ValueError: If there is no time for the ramp, or the length of the run is not known.
        """
        if run.steps is None:
            raise ValueError(
                "`CubicWithWarmup` counts from the end of the run, and the number of batches in "
                "this data is not known. Pass `steps_per_epoch=` to `fit`, or use "
                f"`PolynomialDecay` with steps. Received: {self!r}"
            )
        begin = to_steps(self.warmup, run, "warmup")
        end = run.steps - to_steps(self.cooldown, run, "cooldown")
        if end <= begin:
            raise ValueError(
                f"`warmup` ends at step {begin} and `cooldown` begins at step {end}, which leaves "
                f"no time to prune in this fit of {run.steps} steps. Received: {self!r}"
            )
        return PolynomialDecay(
            self.initial_sparsity, self.final_sparsity, begin, end, frequency=self.frequency
        )

    def get_config(self) -> dict[str, Any]:
        names = ("final_sparsity", "warmup", "cooldown", "initial_sparsity", "frequency")
        return {name: getattr(self, name) for name in names}
