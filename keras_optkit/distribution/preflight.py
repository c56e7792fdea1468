"""What is looked at before the first step, so that it is told by name and with the remedy."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_optkit.core.optimizer import members


def optimizers(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers of a compiled model that make updates, without loss scaling."""
    optimizer = model.optimizer
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return members(optimizer) if isinstance(optimizer, keras.optimizers.Optimizer) else []


def check_optimizer(model: keras.Model, placed: Callable[[Any], bool]) -> None:
    """Raises if an optimizer of a model is not on its devices.

    Args:
        model: The compiled model.
        placed: A function that tells of an optimizer whether it is.

    Raises:
        ValueError: If one is not.
    """
    for optimizer in optimizers(model):
        if not placed(optimizer):
            raise ValueError(
                "The optimizer must be made inside the scope, where it gets its variables on all "
                "devices; write `model.compile(keras.optimizers.SGD(...), ...)` in "
                f"`with distribution.scope():`. Received: optimizer={optimizer.name!r}, made "
                "outside of it"
            )


def check_metrics(model: keras.Model, placed: Callable[[Any], bool]) -> None:
    """Raises if a metric of a model is not on its devices.

    Args:
        model: The compiled model.
        placed: A function that tells of a variable whether it is.

    Raises:
        ValueError: If one is not.
    """
    compiled = model._compile_metrics
    given = [getattr(compiled, f"_user_{kind}metrics", None) for kind in ("", "weighted_")]
    given = keras.tree.flatten(given)
    for metric in [m for m in [*given, *model.metrics] if isinstance(m, keras.Metric)]:
        if not all(placed(variable) for variable in metric.variables):
            raise ValueError(
                "A metric must be made inside the scope, where it gets its variables on all "
                "devices; write `model.compile(metrics=[keras.metrics.AUC()])` in `with "
                f"distribution.scope():`. Received: metric={metric.name!r}, made outside of it"
            )


def check_settings(model: keras.Model) -> None:
    """Raises where a model is compiled in a way that replicas of TensorFlow cannot train.

    Raises:
        ValueError: If XLA is asked for.
    """
    if model.jit_compile:
        raise ValueError(
            "XLA cannot compile a step that several devices of TensorFlow share; compile with "
            "`jit_compile='auto'` or False, or use the jax backend, where it always does. "
            "Received: jit_compile=True"
        )


def batch_size(arguments: dict[str, Any]) -> int | None:
    """Returns the batch size that a call of `fit` declares, `None` where it declares none.

    Args:
        arguments: The arguments of the call, by name.
    """
    x = arguments.get("x")
    spec = getattr(x, "element_spec", None)
    if spec is not None:
        shapes = [part.shape for part in keras.tree.flatten(spec) if hasattr(part, "shape")]
        return shapes[0][0] if shapes and shapes[0].rank else None
    first = next(iter(keras.tree.flatten(x)), None)
    shape = getattr(first, "shape", None)
    if not shape or isinstance(x, keras.utils.PyDataset):
        return None
    if "batch_size" not in arguments:
        return int(shape[0])
    steps = arguments.get("steps_per_epoch")
    return arguments["batch_size"] or (math.ceil(int(shape[0]) / steps) if steps else 32)


def check_large_enough(size: int | None, devices: int) -> None:
    """Raises if a batch has fewer samples than there are devices.

    Args:
        size: Integer, the batch size, or `None` where it is not known.
        devices: Integer, the number of devices.

    Raises:
        ValueError: If it is too small.
    """
    if isinstance(size, int | np.integer) and size < devices:
        raise ValueError(
            f"A batch is shared by {devices} devices, so it must have {devices} samples or more: "
            "`batch_size` is that of all devices together, which "
            f"`distribution.global_batch_size(per_device)` tells. Received: batch_size={size}"
        )
