"""What this package reads of a compiled model's optimizer, and how often it updates."""

from typing import Any

import keras


def require_compiled(model: keras.Model, who: str) -> keras.optimizers.Optimizer:
    """Returns the optimizer that updates the weights, which may sit inside a loss-scaling one.

    Args:
        model: The model that trains.
        who: The name of the caller, for the message.

    Raises:
        ValueError: If the model is not compiled, or its optimizer is not one of Keras'.
    """
    optimizer = getattr(model, "optimizer", None)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"`{who}` needs a model that is compiled with a Keras optimizer. Call "
            f"`model.compile(optimizer=...)` first. Received: optimizer={optimizer!r}"
        )
    while isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer


def members(optimizer: keras.optimizers.Optimizer) -> list[keras.optimizers.Optimizer]:
    """Returns the optimizers that make the updates: those in a `MultiOptimizer`, or the one."""
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return optimizer.optimizers
    return [optimizer]


def ensure_built(model: keras.Model, who: str) -> None:
    """Builds the optimizer of a compiled model where this has not happened yet.

    Args:
        model: The compiled model.
        who: The name of the caller, for the message.

    Raises:
        ValueError: If the model has no weights yet.
    """
    if model.optimizer.built:
        return
    if not model.built or not model.trainable_variables:
        raise ValueError(
            f"`{who}` needs a model whose weights are there already. Call it on a batch first, for "
            f"example `model(x[:1])`. Received: model={model!r}"
        )
    model.optimizer.build(model.trainable_variables)


def updates_per_batch(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the number of weight updates that one batch makes, below 1 under accumulation.

    Raises:
        ValueError: If the members of a `MultiOptimizer` differ in it.
    """
    batches = {member.gradient_accumulation_steps or 1 for member in members(optimizer)} or {1}
    if len(batches) > 1:
        raise ValueError(
            "The optimizers in a MultiOptimizer must all accumulate gradients over the same number "
            f"of batches. Received: gradient_accumulation_steps of {sorted(batches)}"
        )
    return 1.0 / batches.pop()


def update_count(optimizer: keras.optimizers.Optimizer) -> Any:
    """Returns the number of weight updates made, as a scalar integer tensor."""
    return members(optimizer)[0].iterations


def iterations(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns the number of weight updates made, as a Python integer."""
    return int(keras.ops.convert_to_numpy(update_count(optimizer)))


def moving_average(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> keras.Variable | None:
    """Returns the optimizer's moving average of a variable, or `None` where it keeps none."""
    for member in members(optimizer):
        if member.use_ema and member._var_key(variable) in member._trainable_variables_indices:
            return member._model_variables_moving_average[member._get_variable_index(variable)]
    return None
