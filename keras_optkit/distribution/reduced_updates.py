"""Updates of an optimizer that add up the replicas' gradients before they do anything else."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_optkit.distribution.preflight import optimizers
from keras_optkit.distribution.replaced import replaced


@contextlib.contextmanager
def reduced_updates(model: keras.Model) -> Iterator[None]:
    """Lets clipping, accumulation and loss scaling see the gradients of the whole batch.

    Keras clips and accumulates what each replica has, and adds up afterwards.

    Args:
        model: The compiled model.
    """
    with contextlib.ExitStack() as stack:
        for optimizer in optimizers(model):
            apply = functools.partial(_apply, optimizer)
            stack.enter_context(
                replaced(
                    optimizer, _backend_apply_gradients=apply, _all_reduce_sum_gradients=_as_it_is
                )
            )
        outer = model.optimizer
        while isinstance(outer, keras.optimizers.LossScaleOptimizer):
            check = functools.partial(_all_finite, outer.check_finite)
            stack.enter_context(replaced(outer, check_finite=check))
            outer = outer.inner_optimizer
        yield


def _as_it_is(grads_and_vars: list) -> list:
    return grads_and_vars


def _all_finite(own: Callable, grads: list) -> Any:
    """Whether the gradients of all replicas are finite, which have to decide alike."""
    finite = own(grads)
    context = tf.distribute.get_replica_context()
    if context is None:
        return finite
    bad = context.all_reduce(tf.distribute.ReduceOp.SUM, 1.0 - tf.cast(finite, "float32"))
    return tf.equal(bad, 0.0)


def _apply(optimizer: keras.optimizers.Optimizer, grads: list, trainable_variables: list) -> None:
    """Stands in for `Optimizer._backend_apply_gradients`, in a replica."""
    context = tf.distribute.get_replica_context()
    grads = context.all_reduce(tf.distribute.ReduceOp.SUM, list(grads))
    variables = [getattr(v, "value", v) for v in trainable_variables]
    if optimizer.gradient_accumulation_steps:
        _accumulate(optimizer, context, grads, variables)
    else:
        grads = optimizer._clip_gradients(grads)
        optimizer._apply_weight_decay(variables)
        optimizer._backend_update_step(grads, variables, optimizer.learning_rate)
    if optimizer.use_ema:
        optimizer._update_model_variables_moving_average(optimizer._trainable_variables)
        if optimizer.ema_overwrite_frequency:
            _overwrite_with_average(optimizer, context)


def _accumulate(optimizer, context, grads: list, variables: list) -> None:
    """Adds gradients up, and updates every so many batches.

    A condition around the exchange between replicas cannot be compiled, so the exchange comes
    first and the condition is on each device.
    """
    steps = optimizer.gradient_accumulation_steps
    due = tf.equal((optimizer._iterations.value + 1) % steps, 0)
    sums = [optimizer._accumulated_gradients[optimizer._get_variable_index(v)] for v in variables]
    sums = [s.value for s in sums]
    totals = [tf.convert_to_tensor(g) + s for g, s in zip(grads, sums, strict=True)]
    means = optimizer._clip_gradients([total / steps for total in totals])

    def on_device(variable, sum_, total, mean, due, rate):
        def update():
            if optimizer.weight_decay is not None and optimizer._use_weight_decay(variable):
                decay = tf.cast(rate, variable.dtype) * tf.cast(
                    optimizer.weight_decay, variable.dtype
                )
                variable.assign_sub(variable * decay)
            optimizer.update_step(mean, variable, rate)

        tf.cond(due, update, lambda: None)
        sum_.assign(tf.where(due, tf.zeros_like(total), total))

    def on_all(strategy, totals, means, due, rate):
        for variable, sum_, total, mean in zip(variables, sums, totals, means, strict=True):
            args = (sum_, total, mean, due, rate)
            strategy.extended.update(variable, on_device, args=args, group=False)

    rate = tf.convert_to_tensor(optimizer.learning_rate)
    context.merge_call(on_all, args=(totals, means, due, rate))


def _overwrite_with_average(optimizer, context) -> None:
    """Gives the variables their moving averages every so many updates."""
    due = tf.equal((optimizer.iterations + 1) % optimizer.ema_overwrite_frequency, 0)
    pairs = [
        (v.value, average.value)
        for v, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        )
        if average is not None
    ]

    def on_device(variable, average, due):
        variable.assign(tf.where(due, average, variable))

    def on_all(strategy, due):
        for variable, average in pairs:
            strategy.extended.update(variable, on_device, args=(average, due), group=False)

    context.merge_call(on_all, args=(due,))
