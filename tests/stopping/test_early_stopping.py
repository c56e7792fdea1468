import json

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import EarlyStopping, StopReason
from keras_optkit.core.callback import OptkitCallback

NAN = float("nan")


class Script(keras.callbacks.Callback):
    """Puts given values into the logs, and a mark of the epoch into the weights."""

    def __init__(self, values, name="val_loss"):
        super().__init__()
        self.values, self.name = values, name

    def on_epoch_end(self, epoch, logs=None):
        value = self.values[epoch]
        if value is not None:
            logs[self.name] = value
        self.model.set_weights([np.full_like(w, epoch) for w in self.model.get_weights()])


def run(model, toy, values, stop, **kwargs):
    callbacks = [Script(values, stop.monitor), stop]
    history = model.fit(*toy, epochs=len(values), verbose=0, callbacks=callbacks, **kwargs)
    return len(history.epoch)


def restored_epoch(model):
    return int(model.get_weights()[0].ravel()[0])


def random_values(seed, count=12):
    return list(np.random.default_rng(seed).normal(size=count).cumsum().round(1).astype(float))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"patience": 2},
        {"patience": 1, "min_delta": 0.5},
        {"patience": 2, "baseline": 0.0},
        {"patience": 1, "start_from_epoch": 3},
    ],
)
def test_equal_to_keras_where_keras_is_right(toy, make_model, seed, mode, kwargs):
    kwargs = {"mode": mode, "restore_best_weights": True, **kwargs}
    theirs, ours = keras.callbacks.EarlyStopping(**kwargs), EarlyStopping(**kwargs)
    model = make_model()
    epochs = [run(model, toy, random_values(seed), stop) for stop in (theirs,)]
    best = restored_epoch(model)
    epochs.append(run(model, toy, random_values(seed), ours))
    assert epochs[0] == epochs[1]
    assert restored_epoch(model) == best
    assert ours.stopped_epoch == theirs.stopped_epoch


def test_nan_is_never_best(make_model, toy):
    stop = EarlyStopping(patience=3, restore_best_weights=True)
    model = make_model()
    assert run(model, toy, [NAN, 1.0, 0.9, 0.8, 0.7, NAN, NAN, NAN], stop) == 8
    assert (stop.best_epoch, stop.best_value) == (4, 0.7)
    assert restored_epoch(model) == 4
    # The trap: Keras' own takes the NaN for the best value and stops on the way down.
    theirs = keras.callbacks.EarlyStopping(patience=3)
    assert run(make_model(), toy, [NAN, 1.0, 0.9, 0.8, 0.7, 0.6], theirs) < 6


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_what_a_value_that_is_not_finite_does(make_model, toy, value):
    stop = EarlyStopping(patience=5, check_finite="stop", restore_best_weights=True)
    model = make_model()
    assert run(model, toy, [1.0, 0.9, value, 0.8], stop) == 3
    assert stop.stopped_reason is StopReason.NOT_FINITE
    assert restored_epoch(model) == 1
    with pytest.raises(FloatingPointError, match="Epoch 3: val_loss is"):
        run(make_model(), toy, [1.0, 0.9, value], EarlyStopping(check_finite="raise"))
    assert run(make_model(), toy, [1.0, 0.9, value, 0.8], EarlyStopping(patience=5)) == 4


def test_reasons_and_explanation(make_model, toy, capsys):
    stop = EarlyStopping(patience=2, verbose=1, restore_best_weights=True)
    run(make_model(), toy, [1.0, 0.5, 0.6, 0.7, 0.4], stop)
    assert (stop.stopped_reason, stop.stopped_epoch) == (StopReason.PATIENCE, 3)
    line = (
        "Training ended: no improvement within the patience (epoch 4). "
        "Best val_loss: 0.5 in epoch 2, whose weights are restored."
    )
    assert line in capsys.readouterr().out
    run(make_model(), toy, [1.0, 0.5, 0.4], stop)
    assert (stop.stopped_reason, stop.stopped_epoch) == (StopReason.COMPLETED, 0)
    assert stop.best_epoch == 2


def test_one_instance_over_three_fits(make_model, toy):
    stop = EarlyStopping("val_accuracy", min_delta=0.05, patience=2)
    for _ in range(3):
        assert run(make_model(), toy, [0.1, 0.2, 0.24, 0.24, 0.9], stop) == 4
        assert stop.best_value == 0.2


def test_epochs_without_the_value_do_not_count(make_model, toy):
    stop = EarlyStopping(patience=2)
    values = [1.0, None, None, None, 0.9, None, 1.0, None, 1.0]
    assert run(make_model(), toy, values, stop) == 9
    assert stop.stopped_epoch == 8


def test_validation_freq(make_model, toy):
    stop = EarlyStopping(patience=50)
    with pytest.warns(UserWarning, match="no 'val_loss' in this epoch.*validation_data"):
        make_model().fit(*toy, epochs=3, verbose=0, callbacks=[stop])
    assert stop.best_epoch is None
    with pytest.warns(UserWarning, match="no 'val_loss' in this epoch"):
        make_model().fit(
            *toy, epochs=4, verbose=0, validation_split=0.5, validation_freq=2, callbacks=[stop]
        )
    assert stop.best_epoch in (1, 3)


def test_a_typo_is_told_before_the_first_step(make_model, toy):
    model = make_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match="Did you mean 'val_accuracy'"):
        model.fit(*toy, verbose=0, callbacks=[EarlyStopping("val_acuracy")])
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_epochs_in_which_the_model_still_changes_do_not_count(make_model, toy):
    class Unsettled(OptkitCallback):
        def _install(self, epoch, state):
            self.epoch = epoch

        def on_epoch_end(self, epoch, logs=None):
            self.epoch = epoch

        @property
        def settled(self):
            return self.epoch >= 2

    model, values = make_model(), [0.1, 0.2, 0.9, 0.8, 0.85]
    stop = EarlyStopping(restore_best_weights=True, patience=2)
    callbacks = [Script(values), Unsettled(), stop]
    model.fit(*toy, epochs=5, verbose=0, callbacks=callbacks)
    assert (stop.best_epoch, restored_epoch(model)) == (3, 3)


def test_the_best_weights_under_a_moving_average_are_the_averaged_ones(make_model, toy):
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    model, stop = make_model(optimizer), EarlyStopping("loss", restore_best_weights=True)
    averages = []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            values = self.model.optimizer._model_variables_moving_average
            averages.append([keras.ops.convert_to_numpy(v).copy() for v in values])

    model.fit(*toy, epochs=3, verbose=0, callbacks=[Keep(), stop])
    assert stop.best_epoch == 2
    for ours, average in zip(model.get_weights(), averages[2], strict=True):
        np.testing.assert_array_equal(ours, average)
    # What is trained meanwhile stays the raw weights.
    plain = make_model(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
    assert not np.array_equal(plain.get_weights()[0], model.get_weights()[0])


def test_training_itself_is_not_touched(make_model, toy):
    weights = []
    for callbacks in ([], [EarlyStopping("loss", patience=9, restore_best_weights=True)]):
        keras.utils.set_random_seed(3)
        model = make_model(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5))
        history = model.fit(*toy, epochs=4, shuffle=False, verbose=0, callbacks=callbacks)
        weights.append((model.get_weights(), history.history["loss"]))
    for a, b in zip(weights[0][0], weights[1][0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert weights[0][1] == weights[1][1]
    json.dumps(history.history)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"patience": -1}, "patience=-1"),
        ({"patience": 1.5}, "patience=1.5"),
        ({"start_from_epoch": -2}, "start_from_epoch=-2"),
        ({"mode": "down"}, "mode='down'"),
        ({"min_delta": NAN}, "min_delta=nan"),
        ({"check_finite": True}, "check_finite=True"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match="Received: " + message):
        EarlyStopping(**kwargs)
