"""How much accuracy each kernel costs at each sparsity, without training."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.compression.pruning.nm_sparsity import input_axis
from keras_optkit.compression.pruning.schedules import check_sparsity
from keras_optkit.compression.pruning.select import Select, owners, select_kernels
from keras_optkit.compression.pruning.sensitivity_result import Sensitivity
from keras_optkit.compression.pruning.structures import Structure
from keras_optkit.core.messages import did_you_mean
from keras_optkit.core.optimizer import require_compiled

_LEVELS = (0.25, 0.5, 0.625, 0.75, 0.875, 0.95)


def sensitivity(
    model: keras.Model,
    data: Any,
    levels: Sequence[float] = _LEVELS,
    select: Select | None = None,
    structure: Structure | None = None,
    metric: str | None = None,
    batch_size: int | None = None,
) -> Sensitivity:
    """Prunes one kernel after the other by magnitude, and evaluates the model each time.

    There is no training. The weights are put back, byte for byte, also after an error.

    Args:
        model: A compiled and built model, trained.
        data: What `model.evaluate` takes: a tuple `(x, y)` or `(x, y, sample_weight)` of arrays,
            or a dataset that can be read many times.
        levels: The sparsities, floats in [0, 1).
        select: Which kernels, see `keras_optkit.callbacks.Pruning`.
        structure: Likewise; single weights or `BlockSparsity`, or `NMSparsity`, which has one level
            only, its own.
        metric: String, the metric that is looked at, of those that `evaluate` returns. Defaults to
            the first with "acc" in its name, or the loss where there is none.
        batch_size: Integer, for arrays only. Defaults to 32, as in `evaluate`.

    Returns:
        A `Sensitivity` with `baseline`, `scores`, `plot(path)` and `targets(max_drop)`.

    Raises:
        ValueError: If the model is not compiled or not built, or an argument is not as above.

    Example:

    ```python
    found = keras_optkit.pruning.sensitivity(model, (x_val, y_val))
    found.plot("sensitivity.png")
    model.fit(x, y, callbacks=[Pruning(schedule, targets=found.targets(max_drop=0.01))])
    ```

    Reference:
        Han et al., "Learning both Weights and Connections for Efficient Neural Networks", 2015,
        section 5 (the sensitivity of layers to pruning).
    """
    require_compiled(model, "sensitivity")
    levels = sorted({_checked(level) for level in levels})
    if not levels:
        raise ValueError(f"`levels` must not be empty. Received: levels={levels}")
    structure = structure or Structure()
    kernels = select_kernels(model, select)
    layers = {key: layer for key, (layer, _) in owners(model).items()}
    for kernel in kernels:
        structure.check(kernel.path, kernel.shape)

    def evaluate():
        if isinstance(data, tuple):
            x, y, *rest = data
            weight = rest[0] if rest else None
            arguments = {"y": y, "sample_weight": weight, "batch_size": batch_size}
        else:
            x, arguments = data, {}
        return model.evaluate(x, verbose=0, return_dict=True, **arguments)

    baseline = evaluate()
    if metric is None:
        metric = next((name for name in baseline if "acc" in name), "loss")
    if metric not in baseline:
        raise ValueError(
            f"`metric` is not one that the model has. {did_you_mean(str(metric), baseline)} "
            f"Received: metric={metric!r}"
        )
    scores: dict[str, list[float]] = {}
    for kernel in kernels:
        # A copy: the array may share the memory of the variable.
        before = np.array(ops.convert_to_numpy(kernel.value))
        axis = input_axis(layers[id(kernel)], kernel)
        try:
            scores[kernel.path] = []
            for level in levels:
                magnitudes = ops.abs(ops.convert_to_tensor(before))
                (mask,) = structure.choose([magnitudes], [level], [axis], "layer")
                kernel.assign(np.where(ops.convert_to_numpy(mask), before, 0).astype(before.dtype))
                scores[kernel.path].append(float(evaluate()[metric]))
        finally:
            kernel.assign(before)
    return Sensitivity(levels, float(baseline[metric]), scores, metric)


def _checked(level: float) -> float:
    check_sparsity("levels", level)
    return float(level)
