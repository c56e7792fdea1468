"""Sparsities of single layers, beside the one for all."""

import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit.compression.pruning.schedules import SparsitySchedule, check_sparsity
from keras_optkit.compression.pruning.select import takes
from keras_optkit.compression.pruning.tfmot_schedules import as_schedule
from keras_optkit.core.messages import did_you_mean


def schedules_of(
    kernels: Sequence[keras.Variable],
    layers: dict[int, keras.layers.Layer],
    schedule: SparsitySchedule,
    targets: dict[Any, Any],
) -> list[SparsitySchedule | None]:
    """Returns the schedule of each kernel, `None` for one that is left alone.

    Args:
        kernels: The selected kernels.
        layers: Dictionary from the `id` of a kernel to its layer.
        schedule: The schedule of those that no target names.
        targets: Dictionary from what names kernels to a final sparsity or a schedule.

    Raises:
        ValueError: If a key names none of the kernels, or a value is neither.
    """
    made = [(key, _schedule(key, value, schedule)) for key, value in targets.items()]
    found: list[SparsitySchedule | None] = []
    used = set()
    for kernel in kernels:
        fits = (i for i, (key, _) in enumerate(made) if _names(key, layers[id(kernel)], kernel))
        # The path itself beats an expression that it happens to contain.
        exact = [i for i, (key, _) in enumerate(made) if key == kernel.path]
        chosen = exact[0] if exact else next(fits, None)
        used.update(i for i, (key, _) in enumerate(made) if _names(key, layers[id(kernel)], kernel))
        found.append(schedule if chosen is None else made[chosen][1])
    for i, (key, _) in enumerate(made):
        if i not in used:
            hint = did_you_mean(key if isinstance(key, str) else "", [k.path for k in kernels])
            raise ValueError(
                f"`targets` has a key that names none of the selected kernels. {hint} "
                f"Received: {key!r}"
            )
    return found


def _names(key: Any, layer: keras.layers.Layer, kernel: keras.Variable) -> bool:
    if isinstance(key, str):
        return key == kernel.path or re.search(key, kernel.path) is not None
    return takes(key, layer, kernel)


def _schedule(key: Any, value: Any, schedule: SparsitySchedule) -> SparsitySchedule | None:
    name = f"targets[{key!r}]"
    if not isinstance(value, (int, float)):
        return as_schedule(value, name)
    check_sparsity(name, value)
    return schedule.with_target(float(value)) if value else None
