"""Stopping the statistics of BatchNorm from moving, and letting them move again."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_optkit.core.optimizer import require_compiled
from keras_optkit.normalization.collect import require_batch_norm_layers


def freeze_batch_norm(
    model: keras.Model, scale_and_center: bool = True
) -> list[keras.layers.BatchNormalization]:
    """Freezes the BatchNorm layers of a model, also of one that has trained.

    A frozen norm normalizes by its moving statistics in training too, and these stay as they are,
    which is what fine-tuning on small batches needs. `layer.trainable = False` alone has no effect
    on a model that has trained, as its training step is compiled, and breaks its optimizer on JAX.
    Here the step is made anew, and the optimizer keeps its state: a `gamma` or `beta` that it has
    trained stays among its variables, with a constraint that holds it where it is.

    Call it on the model that is trained, not on a part of it. A file keeps the flags of norms that
    are layers of the model, and not of those inside blocks: freeze again after loading.

    Args:
        model: A `keras.Model`, compiled or not. Nested models, shared layers and the norms inside
            blocks are frozen too. It is changed in place.
        scale_and_center: Boolean, whether `gamma` and `beta` are frozen too. With `False` they
            still train, and only the statistics are frozen. Defaults to `True`.

    Returns:
        The list of the layers that were changed, for `unfreeze_batch_norm`. A norm that was frozen
        before is not among them.

    Raises:
        ValueError: If `model` is not a built `keras.Model`, or has no BatchNorm, or if an optimizer
            with `use_ema=True` has trained a `gamma` or `beta` that is to be frozen.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization(name="norm")])
    >>> frozen = freeze_batch_norm(model)
    >>> [layer.name for layer in frozen]
    ['norm']
    >>> unfreeze_batch_norm(model, frozen)
    """
    layers = [layer for layer in require_batch_norm_layers(model) if layer.trainable]
    optimizer = _optimizer(model)
    # An optimizer updates all of the variables that it was built for, or none: on JAX it insists,
    # and so do its moving averages.
    held = [
        variable
        for layer in layers
        for variable in _scale_and_center(layer)
        if scale_and_center and _knows(optimizer, variable)
    ]
    if held and optimizer.use_ema:
        raise ValueError(
            "An optimizer with `use_ema=True` that has trained `gamma` and `beta` goes on to "
            "average them. Call `model.compile(...)` with a new optimizer first, or pass "
            "`scale_and_center=False`. Received: scale_and_center=True"
        )
    for layer in layers:
        layer.trainable = False
        if not scale_and_center:
            for variable in _scale_and_center(layer):
                variable.trainable = True
    for variable in held:
        variable.trainable = True
        variable.constraint = _Held(variable)
    _renew_step(model, layers)
    return layers


def unfreeze_batch_norm(
    model: keras.Model, layers: Sequence[keras.layers.BatchNormalization] | None = None
) -> None:
    """Lets the BatchNorm layers of a model train again.

    Args:
        model: The `keras.Model`. It is changed in place.
        layers: The layers that `freeze_batch_norm` returned, or `None` for all that are frozen.

    Raises:
        ValueError: If one of the layers is not a BatchNorm of the model, or the model's optimizer
            was built while they were frozen, so that it cannot train their `gamma` and `beta`.
    """
    every = require_batch_norm_layers(model)
    if layers is None:
        layers = [layer for layer in every if not layer.trainable]
    for layer in layers:
        if not any(layer is other for other in every):
            raise ValueError(
                f"`layers` must be BatchNorm layers of the model '{model.name}'. "
                f"Received: {layer!r} among layers"
            )
    optimizer = _optimizer(model)
    for variable in (v for layer in layers for v in _scale_and_center(layer)):
        if optimizer is not None and optimizer.built and not _knows(optimizer, variable):
            raise ValueError(
                f"The optimizer of the model '{model.name}' was built while '{variable.path}' was "
                "frozen and cannot train it. Call `model.compile(...)` with a new optimizer, or "
                "without one, and unfreeze then. "
                f"Received: optimizer={optimizer!r}"
            )
    for layer in layers:
        layer.trainable = True
        for variable in _scale_and_center(layer):
            if isinstance(variable.constraint, _Held):
                variable.constraint = variable.constraint.before
    _renew_step(model, layers)


class _Held(keras.constraints.Constraint):
    """Keeps a variable that an optimizer updates where it is."""

    def __init__(self, variable: keras.Variable):
        self.before = variable.constraint
        self._value = keras.ops.convert_to_numpy(variable)

    def __call__(self, w: Any) -> Any:
        return keras.ops.convert_to_tensor(self._value, dtype=w.dtype)


def _optimizer(model):
    if getattr(model, "optimizer", None) is None:
        return None
    return require_compiled(model, "freeze_batch_norm")


def _scale_and_center(layer):
    return [variable for variable in (layer.gamma, layer.beta) if variable is not None]


def _knows(optimizer, variable) -> bool:
    """Whether an optimizer was built for a variable."""
    if optimizer is None:
        return False
    return optimizer._var_key(variable) in optimizer._trainable_variables_indices


def _renew_step(model, changed) -> None:
    if changed and getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)
