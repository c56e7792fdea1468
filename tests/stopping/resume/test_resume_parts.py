import random

import keras
import numpy as np
import pytest

from keras_optkit.core.duration import Run
from keras_optkit.stopping.resume.every import Every
from keras_optkit.stopping.resume.file import decode, encode
from keras_optkit.stopping.resume.random import random_state, set_random_state
from keras_optkit.stopping.resume.settings import changes, settings


def _draws():
    drawn = [random.random(), random.gauss(0, 1), np.random.random(), np.random.normal()]
    drawn.append(float(keras.random.uniform(())))
    if keras.backend.backend() == "torch":
        import torch

        drawn.append(float(torch.rand(())))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        drawn.append(float(tf.random.uniform(())))
    return drawn


def test_random_numbers_go_on_through_a_file():
    _draws()
    state = encode({"random": random_state()})
    drawn = [_draws(), _draws()]
    keras.utils.set_random_seed(7)
    _draws()
    set_random_state(decode(state)["random"])
    if keras.backend.backend() == "tensorflow":
        # The seed of the process itself is the script's to set.
        keras.utils.set_random_seed(0)
        set_random_state(decode(state)["random"])
    assert [_draws(), _draws()] == drawn


@pytest.mark.parametrize("every", ["", "1", "1 day", "-1ep", "0s", "0ep", 0, 1.5, None])
def test_every_is_checked(every):
    with pytest.raises(ValueError, match=r"`every` must .*Received: every="):
        Every(every)


def _due(every, updates_per_batch=1.0, batches=10, epochs=3, start=0):
    counter = Every(every)
    counter.start(Run(epochs, batches * updates_per_batch), updates_per_batch, start)
    found = []
    for done in range(start + 1, epochs * batches + 1):
        epoch, batch = divmod(done, batches)
        at_end = batch == 0 and counter.due_at_end_of(epoch - 1, done)
        if at_end or (batch and counter.due(done)):
            found.append(done)
            counter.saved(done)
    return found


def test_every_epoch():
    assert _due("1ep") == [10, 20, 30]
    assert _due("2ep") == [20]


def test_every_so_many_steps():
    assert _due("7step") == _due(7) == [7, 14, 21, 28]
    assert _due("7step", start=9) == [14, 21, 28]
    assert _due("0.5ep") == [5, 10, 15, 20, 25, 30]


def test_steps_are_updates():
    assert _due("2step", updates_per_batch=0.25) == [8, 16, 24]


def test_every_so_many_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    counter = Every("1.5min")
    counter.start(Run(1, None), 1.0, 0)
    now[0] = 89
    assert not counter.due(10)
    now[0] = 90
    assert counter.due(11)
    counter.saved(11)
    assert not counter.due(12)


def test_settings_name_what_was_changed(make_model):
    def collect(rate, patience, epochs):
        stop = keras.callbacks.EarlyStopping("loss", patience=patience)
        return settings(make_model(keras.optimizers.Adam(rate)), [stop], epochs)

    before = collect(0.001, 3, 10)
    assert changes(before, collect(0.001, 3, 10)) == {}
    changed = changes(before, collect(0.01, 5, 20))
    assert changed["epochs"] == "epochs 10 -> 20"
    assert changed["EarlyStopping: patience"] == "EarlyStopping: patience 3 -> 5"
    assert list(changed) == ["epochs", "optimizer: learning_rate", "EarlyStopping: patience"]


def test_a_schedule_is_a_setting(make_model):
    def collect(steps):
        rate = keras.optimizers.schedules.CosineDecay(0.1, steps)
        inner = keras.optimizers.SGD(rate)
        return settings(make_model(keras.optimizers.LossScaleOptimizer(inner)), [], 1)

    assert list(changes(collect(10), collect(20)).values()) == [
        "optimizer: inner_optimizer: learning_rate: decay_steps 10 -> 20"
    ]
