import json

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import LearningRate, ReduceOnPlateau
from keras_optkit.schedules import CosineDecay, StepDecay

BATCH = 16  # 64 samples: 4 batches in an epoch


class Reports(keras.callbacks.Callback):
    """Puts one number after the other into the logs as "told", as if it had been measured."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs["told"] = self.values[epoch]


def fit(model, toy, values, callbacks, **kwargs):
    kwargs = {"epochs": len(values), "batch_size": BATCH, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*toy, callbacks=[Reports(values), *callbacks], **kwargs).history


VALUES = [5, 4, 4, 4, 3.99995, 4, 3, 3, 3, 3, 3, 2, 2.5, 2.5, 2.5, 2.5]
ARGUMENTS = [
    {"patience": 2},
    {"patience": 0, "factor": 0.5},
    {"patience": 1, "cooldown": 2},
    {"patience": 1, "min_lr": 0.004, "factor": 0.5},
    {"patience": 2, "min_delta": 0.0},
    {"patience": 2, "mode": "max"},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_equal_to_keras_on_a_plain_rate(make_model, toy, arguments):
    """Epoch for epoch the same rates and the same losses as with ReduceLROnPlateau."""
    arguments = {"monitor": "told", "mode": "min", **arguments}
    runs = []
    for kind in (keras.callbacks.ReduceLROnPlateau, ReduceOnPlateau):
        keras.utils.set_random_seed(1)
        model = make_model(keras.optimizers.SGD(0.1))
        runs.append(fit(model, toy, VALUES, [kind(**arguments)]))
    theirs, ours = runs
    assert len(set(ours["learning_rate"])) > 1
    for name in ("learning_rate", "loss"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)
    json.dumps(ours)


def rates(make_model, toy, callbacks, values=(1, 1, 1, 1, 1, 1), optimizer=None, **kwargs):
    model = make_model(optimizer or keras.optimizers.SGD(0.1))
    return fit(model, toy, list(values), callbacks, **kwargs)["learning_rate"]


@pytest.mark.parametrize("first", [0, 1])
def test_a_factor_on_whatever_schedule_is_there_in_either_order(make_model, toy, first):
    pair = [
        LearningRate(CosineDecay(0.2)),
        ReduceOnPlateau("told", 0.5, patience=2, mode="min"),
    ]
    found = rates(make_model, toy, [pair[first], pair[1 - first]])
    steps = np.array([3, 7, 11, 15, 19, 23])
    plain = 0.1 * (1 + np.cos(np.pi * steps / 24))
    np.testing.assert_allclose(found, plain * [1, 1, 1, 0.5, 0.5, 0.25], rtol=1e-5)


def test_on_a_schedule_of_keras_in_the_optimizer(make_model, toy):
    own = keras.optimizers.schedules.ExponentialDecay(0.1, 4, 0.9)
    plateau = ReduceOnPlateau("told", 0.5, patience=3, mode="min")
    found = rates(make_model, toy, [plateau], optimizer=keras.optimizers.SGD(own))
    plain = 0.1 * 0.9 ** (np.array([3, 7, 11, 15, 19, 23]) / 4)
    np.testing.assert_allclose(found, plain * [1, 1, 1, 1, 0.5, 0.5], rtol=1e-5)
    assert plateau.cuts == [3]


def test_the_step_uses_the_cut_rate_from_the_next_update_on(make_model, toy):
    """A schedule that is 0.1 and a factor of 0.5 train as a rate of 0.05 does."""
    by_hand = [LearningRate(lambda step: 0.1 * (0.5 ** keras.ops.cast(step >= 12, "float32")))]
    plateau = [ReduceOnPlateau("told", 0.5, patience=2, mode="min")]
    losses = []
    for callbacks in (by_hand, plateau):
        keras.utils.set_random_seed(1)
        model = make_model(keras.optimizers.SGD(0.1))
        losses.append(fit(model, toy, [1, 1, 1, 1, 1], callbacks)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)
    assert losses[0][4] != losses[0][3]


def test_a_cut_never_raises_the_rate(make_model, toy):
    callbacks = [
        LearningRate(StepDecay(0.1, "2ep", 0.01)),
        ReduceOnPlateau("told", 0.5, patience=1, mode="min", min_lr=0.04),
    ]
    found = rates(make_model, toy, callbacks, [1, 1, 1, 1])
    np.testing.assert_allclose(found, [0.1, 0.1, 0.001, 0.001], rtol=1e-5)


def test_a_nan_is_never_best(make_model, toy):
    """TRAPS: Keras takes a NaN in epoch 0 for the best value and cuts 0.1 to 1e-4."""
    plateau = ReduceOnPlateau("told", patience=2, mode="min")
    found = rates(make_model, toy, [plateau], [np.nan, 5, 4, 3, 2, 1])
    np.testing.assert_allclose(found, [0.1] * 6, rtol=1e-6)
    assert plateau.best_value == 1


def test_warmup(make_model, toy):
    plateau = ReduceOnPlateau("told", 0.5, patience=1, mode="min", warmup="2ep")
    found = rates(make_model, toy, [plateau], [1, 2, 3, 4, 5])
    # Updates 3, 7, 11, 15 and 19. Epochs in the warm-up do not count: the best is the 2 of
    # epoch 1, at whose end the warm-up is over.
    expected = [0.1 * 3 / 8, 0.1 * 7 / 8, 0.1, 0.05, 0.025]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_cut_goes_back_to_the_best_weights(make_model, toy):
    seen = []

    class Weights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.get_weights())

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 4:
                self.at_start = self.model.get_weights()

    plateau = ReduceOnPlateau("told", 0.5, 2, mode="min", restore_best_weights=True)
    track = Weights()
    rates(make_model, toy, [track, plateau], [3, 1, 2, 2, 2])
    assert plateau.cuts == [3]
    for best, restored, last in zip(seen[1], track.at_start, seen[3], strict=True):
        np.testing.assert_array_equal(best, restored)
        assert not np.array_equal(last, restored)


def test_each_fit_starts_anew_and_the_optimizer_has_its_rate_back(make_model, toy):
    model = make_model(keras.optimizers.SGD(0.1))
    plateau = ReduceOnPlateau("told", patience=1, mode="min")
    variables = None
    for _ in range(3):
        history = fit(model, toy, [1, 1, 1], [plateau])
        np.testing.assert_allclose(history["learning_rate"], [0.1, 0.1, 0.01], rtol=1e-5)
        assert plateau.cuts == [1, 2]
        assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == np.float32(0.1)
        variables = variables or [v.path for v in model.optimizer.variables]
        assert [v.path for v in model.optimizer.variables] == variables


def test_a_run_that_goes_on_with_its_state_keeps_the_cut(make_model, toy):
    arguments = {"monitor": "told", "patience": 2, "mode": "min", "cooldown": 1}
    values = [3, 3, 3, 3, 3, 3, 3, 3]
    whole = rates(make_model, toy, [ReduceOnPlateau(**arguments)], values)
    model, first = make_model(keras.optimizers.SGD(0.1)), ReduceOnPlateau(**arguments)
    part = fit(model, toy, values, [first], epochs=4)["learning_rate"]
    second = ReduceOnPlateau(**arguments)
    second.set_state(first.get_state())
    part += fit(model, toy, values, [second], initial_epoch=4)["learning_rate"]
    np.testing.assert_allclose(part, whole, rtol=1e-6)
    assert len(set(whole)) > 2


def test_accumulation_and_steps_per_execution(make_model, toy):
    kwargs = {} if keras.backend.backend() == "torch" else {"steps_per_execution": 3}
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    model = make_model(optimizer, **kwargs)
    plateau = ReduceOnPlateau("told", 0.5, patience=1, mode="min")
    found = fit(model, toy, [1, 1, 1, 1], [plateau])["learning_rate"]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.05, 0.025], rtol=1e-5)


def test_under_loss_scaling(make_model, toy):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), initial_scale=1.0)
    plateau = ReduceOnPlateau("told", 0.5, patience=1, mode="min")
    found = rates(make_model, toy, [plateau], [1, 1, 1], optimizer)
    np.testing.assert_allclose(found, [0.1, 0.1, 0.05], rtol=1e-5)


@pytest.mark.backends("tensorflow")
def test_under_mirrored_strategy(make_model, toy, mirrored):
    with mirrored.scope():
        model = make_model(keras.optimizers.SGD(0.1))
    plateau = ReduceOnPlateau("told", 0.5, patience=1, mode="min")
    found = fit(model, toy, [1, 1, 1, 1], [plateau])["learning_rate"]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.05, 0.025], rtol=1e-5)


def test_a_subclassed_model_with_its_own_step(toy):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, inputs):
            return self.dense(inputs)

        def train_step(self, *args):
            return super().train_step(*args)

    model = Own()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss)
    plateau = ReduceOnPlateau("told", 0.5, patience=1, mode="min")
    found = fit(model, toy, [1, 1, 1], [plateau])["learning_rate"]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.05], rtol=1e-5)


def test_it_says_each_cut(make_model, toy, capsys):
    rates(make_model, toy, [ReduceOnPlateau("told", 0.5, 2, verbose=1, mode="min")], [1, 1, 1])
    line = "Epoch 3: ReduceOnPlateau cuts the learning rate from 0.1 to 0.05; best told: 1.0"
    assert line in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        {"factor": 0.0},
        {"factor": 1.0},
        {"factor": float("nan")},
        {"patience": -1},
        {"patience": 1.5},
        {"cooldown": -1},
        {"min_lr": -0.1},
        {"min_lr": float("nan")},
        {"mode": "down"},
        {"min_delta": float("inf")},
        {"warmup": "2 epochs"},
    ],
    ids=str,
)
def test_what_is_out_of_range_is_told_at_construction(arguments):
    ((name, _),) = arguments.items()
    with pytest.raises(ValueError, match=rf"`{name}`.*Received: "):
        ReduceOnPlateau(**arguments)


def test_a_typo_is_told_before_the_first_step(make_model, toy):
    model = make_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match="Did you mean 'val_loss'"):
        model.fit(*toy, verbose=0, callbacks=[ReduceOnPlateau("val_los")])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_epochs_without_the_value_do_not_count(make_model, toy):
    plateau = ReduceOnPlateau(patience=1, min_delta=100)
    with pytest.warns(UserWarning, match="ReduceOnPlateau found no 'val_loss'"):
        fit(
            make_model(keras.optimizers.SGD(0.1)),
            toy,
            [0] * 6,
            [plateau],
            validation_data=toy,
            validation_freq=2,
        )
    assert plateau.cuts == [3, 5]
