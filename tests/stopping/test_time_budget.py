import json
import time

import keras
import pytest

from keras_optkit.callbacks import StopReason
from keras_optkit.stopping.time_budget import Budget, TimeBudget, to_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90min", 5400), ("1h", 3600), ("1h30min", 5400), ("45s", 45), ("1.5 h", 5400), (2, 2)],
)
def test_notation(text, seconds):
    assert to_seconds(text) == seconds


@pytest.mark.parametrize("bad", ["", " ", "90", "1d", "min", "1.2.3s", 0, -5, True, None, "0s"])
def test_bad_times(bad):
    with pytest.raises(ValueError, match='such as "90min".*Received: seconds='):
        to_seconds(bad)


def epochs_until_stop(budget, batches, batch, end):
    """Plays epochs of a number of batches on a clock; returns how many, and the time."""
    now = epoch = 0
    while True:
        budget.epoch_begins(now)
        epoch += 1
        for _ in range(batches):
            now += batch
            budget.batch_ended(now)
            if not budget.fits_another_batch(now):
                return epoch, now + end
        now += end
        if not budget.fits_another_epoch(now):
            return epoch, now


def test_another_epoch_has_to_fit_with_its_validation():
    # Epochs of 10 s: 8 s of training and 2 s of validation.
    assert epochs_until_stop(Budget(100, reserve=0.001), 8, 1, 2) == (9, 90)
    assert epochs_until_stop(Budget(100.1, reserve=0.001), 8, 1, 2) == (10, 100)
    # Without a reserve, the end of an epoch once more.
    assert epochs_until_stop(Budget(102), 8, 1, 2) == (10, 100)
    assert epochs_until_stop(Budget(101), 8, 1, 2) == (9, 90)


def test_the_longest_epoch_counts():
    budget = Budget(100, reserve=1)
    for now in (0, 40, 50, 60):
        budget.epoch_begins(now)
    assert not budget.fits_another_epoch(60)
    assert Budget(100, reserve=1).fits_another_epoch(60)


def test_an_epoch_that_is_too_long_is_broken_off():
    epoch, now = epochs_until_stop(Budget(50, reserve=5), 1000, 1, 0)
    assert (epoch, now) == (1, 46)


def fit(model, toy, *callbacks, epochs=3, **kwargs):
    kwargs = {"epochs": epochs, "batch_size": 16, "verbose": 0, **kwargs}
    history = model.fit(*toy, callbacks=list(callbacks), **kwargs)
    json.dumps(history.history)
    return len(history.epoch)


def test_a_large_budget_does_nothing(make_model, toy):
    budget = TimeBudget("10h")
    assert fit(make_model(), toy, budget) == 3
    assert budget.stopped_reason is None
    assert 0 < budget.used < 36000
    assert "did not stop" in budget.explanation


def test_a_small_budget_ends_the_first_epoch_early(make_model, toy, capsys):
    budget = TimeBudget(1e-6, verbose=1)
    model = make_model()
    assert fit(model, toy, budget, validation_split=0.25, batch_size=1) == 1
    assert budget.stopped_reason is StopReason.TIME_BUDGET
    assert int(model.optimizer.iterations) < 48
    assert "Training ended: the time budget was used up (epoch 1)." in capsys.readouterr().out
    # The same instance once more, and the model is an ordinary one.
    assert fit(model, toy, budget) == 1
    assert fit(model, toy) == 3


def test_the_last_epoch_is_not_stopped(make_model, toy):
    budget = TimeBudget(100_000)
    budget.set_state({"used": 90_000.0, "longest_epoch": 50_000.0, "longest_end": 0.0})
    assert fit(make_model(), toy, budget, epochs=1) == 1
    assert budget.stopped_reason is None


def test_what_other_callbacks_take_counts(make_model, toy):
    class Sleep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            time.sleep(0.2)

    for callbacks in ([Sleep(), TimeBudget(100)], [TimeBudget(100), Sleep()]):
        fit(make_model(), toy, *callbacks, epochs=2)
        budget = next(c for c in callbacks if isinstance(c, TimeBudget))
        assert budget.get_state()["longest_epoch"] > 0.2
        assert budget.get_state()["longest_end"] > 0.19


def test_time_used_before_a_resume_counts(make_model, toy):
    budget = TimeBudget(100_000)
    fit(make_model(), toy, budget, epochs=1)
    state = json.loads(json.dumps(budget.get_state()))
    again = TimeBudget(100_000)
    again.set_state({**state, "used": 90_000.0, "longest_epoch": 50_000.0})
    model = make_model()
    assert fit(model, toy, again, epochs=4, initial_epoch=1) == 1
    assert again.stopped_reason is StopReason.TIME_BUDGET
    assert again.used > 90_000


def test_bad_arguments():
    with pytest.raises(ValueError, match="Received: seconds=10, reserve='20s'"):
        TimeBudget(10, reserve="20s")
    with pytest.raises(ValueError, match="Received: reserve='soon'"):
        TimeBudget(10, reserve="soon")
