"""An optimizer of TensorFlow whose state and updates are where the weights are."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_optkit.distribution.replaced import replaced


@contextlib.contextmanager
def placed_updates(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Lets an optimizer make its variables and updates on the devices of the weights.

    Args:
        optimizer: An optimizer that makes updates, without loss scaling around it.
    """
    strategy = _OnDeviceOfVariable(optimizer._distribution_strategy)
    with contextlib.ExitStack() as stack:
        # One replica has nothing to add up, and would gather all gradients on one device for it.
        stack.enter_context(
            replaced(
                optimizer,
                _distribution_strategy=strategy,
                _all_reduce_sum_gradients=lambda grads_and_vars: grads_and_vars,
            )
        )
        if optimizer.use_ema:
            average = _Average(optimizer, optimizer._update_model_variables_moving_average)
            stack.enter_context(replaced(optimizer, _update_model_variables_moving_average=average))
        yield


class _OnDeviceOfVariable:
    """Stands in for the `tf.distribute` strategy, and for its `extended`, of an optimizer."""

    def __init__(self, strategy: tf.distribute.Strategy):
        self._strategy = strategy

    @property
    def extended(self) -> "_OnDeviceOfVariable":
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._strategy, name)

    def colocate_vars_with(self, variable: tf.Variable) -> contextlib.AbstractContextManager:
        return tf.device(variable.device)

    def update(self, variable: tf.Variable, function: Callable, *args, **kwargs) -> Any:
        with tf.device(variable.device):
            return self._strategy.extended.update(variable, function, *args, **kwargs)


class _Average:
    """Stands in for what updates the moving averages of the weights: one at a time."""

    def __init__(self, optimizer: keras.optimizers.Optimizer, own: Callable):
        self._optimizer = optimizer
        self._own = own

    def __call__(self, variables: list[keras.Variable]) -> None:
        optimizer = self._optimizer
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(variables, averages, strict=True):
            one = replaced(optimizer, _model_variables_moving_average=[average])
            with one, tf.device(variable.value.device):
                self._own([variable])


def slots(
    optimizer: keras.optimizers.Optimizer,
) -> list[tuple[keras.Variable, keras.Variable]]:
    """Returns the variables that a built optimizer keeps for single weights, each with its weight.

    Args:
        optimizer: An optimizer that makes updates, without loss scaling around it.
    """
    weights = {w.path.replace("/", "_"): w for w in optimizer._trainable_variables}
    found = []
    for variable in optimizer.variables:
        # Keras names such a variable by the weight's path, and gives it the weight's shape.
        name, _, kind = variable.name.rpartition("_")
        while kind and name not in weights:
            name, _, kind = name.rpartition("_")
        weight = weights.get(name)
        if weight is not None and tuple(variable.shape) == tuple(weight.shape):
            found.append((variable, weight))
    return found


def slots_per_weight(optimizer: keras.optimizers.Optimizer) -> int:
    """Returns how many variables of a weight's size an optimizer keeps for each weight.

    Args:
        optimizer: An optimizer that makes updates, built or not. It is not changed.
    """
    twin = type(optimizer).from_config(optimizer.get_config())
    probe = keras.Variable(np.zeros((3, 5)), name="probe")
    twin.build([probe])
    return sum(tuple(variable.shape) == (3, 5) for variable in twin.variables)
