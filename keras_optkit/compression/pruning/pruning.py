"""The callback that prunes a model while it trains."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_optkit.compression.pruning.masked_training import MaskedTraining
from keras_optkit.compression.pruning.nm_sparsity import NMSparsity, input_axis
from keras_optkit.compression.pruning.schedules import SparsitySchedule
from keras_optkit.compression.pruning.select import Select, owners
from keras_optkit.compression.pruning.structures import Structure
from keras_optkit.compression.pruning.targets import schedules_of
from keras_optkit.compression.pruning.tfmot_schedules import as_schedule
from keras_optkit.core.optimizer import iterations, update_count


class Pruning(MaskedTraining):
    """Makes the smallest weights of a model exact zeros, step by step, while it trains.

    Masks are chosen by magnitude, each kernel by itself, and are applied inside the compiled step
    after every update, behind the optimizer's momentum, weight decay and moving averages. Whatever
    looks at the model, in any callback or in a file that is saved in mid-run, sees the zeros. There
    is no wrapper: when `fit` ends, the masks are gone and the model is an ordinary one with zeros
    in it. A later `fit` without this callback lets them grow again, unless it is given
    `keras_optkit.pruning.keep_zeros(model)`.

    Zeros alone do not make a file or a model faster: a dense file keeps its size, and shrinks when
    it is compressed. See `keras_optkit.export.compare`.

    Args:
        schedule: `PolynomialDecay`, `ConstantSparsity`, `OneShot` or `CubicWithWarmup` of
            `keras_optkit.pruning`, which counts optimizer updates from the start of this `fit`; or
            a schedule object of TF-MOT, which gives the masks that it gives there.
        select: What to prune: `None` for the kernels of dense and convolutional layers (depthwise
            ones not among them); or a layer, a layer class, a function from a layer to a boolean, a
            regular expression for the paths of variables, or a list of these.
        structure: `None` for single weights, or `NMSparsity(2, 4)`, or `BlockSparsity((4, 1))`.
        scope: `"layer"` for the same share of each kernel, or `"global"` for one threshold across
            all of them.
        frequency: Integer >= 1, the number of updates from one choice of weights to the next, in
            the place of the schedule's own, which is 100 by default.
        targets: Dictionary from a layer, a layer class, or the path of a variable or a regular
            expression for it, to the final sparsity of what it selects (a float in [0, 1), 0 for
            not at all) or to a schedule. The first key that fits a kernel counts; the others keep
            `schedule`. `sensitivity(model, data).targets()` makes one.
        criterion: `"magnitude"`, or a function from a kernel (a `keras.Variable`) to a score for
            each weight, a tensor of its shape made by `keras.ops`; the lowest scores are pruned.
        log_layers: Boolean, whether to log the sparsity of each kernel too.

    Raises:
        ValueError: Before the first step and with the model unchanged, if an argument is not as
            above, the model is not built or not compiled, nothing is selected, or pruning would
            begin behind the end of the run.

    The share of zeros among the selected weights is put into the logs as `"sparsity"`, and that of
    each kernel as `"sparsity/<path>"`.

    Example:

    ```python
    schedule = keras_optkit.pruning.PolynomialDecay(0.0, 0.8, begin_step="1ep", end_step="8ep")
    model.fit(x, y, epochs=10, callbacks=[keras_optkit.callbacks.Pruning(schedule)])
    ```

    Reference:
        Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
        compression", 2017.
    """

    def __init__(
        self,
        schedule: SparsitySchedule,
        select: Select | None = None,
        structure: Structure | None = None,
        scope: str = "layer",
        frequency: int | None = None,
        targets: dict | None = None,
        criterion: str | Callable[[keras.Variable], Any] = "magnitude",
        log_layers: bool = False,
    ):
        super().__init__(select, log_layers)
        self.schedule = as_schedule(schedule)
        if frequency is not None:
            self.schedule = self.schedule.with_frequency(frequency)
        if structure is not None and not isinstance(structure, Structure):
            raise ValueError(
                "`structure` must be `NMSparsity(n, m)` or `BlockSparsity((height, width))`, or "
                f"`None` for single weights. Received: structure={structure!r}"
            )
        if scope not in ("layer", "global"):
            raise ValueError(f'`scope` must be "layer" or "global". Received: scope={scope!r}')
        if scope == "global" and (targets or isinstance(structure, NMSparsity)):
            raise ValueError(
                '`scope="global"` finds the sparsity of each layer by itself, which `targets` and '
                f"`NMSparsity` prescribe. Received: targets={targets!r}, structure={structure!r}"
            )
        if criterion != "magnitude" and not callable(criterion):
            raise ValueError(
                '`criterion` must be "magnitude" or a function from a kernel to a score for each '
                f"weight. Received: criterion={criterion!r}"
            )
        self.structure = structure or Structure()
        self.scope = scope
        self.targets = dict(targets or {})
        self.criterion = criterion

    def _prepare(self, kernels):
        layers = {key: layer for key, (layer, _) in owners(self.model).items()}
        planned = schedules_of(kernels, layers, self.schedule, self.targets)
        resolved = {id(s): self._resolved(s) for s in planned if s is not None}
        pairs = [(k, resolved[id(s)]) for k, s in zip(kernels, planned, strict=True) if s]
        if not pairs:
            raise ValueError(
                f"`targets` leaves nothing to prune. Received: targets={self.targets!r}"
            )
        kept = [kernel for kernel, _ in pairs]
        self._schedules = [schedule for _, schedule in pairs]
        self._axes = [input_axis(layers[id(kernel)], kernel) for kernel in kept]
        for kernel in kept:
            self.structure.check(kernel.path, kernel.shape)
            self._check_scores(kernel)
        groups: dict[tuple, list[int]] = {}
        for i, schedule in enumerate(self._schedules):
            groups.setdefault(schedule.timing, []).append(i)
        self._groups = list(groups.values())
        return kept

    def _resolved(self, schedule: SparsitySchedule) -> SparsitySchedule:
        if isinstance(self.structure, NMSparsity) and schedule.target is not None:
            if abs(schedule.target - self.structure.sparsity) > 1e-6:
                raise ValueError(
                    f"{self.structure!r} makes {self.structure.sparsity:.6g} of the weights zero, "
                    f"and the schedule wants {schedule.target}. Give it the final sparsity of the "
                    f"structure. Received: schedule={schedule!r}"
                )
        steps = self.run.steps
        active = schedule.resolve(self.run)
        if steps is not None and active.begin_step >= steps:
            raise ValueError(
                f"Pruning would begin at step {active.begin_step}, and this fit has {steps} "
                f"steps. Received: schedule={schedule!r}"
            )
        if steps is not None and active.end_step > steps:
            warnings.warn(
                f"Pruning reaches its final sparsity at step {active.end_step}, and this fit has "
                f"{steps} steps. Received: schedule={schedule!r}",
                stacklevel=2,
            )
        return active

    def _check_scores(self, kernel: keras.Variable) -> None:
        if self.criterion == "magnitude":
            return
        shape = getattr(self.criterion(kernel), "shape", None)
        if shape is None or tuple(shape) != tuple(kernel.shape):
            raise ValueError(
                f"`criterion` must return a score for each weight of '{kernel.path}', a tensor of "
                f"shape {tuple(kernel.shape)}. Received: shape={shape}"
            )

    def _scores(self, kernel: keras.Variable, weights: Any) -> Any:
        return ops.abs(weights) if self.criterion == "magnitude" else self.criterion(kernel)

    def _update(self) -> None:
        """Chooses the masks anew where a schedule says so, and lays them over the kernels."""
        # Eager torch pays for each operation on a scalar, so there the step is a Python number.
        eager = keras.backend.backend() == "torch"
        made = iterations(self._optimizer) if eager else update_count(self._optimizer)
        step = made - self._start
        for group in self._groups:
            due = self._schedules[group[0]].prunes_at(step)
            self._masks.refresh(
                group, due, lambda weights, group=group: self._choose(group, weights, step)
            )

    def _choose(self, group: list[int], weights: list[Any], step: Any) -> list[Any]:
        kernels = [self._kernels[i] for i in group]
        return self.structure.choose(
            [self._scores(kernel, w) for kernel, w in zip(kernels, weights, strict=True)],
            [self._schedules[i].sparsity(step) for i in group],
            [self._axes[i] for i in group],
            self.scope,
        )

    @property
    def settled(self) -> bool:
        """Whether the final sparsity is reached."""
        step = iterations(self._optimizer) - self._start
        return all(schedule.settled_at(step) for schedule in self._schedules)
