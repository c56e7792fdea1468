import json

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import EarlyStopping, Pruning
from keras_optkit.pruning import ConstantSparsity, PolynomialDecay

TARGET = 0.75  # a whole number of the 32 and 24 weights of the toy model's kernels


def zeros(model):
    return [
        float(np.mean(keras.ops.convert_to_numpy(v) == 0))
        for v in model.trainable_variables
        if len(v.shape) > 1
    ]


class Watch(keras.callbacks.Callback):
    """The sparsity of each kernel as another callback sees it after every batch."""

    def on_train_begin(self, logs=None):
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        self.seen.append(zeros(self.model))


def ramp(**kwargs):
    return Pruning(PolynomialDecay(0.0, TARGET, 0, 8, frequency=2), **kwargs)


def check_zeros_hold(model, toy, settled=8, batches=16, **kwargs):
    watches = [Watch(), Watch()]
    callbacks = [watches[0], ramp(), watches[1]]
    model.fit(*toy, batch_size=16, epochs=4, verbose=0, callbacks=callbacks, **kwargs)
    assert watches[0].seen == watches[1].seen
    assert len(watches[0].seen) == batches
    assert watches[0].seen[settled:] == [[TARGET, TARGET]] * (batches - settled)
    assert zeros(model) == [TARGET, TARGET]


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    "ema": lambda: keras.optimizers.SGD(0.01, use_ema=True, ema_momentum=0.5),
    "ema_overwrite": lambda: keras.optimizers.Adam(
        0.01, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3
    ),
    "lion": lambda: keras.optimizers.Lion(0.01),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_hold_after_every_step_whatever_the_optimizer(make_model, toy, name):
    check_zeros_hold(make_model(OPTIMIZERS[name]()), toy)


def test_under_accumulation(make_model, toy):
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    # 16 batches are 8 updates: the last one completes the ramp.
    check_zeros_hold(make_model(optimizer), toy, settled=15)


def test_under_mixed_precision(make_model, toy):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = make_model("adam")
    finally:
        keras.config.set_dtype_policy("float32")
    model.optimizer.initial_scale = 1.0
    check_zeros_hold(model, toy)


@pytest.mark.backends("tensorflow", "jax")
@pytest.mark.parametrize("kwargs", [{"jit_compile": True}, {"jit_compile": False}])
def test_under_jit(make_model, toy, kwargs):
    check_zeros_hold(make_model("adam", **kwargs), toy)


def test_eagerly(make_model, toy):
    check_zeros_hold(make_model("adam", run_eagerly=True), toy)


@pytest.mark.backends("tensorflow", "jax")
def test_steps_per_execution(make_model, toy):
    # 4 batches in an epoch, in executions of 3 and 1.
    check_zeros_hold(make_model("adam", steps_per_execution=3), toy, settled=4, batches=8)


def test_on_a_model_that_has_already_trained(make_model, toy):
    model = make_model("adam")
    model.fit(*toy, batch_size=16, epochs=2, verbose=0)
    check_zeros_hold(model, toy)


def test_an_existing_constraint_still_applies(toy, make_model):
    model = make_model("adam")
    constraint = keras.constraints.MaxNorm(0.5)
    for variable in model.trainable_variables[::2]:
        variable.constraint = constraint
    check_zeros_hold(model, toy)
    for variable in model.trainable_variables[::2]:
        norms = np.linalg.norm(keras.ops.convert_to_numpy(variable), axis=0)
        assert (norms <= 0.5 + 1e-5).all()
        assert variable.constraint is constraint


def test_no_negative_zeros(make_model, toy):
    model = make_model("adam")
    model.fit(*toy, batch_size=16, epochs=3, verbose=0, callbacks=[ramp()])
    for weights in model.get_weights():
        assert not np.signbit(weights[weights == 0]).any()


def test_files_saved_in_mid_run_and_after_it_are_ordinary(make_model, toy, tmp_path):
    mid, end = str(tmp_path / "mid.keras"), str(tmp_path / "end.keras")

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                self.model.save(mid)

    model = make_model("adam")
    model.fit(*toy, batch_size=16, epochs=3, verbose=0, callbacks=[Save(), ramp()])
    model.save(end)
    for path in (mid, end):
        loaded = keras.models.load_model(path)
        assert zeros(loaded) == [TARGET, TARGET]
        assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
        loaded.fit(*toy, verbose=0)


def test_without_the_callback_weights_grow_again(make_model, toy):
    model = make_model("adam")
    check_zeros_hold(model, toy)
    model.fit(*toy, verbose=0)
    assert zeros(model) != [TARGET, TARGET]
    assert [v.constraint for v in model.trainable_variables] == [None] * 4


def test_sparsity_is_logged(make_model, toy):
    history = make_model("adam").fit(*toy, batch_size=16, epochs=3, verbose=0, callbacks=[ramp()])
    assert history.history["sparsity"][0] < TARGET
    assert history.history["sparsity"][1:] == [TARGET, TARGET]
    json.dumps(history.history)


def test_only_what_is_selected_is_pruned(make_model, toy):
    model = make_model("adam")
    callback = Pruning(ConstantSparsity(0.5, 0), select=model.layers[1])
    model.fit(*toy, verbose=0, callbacks=[callback])
    assert zeros(model) == [0.0, 0.5]


def test_the_weights_that_stay_are_the_largest(make_model, toy):
    model = make_model(keras.optimizers.SGD(1e-6))
    before = [np.abs(w) for w in model.get_weights()[::2]]
    model.fit(*toy, verbose=0, callbacks=[Pruning(ConstantSparsity(0.5, 0))])
    for weights, scores in zip(model.get_weights()[::2], before, strict=True):
        assert scores[weights == 0].max() < scores[weights != 0].min()


def test_early_stopping_restores_weights_of_the_final_sparsity(make_model, toy):
    model = make_model(keras.optimizers.SGD(3.0))
    stop = EarlyStopping("loss", restore_best_weights=True, patience=20)
    model.fit(*toy, batch_size=16, epochs=5, verbose=0, callbacks=[stop, ramp()])
    assert stop.best_epoch >= 1
    assert zeros(model) == [TARGET, TARGET]


def test_initial_epoch_goes_on_with_the_zeros_that_are_there(make_model, toy):
    model, watch = make_model("adam"), Watch()
    model.fit(*toy, batch_size=16, epochs=3, verbose=0, callbacks=[ramp()])
    callbacks = [Pruning(PolynomialDecay(0.0, TARGET, 0, 8, frequency=100)), watch]
    model.fit(*toy, batch_size=16, epochs=5, initial_epoch=3, verbose=0, callbacks=callbacks)
    assert watch.seen == [[TARGET, TARGET]] * 8


def test_two_callbacks_prune_two_layers(make_model, toy):
    model = make_model("adam")
    callbacks = [
        Pruning(ConstantSparsity(sparsity, 0), select=layer)
        for sparsity, layer in zip((0.5, 0.75), model.layers, strict=True)
    ]
    model.fit(*toy, verbose=0, callbacks=callbacks)
    assert zeros(model) == [0.5, 0.75]


def test_a_fit_that_broke_leaves_nothing_behind(make_model, toy):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    model = make_model("adam")
    with pytest.raises(KeyboardInterrupt):
        model.fit(*toy, batch_size=16, epochs=4, verbose=0, callbacks=[ramp(), Breaks()])
    model.fit(*toy, verbose=0)
    fresh = make_model("adam")
    fresh.fit(*toy, verbose=0)
    assert len(model.optimizer.variables) == len(fresh.optimizer.variables)


def test_a_beginning_behind_the_run_is_told_with_both_numbers(make_model, toy):
    model = make_model("adam")
    before = model.get_weights()
    with pytest.raises(ValueError, match="begin at step 40, and this fit has 8 steps"):
        callback = Pruning(ConstantSparsity(0.5, "10ep"))
        model.fit(*toy, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_end_behind_the_run_is_told_with_both_numbers(make_model, toy):
    with pytest.warns(UserWarning, match="at step 40, and this fit has 8"):
        callback = Pruning(PolynomialDecay(0, 0.5, 0, "10ep"))
        make_model("adam").fit(*toy, batch_size=16, epochs=2, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("schedule", [0.5, None, "polynomial"])
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match="Received: schedule="):
        Pruning(schedule)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("loss_scaling", [False, True])
def test_under_mirrored_strategy(toy, make_model, mirrored, loss_scaling):
    with mirrored.scope():
        optimizer = keras.optimizers.AdamW(0.01)
        if loss_scaling:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
        model = make_model(optimizer)
    check_zeros_hold(model, toy)
    # Each replica holds the same zeros.
    for variable in model.trainable_variables[::2]:
        copies = [np.asarray(v) for v in mirrored.experimental_local_results(variable.value)]
        np.testing.assert_array_equal(copies[0], copies[1])
