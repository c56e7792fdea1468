"""A Distiller beside the callbacks of this package, and on several devices."""

import keras
import numpy as np
import pytest
from distillation_nets import assert_same, compile_args, net, vectors, weights

from keras_optkit import callbacks, pruning, schedules
from keras_optkit.distillation import Distiller, FeatureHint, SoftTargets


def distiller(alpha=0.5, **changes):
    losses = [SoftTargets(), FeatureHint("features")]
    model = Distiller(net(dropout=0), net(width=16, seed=7), losses, alpha=alpha)
    model.compile(**compile_args(metrics=["accuracy"], **changes))
    return model


def fit(model, **kwargs):
    keras.utils.set_random_seed(3)
    return model.fit(*vectors(), **{"epochs": 3, "batch_size": 16, "verbose": 0, **kwargs})


def test_pruning_takes_the_kernels_of_the_student_only():
    model = distiller()
    pruner = callbacks.Pruning(pruning.ConstantSparsity(0.5, begin_step=0, frequency=1))
    history = fit(model, callbacks=[pruner]).history
    sparsity = [np.mean(w == 0) for w in weights(model.student) if w.ndim == 2]
    assert sparsity == [0.5, 0.5]
    assert history["sparsity"][-1] == 0.5
    (projection,) = model.projections
    teacher = model._teacher.models[0]
    assert all((w != 0).all() for w in weights(projection) + weights(teacher) if w.ndim == 2)


def test_early_stopping_watches_the_student_and_restores_it():
    model = distiller()
    stop = callbacks.EarlyStopping(
        "val_loss", patience=1, min_delta=100.0, restore_best_weights=True
    )
    seen = []
    spy = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(weights(model.student))
    )
    fit(model, epochs=6, validation_data=vectors(), callbacks=[spy, stop])
    assert len(seen) == 2
    assert_same(weights(model.student), seen[0], rtol=0, atol=0)


def test_a_schedule_drives_the_learning_rate():
    """Against Keras' own training at alpha 0, the same schedule on the optimizer."""
    curve = schedules.CosineDecay(0.1, 6)
    plain = net(dropout=0)
    plain.compile(**compile_args(optimizer=keras.optimizers.SGD(curve)))
    fit(plain)
    model = distiller(alpha=0, optimizer=keras.optimizers.SGD(0.5))
    fit(model, callbacks=[callbacks.LearningRate(schedules.CosineDecay(0.1, "3ep"))])
    assert_same(weights(model.student), weights(plain), rtol=0, atol=1e-6)


@pytest.mark.backends("tensorflow", "jax")
def test_several_steps_in_one_execution():
    single, several = distiller(), distiller(steps_per_execution=2)
    fit(single)
    fit(several)
    assert_same(weights(several), weights(single), rtol=1e-5, atol=1e-6)


@pytest.mark.backends("tensorflow")
def test_two_replicas_equal_one_device(mirrored):
    """Without BatchNorm, whose statistics are of each replica."""

    def train():
        def make(width, seed):
            keras.utils.set_random_seed(seed)
            layers = [
                keras.layers.Dense(width, activation="relu", name="features"),
                keras.layers.Dense(5, name="head"),
            ]
            return keras.Sequential([keras.Input((6,)), *layers])

        model = Distiller(make(8, 0), make(16, 1), [SoftTargets(), FeatureHint("features")])
        model.compile(**compile_args(optimizer=keras.optimizers.SGD(0.1)))
        # The logs too: a loss that is summed over replicas would be twice as large.
        history = fit(model, sample_weight=np.linspace(0.5, 1.5, 32), shuffle=False).history
        return weights(model), history

    expected, logs = train()
    with mirrored.scope():
        found, mirrored_logs = train()
    assert_same(found, expected, rtol=1e-4, atol=1e-6)
    for key, values in logs.items():
        np.testing.assert_allclose(mirrored_logs[key], values, rtol=1e-4, err_msg=key)
