import json

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import EarlyStopping, StopReason
from keras_optkit.core.callback import OptkitCallback
from keras_optkit.stopping import prechelt
from keras_optkit.stopping.best_weights import BestWeights

NAN = float("nan")


@pytest.fixture(scope="module")
def shared():
    """A compiled model for what only counts epochs: it is compiled once."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), metrics=["accuracy"])
    return model


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
def test_equal_to_keras_where_keras_is_right(toy, shared, seed, mode, kwargs):
    kwargs = {"mode": mode, "restore_best_weights": True, **kwargs}
    theirs, ours = keras.callbacks.EarlyStopping(**kwargs), EarlyStopping(**kwargs)
    epochs = run(shared, toy, random_values(seed), theirs)
    best = restored_epoch(shared)
    assert run(shared, toy, random_values(seed), ours) == epochs
    assert restored_epoch(shared) == best
    assert ours.stopped_epoch == theirs.stopped_epoch


def test_nan_is_never_best(make_model, shared, toy):
    stop = EarlyStopping(patience=3, restore_best_weights=True)
    model = make_model()
    assert run(model, toy, [NAN, 1.0, 0.9, 0.8, 0.7, NAN, NAN, NAN], stop) == 8
    assert (stop.best_epoch, stop.best_value) == (4, 0.7)
    assert restored_epoch(model) == 4
    # The trap: Keras' own takes the NaN for the best value and stops on the way down.
    theirs = keras.callbacks.EarlyStopping(patience=3)
    assert run(shared, toy, [NAN, 1.0, 0.9, 0.8, 0.7, 0.6], theirs) < 6


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_what_a_value_that_is_not_finite_does(make_model, shared, toy, value):
    stop = EarlyStopping(patience=5, check_finite="stop", restore_best_weights=True)
    model = make_model()
    assert run(model, toy, [1.0, 0.9, value, 0.8], stop) == 3
    assert stop.stopped_reason is StopReason.NOT_FINITE
    assert restored_epoch(model) == 1
    with pytest.raises(FloatingPointError, match="Epoch 3: val_loss is"):
        run(shared, toy, [1.0, 0.9, value], EarlyStopping(check_finite="raise"))
    assert run(shared, toy, [1.0, 0.9, value, 0.8], EarlyStopping(patience=5)) == 4


def test_reasons_and_explanation(shared, toy, capsys):
    stop = EarlyStopping(patience=2, verbose=1, restore_best_weights=True)
    run(shared, toy, [1.0, 0.5, 0.6, 0.7, 0.4], stop)
    assert (stop.stopped_reason, stop.stopped_epoch) == (StopReason.PATIENCE, 3)
    line = (
        "Training ended: no improvement within the patience (epoch 4). "
        "Best val_loss: 0.5 in epoch 2, whose weights are restored."
    )
    assert line in capsys.readouterr().out
    run(shared, toy, [1.0, 0.5, 0.4], stop)
    assert (stop.stopped_reason, stop.stopped_epoch) == (StopReason.COMPLETED, 0)
    assert stop.best_epoch == 2


def test_one_instance_over_three_fits(shared, toy):
    stop = EarlyStopping("val_accuracy", min_delta=0.05, patience=2)
    for _ in range(3):
        assert run(shared, toy, [0.1, 0.2, 0.24, 0.24, 0.9], stop) == 4
        assert stop.best_value == 0.2


def test_epochs_without_the_value_do_not_count(shared, toy):
    stop = EarlyStopping(patience=2)
    values = [1.0, None, None, None, 0.9, None, 1.0, None, 1.0]
    assert run(shared, toy, values, stop) == 9
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


class Scripts(keras.callbacks.Callback):
    """Puts several given values into the logs of each epoch."""

    def __init__(self, **columns):
        super().__init__()
        self.columns = columns

    def on_epoch_end(self, epoch, logs=None):
        logs.update({name: values[epoch] for name, values in self.columns.items()})


def run_columns(model, toy, stop, **columns):
    epochs = len(next(iter(columns.values())))
    history = model.fit(
        *toy, epochs=epochs, verbose=0, batch_size=16, callbacks=[Scripts(**columns), stop]
    )
    return len(history.epoch)


LOSS = [1.0, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99, 1.0]
ACCURACY = [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4]


@pytest.mark.parametrize(("combine", "epochs"), [("any", 4), ("all", 6)])
def test_several_monitors(shared, toy, combine, epochs):
    stop = EarlyStopping(["val_loss", "val_accuracy"], patience=2, combine=combine)
    assert run_columns(shared, toy, stop, val_loss=LOSS, val_accuracy=ACCURACY) == epochs
    assert (stop.best_epoch, stop.best_value) == (1, 0.9)
    assert stop.stopped_reason is StopReason.PATIENCE


@pytest.mark.parametrize(("combine", "epochs"), [("any", 2), ("all", 4)])
def test_targets_of_several_monitors(shared, toy, combine, epochs):
    targets = {"target": [0.95, 0.4], "combine": combine, "patience": 9}
    stop = EarlyStopping(["val_loss", "val_accuracy"], **targets)
    # The loss is at its target in epoch 2 and, having risen, is not in epoch 4; it is again then.
    loss = [1.0, 0.9, 0.96, 0.95]
    assert run_columns(shared, toy, stop, val_loss=loss, val_accuracy=ACCURACY[:4]) == epochs
    assert stop.stopped_reason is StopReason.TARGET


def test_target_and_divergence(shared, toy):
    stop = EarlyStopping("val_accuracy", patience=9, target=0.3, divergence=0.05)
    assert run(shared, toy, ACCURACY, stop) == 3
    assert stop.stopped_reason is StopReason.TARGET
    assert "the target was reached (epoch 3: val_accuracy is 0.3)" in stop.explanation
    assert run(shared, toy, [0.1, 0.04, 0.2], stop) == 2
    assert stop.stopped_reason is StopReason.DIVERGED
    assert "val_accuracy is 0.04, worse than 0.05" in stop.explanation
    with pytest.raises(ValueError, match="go up.*Received: target=0.1, divergence=0.5"):
        run(shared, toy, ACCURACY, EarlyStopping("val_accuracy", target=0.1, divergence=0.5))


def test_relative_min_delta(shared, toy):
    values = [100.0, 95.0, 91.0, 89.0, 88.0]
    assert run(shared, toy, values, EarlyStopping(min_delta=0.1, patience=3)) == 5
    relative = EarlyStopping(min_delta=0.1, min_delta_mode="relative", patience=3)
    run(shared, toy, values, relative)
    assert (relative.best_epoch, relative.best_value) == (3, 89.0)


def test_smoothing(shared, toy):
    rng = np.random.default_rng(4)
    values = list((np.linspace(1, 0.5, 14) + rng.normal(0, 0.2, 14)).astype(float))
    means = [np.mean(values[max(0, i - 3) : i + 1]) for i in range(14)]
    stop = EarlyStopping(window=4, patience=14)
    run(shared, toy, values, stop)
    assert stop.best_epoch == int(np.argmin(means)) != int(np.argmin(values))
    assert stop.best_value == pytest.approx(min(means))
    # A NaN enters no average.
    stop = EarlyStopping(window=2, patience=9)
    run(shared, toy, [1.0, NAN, 0.8], stop)
    assert stop.best_value == pytest.approx(0.9)


def test_patience_in_steps(shared, toy):
    # 4 updates an epoch; the best epoch is the second one.
    for patience, epochs in (
        ("8step", 4),
        ("9step", 5),
        ("3ep", 5),
        (3, 5),
        (0.25, 4),
        ("4step", 3),
    ):
        stop = EarlyStopping(patience=patience)
        assert run_columns(shared, toy, stop, val_loss=LOSS) == epochs, patience


def test_criteria(shared, toy):
    values = [1.0, 0.8, 0.82, 0.85, 0.9]
    stop = EarlyStopping(criterion="GL5")
    assert run(shared, toy, values, stop) == 4
    assert stop.stopped_reason is StopReason.CRITERION
    assert "the criterion was met (epoch 4: GeneralizationLoss(alpha=5))" in stop.explanation
    up = EarlyStopping(criterion=prechelt.UpStrips(2, strip=1))
    assert run(shared, toy, [1.0, NAN, 0.8, 0.82, 0.81, 0.82, 0.83, 0.9], up) == 7
    quotient = EarlyStopping(criterion=prechelt.ProgressQuotient(0.5, strip=2))
    loss = [1.0, 0.5, 0.5, 0.49, 0.48, 0.48]
    columns = {"val_loss": [1.0, 0.8, 0.8, 0.79, 0.9, 1.0], "loss": loss}
    assert run_columns(shared, toy, quotient, **columns) == 6
    with pytest.raises(ValueError, match="which should rise"):
        run(shared, toy, values, EarlyStopping("val_accuracy", criterion="GL5"))


def test_a_run_that_another_callback_stops(make_model, toy):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    stop = EarlyStopping("loss", patience=9)
    make_model().fit(*toy, epochs=5, verbose=0, callbacks=[Stop(), stop])
    assert stop.stopped_reason is StopReason.OTHER
    assert stop.explanation.startswith("Training ended: another callback stopped it. Best loss")


def test_a_run_without_epochs_restores_nothing(make_model, shared, toy):
    stop = EarlyStopping(restore_best_weights=True)
    run(shared, toy, [1.0, 0.5], stop)
    model = make_model()
    before = model.get_weights()
    model.fit(*toy, epochs=2, initial_epoch=2, verbose=0, callbacks=[stop])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
@pytest.mark.parametrize("restore_optimizer", [False, True])
def test_best_weights_in_a_file(make_model, toy, tmp_path, suffix, restore_optimizer):
    path = tmp_path / "new" / f"best{suffix}"
    values = [1.0, 0.5, 0.6, 0.7]
    stop = EarlyStopping(
        patience=9,
        restore_best_weights=True,
        path=path,
        restore_optimizer=restore_optimizer,
    )
    model = make_model()
    run(model, toy, values, stop, batch_size=16)
    assert restored_epoch(model) == 1
    assert int(model.optimizer.iterations) == (8 if restore_optimizer else 16)
    assert stop.best_weights is None
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    other = make_model()
    other.optimizer.build(other.trainable_variables)
    other.load_weights(path)
    assert restored_epoch(other) == 1


def test_best_weights_with_the_optimizer_in_memory(make_model, toy):
    stop = EarlyStopping(patience=9, restore_best_weights=True, restore_optimizer=True)
    model = make_model()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            variables = self.model.optimizer.variables
            seen.append([keras.ops.convert_to_numpy(v).copy() for v in variables])

    callbacks = [Script([1.0, 0.5, 0.6]), stop, Look()]
    model.fit(*toy, epochs=3, verbose=0, callbacks=callbacks)
    for variable, value in zip(model.optimizer.variables, seen[1], strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)


@pytest.mark.parametrize("path", [None, "best.weights.h5"])
def test_a_resumed_run_goes_on_exactly(make_model, shared, toy, tmp_path, path):
    path = path and tmp_path / path
    kwargs = {"patience": "8step", "window": 2, "restore_best_weights": True, "path": path}
    values = [1.0, 0.5, 0.6, 0.7, 0.8, 0.9]
    whole = EarlyStopping(**kwargs)
    epochs = run(shared, toy, values, whole, batch_size=16)
    model, states = make_model(), []

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append(first.get_state())

    first = EarlyStopping(**kwargs)
    callbacks = [Script(values, first.monitor), first, Keep()]
    model.fit(*toy, epochs=3, verbose=0, batch_size=16, callbacks=callbacks)
    second = EarlyStopping(**kwargs)
    second.set_state(states[2])
    callbacks = [Script(values, second.monitor), second]
    arguments = {"epochs": 6, "initial_epoch": 3, "verbose": 0, "batch_size": 16}
    history = model.fit(*toy, **arguments, callbacks=callbacks)
    assert 3 + len(history.epoch) == epochs == 5
    assert (second.best_epoch, second.best_value) == (whole.best_epoch, whole.best_value)
    assert restored_epoch(model) == whole.best_epoch
    # What was over when it was killed is only brought to its end.
    third = EarlyStopping(**kwargs)
    third.set_state(states[2])
    model.fit(*toy, epochs=3, initial_epoch=3, verbose=0, callbacks=[third])
    assert (third.best_epoch, restored_epoch(model)) == (first.best_epoch, first.best_epoch)


def test_a_lost_file_is_told(shared, toy, tmp_path):
    path = tmp_path / "best.weights.h5"
    stop = EarlyStopping(restore_best_weights=True, path=path)
    run(shared, toy, [1.0, 0.5], stop)
    state = stop.get_state()
    path.unlink()
    stop.set_state(state)
    with pytest.raises(FileNotFoundError, match="best weights is gone. Received: .*best"):
        run(shared, toy, [1.0, 0.5], stop)


def test_a_failure_to_write_leaves_the_last_file_and_the_weights(make_model, toy, tmp_path):
    path = tmp_path / "best.weights.h5"
    keeper, model = BestWeights(path), make_model()
    keeper.keep(model)
    before = path.read_bytes()
    # Something is in the way of the temporary file.
    (tmp_path / ".best.partial.weights.h5").mkdir()
    weights = model.get_weights()
    with pytest.raises(OSError):
        keeper.keep(model)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(model.get_weights()[0], weights[0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"monitor": []}, "Received: \\[\\]"),
        ({"monitor": ["loss", "loss"]}, "Received: \\['loss', 'loss'\\]"),
        ({"monitor": ["loss", 3]}, "Received: monitor=3"),
        ({"monitor": ["loss", "accuracy"], "target": [1]}, "Received: target=\\[1\\]"),
        ({"patience": "3 weeks"}, "Received: patience='3 weeks'"),
        ({"window": 0}, "Received: window=0"),
        ({"window": -3}, "Received: window=-3"),
        ({"combine": "both"}, "Received: combine='both'"),
        ({"min_delta_mode": "rel"}, "Received: min_delta_mode='rel'"),
        ({"target": "high"}, "Received: target='high'"),
        ({"divergence": NAN}, "Received: divergence=nan"),
        ({"criterion": "GL"}, "Received: criterion='GL'"),
        ({"criterion": "GL5", "patience": 3}, "Received: criterion='GL5', patience=3"),
        ({"path": "best.keras"}, "Received: path='best.keras'"),
        ({"restore_best_weights": True, "path": "best.h5"}, "Received: 'best.h5'"),
        ({"restore_optimizer": True}, "restore_optimizer=True"),
    ],
)
def test_bad_new_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**kwargs)
