"""A Distiller beside the callbacks of this package, and on several devices."""

import keras
import numpy as np
import pytest
from distillation_nets import assert_same, compile_args, net, vectors, weights

from keras_optkit import callbacks, pruning, schedules
from keras_optkit.distillation import (
    Distiller,
    FeatureHint,
    MovingAverageTeacher,
    SoftTargets,
    TeacherCache,
)
from keras_optkit.stopping.resume import resume as resume_module


def distiller(alpha=0.5, **changes):
    losses = [SoftTargets(), FeatureHint("features")]
    model = Distiller(net(dropout=0), net(width=16, seed=7), losses, alpha=alpha)
    model.compile(**compile_args(metrics=["accuracy"], **changes))
    return model


def fit(model, data=None, **kwargs):
    keras.utils.set_random_seed(3)
    x, *rest = vectors() if data is None else data
    kwargs = {"epochs": 3, "batch_size": 16 if rest else None, "verbose": 0, **kwargs}
    return model.fit(x, *rest[:1], sample_weight=rest[1] if rest[1:] else None, **kwargs)


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


class Interrupt(keras.callbacks.Callback):
    """Breaks off a `fit` in the middle of its second epoch."""

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == (1, 1):
            raise InterruptedError


@pytest.mark.parametrize("moving", [False, True], ids=["teacher", "moving average"])
def test_resume_ends_as_the_whole_training(tmp_path, monkeypatch, moving):
    """The projection, the moving average and the zeros go on as the student does."""
    # What a new process does not know.
    monkeypatch.setattr(resume_module, "_ENDED", {})

    def train(*extra):
        keras.utils.set_random_seed(3)
        student = net(dropout=0.3)
        teacher = MovingAverageTeacher(0.8) if moving else net(width=16, seed=7)
        losses = [SoftTargets()] if moving else [SoftTargets(), FeatureHint("features")]
        model = Distiller(student, teacher, losses)
        model.compile(**compile_args())
        pruner = callbacks.Pruning(pruning.ConstantSparsity(0.5, begin_step=1, frequency=1))
        history = fit(model, callbacks=[pruner, *extra]).history
        return [*weights(model), *weights(student)], history

    expected, logs = train()
    resume = {"every": "1step", "verbose": 0}
    with pytest.raises(InterruptedError):
        train(callbacks.Resume(tmp_path / "run", **resume), Interrupt())
    found, resumed = train(callbacks.Resume(tmp_path / "run", **resume))
    assert_same(found, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(resumed["distillation_loss"], logs["distillation_loss"], rtol=1e-5)


def noisy(x, seed):
    import tensorflow as tf

    return x + tf.random.stateless_normal((6,), seed)


@pytest.mark.backends("tensorflow")
def test_resume_on_a_cache(tmp_path, monkeypatch):
    """Its orders and views go on as well."""
    monkeypatch.setattr(resume_module, "_ENDED", {})

    def train(*extra):
        keras.utils.set_random_seed(3)
        student, teacher = net(dropout=0.3), net(width=16, seed=7)
        cache = TeacherCache(tmp_path / "cache", teacher, vectors(), noisy, views=3)
        model = Distiller(student, cache, SoftTargets())
        model.compile(**compile_args())
        data = cache.dataset(16, seed=1)
        model.fit(data, epochs=3, verbose=0, shuffle=False, callbacks=list(extra))
        return [*weights(model), *weights(student)]

    expected = train()
    resume = {"every": "1step", "verbose": 0}
    with pytest.raises(InterruptedError):
        train(callbacks.Resume(tmp_path / "run", **resume), Interrupt())
    found = train(callbacks.Resume(tmp_path / "run", **resume))
    assert_same(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.backends("tensorflow", "jax")
def test_several_steps_in_one_execution():
    single, several = distiller(), distiller(steps_per_execution=2)
    fit(single)
    fit(several)
    assert_same(weights(several), weights(single), rtol=1e-5, atol=1e-6)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("kind", ["teacher", "moving average", "cache"])
def test_two_replicas_equal_one_device(mirrored, tmp_path, kind):
    """Without BatchNorm, whose statistics are of each replica."""

    def train():
        def make(width, seed):
            keras.utils.set_random_seed(seed)
            layers = [
                keras.layers.Dense(width, activation="relu", name="features"),
                keras.layers.Dense(5, name="head"),
            ]
            return keras.Sequential([keras.Input((6,)), *layers])

        data = (*vectors(), np.linspace(0.5, 1.5, 32))
        teacher, losses = make(16, 1), [SoftTargets()]
        if kind == "moving average":
            teacher = MovingAverageTeacher(0.8)
        elif kind == "cache":
            teacher = TeacherCache(tmp_path, teacher, data)
        else:
            losses.append(FeatureHint("features"))
        model = Distiller(make(8, 0), teacher, losses)
        model.compile(**compile_args(optimizer=keras.optimizers.SGD(0.1)))
        if kind == "cache":
            data = (teacher.dataset(16, shuffle=False),)
        # The logs too: a loss that is summed over replicas would be twice as large.
        history = fit(model, data, shuffle=False).history
        return weights(model), history

    expected, logs = train()
    with mirrored.scope():
        found, mirrored_logs = train()
    assert_same(found, expected, rtol=1e-4, atol=1e-6)
    for key, values in logs.items():
        # A divergence of nearly equal outputs is what is left of sums near 1, which are rounded.
        np.testing.assert_allclose(mirrored_logs[key], values, rtol=1e-4, atol=1e-6, err_msg=key)
