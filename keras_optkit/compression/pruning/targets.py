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
    # The path itself beats an expression, and of expressions the first one counts.
    made.sort(key=lambda pair: pair[0] not in [kernel.path for kernel in kernels])
    found = dict.fromkeys(map(id, kernels), schedule)
    for key, own in reversed(made):
        named = _named(key, kernels, layers)
        if not named:
            hint = did_you_mean(key if isinstance(key, str) else "", [k.path for k in kernels])
            raise ValueError(
                f"`targets` has a key that names none of the selected kernels. {hint} "
                f"Received: {key!r}"
            )
        found.update((id(kernel), own) for kernel in named)
    return [found[id(kernel)] for kernel in kernels]


def _named(
    key: Any, kernels: Sequence[keras.Variable], layers: dict[int, keras.layers.Layer]
) -> list[keras.Variable]:
    if not isinstance(key, str):
        return [kernel for kernel in kernels if takes(key, layers[id(kernel)], kernel)]
    found = [kernel for kernel in kernels if key == kernel.path]
    found = found or [kernel for kernel in kernels if re.search(key, kernel.path)]
    # A model that was loaded leaves its own name out of the paths.
    return found or [kernel for kernel in kernels if key.endswith(f"/{kernel.path}")]


def _schedule(key: Any, value: Any, schedule: SparsitySchedule) -> SparsitySchedule | None:
    name = f"targets[{key!r}]"
    if not isinstance(value, (int, float)):
        return as_schedule(value, name)
    check_sparsity(name, value)
    return schedule.with_target(float(value)) if value else None
