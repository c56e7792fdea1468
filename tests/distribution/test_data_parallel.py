"""Four logical devices against one: what trains on them, and what is told before it does."""

import re

import keras
import numpy as np
import pytest
from distribution_cases import CASES

from keras_optkit.distribution import auto, data_parallel

BACKEND = keras.backend.backend()
several = pytest.mark.backends("tensorflow", "jax")


@several
@pytest.mark.parametrize("name", CASES)
def test_four_devices_equal_one(found_on_devices, name):
    """Loss, metrics, weights and outputs, relative to the largest number of each array."""
    difference = found_on_devices["exactness"][name]
    assert isinstance(difference, float), difference
    assert difference < 1e-6


@several
@pytest.mark.parametrize(
    "name",
    [
        "callbacks",
        "resume",
        "train_on_batch",
        "test_on_batch",
        "evaluate",
        "predict_on_batch",
        "predict",
        "saved",
        "loaded in a scope",
    ],
)
def test_what_fit_works_with(found_on_devices, name):
    checks = found_on_devices["checks"]
    assert checks.get(name, str(checks)) < 1e-6


@several
def test_callbacks_leave_what_they_leave_on_one_device(found_on_devices):
    one, four = found_on_devices["checks"]["callbacks: zeros"]
    assert one == four == [24, 0, 12, 0]
    one, four = found_on_devices["checks"]["callbacks: files"]
    assert one == four
    assert "best-1.keras" in one


@several
def test_a_training_goes_on(found_on_devices):
    assert found_on_devices["checks"]["resume: from"] == [2, 0]


@several
def test_each_device_drops_others(found_on_devices):
    """A unit is dropped for 0 to 4 of the samples, not for all or none; alike in every run."""
    assert found_on_devices["checks"]["dropped: values"] == [0, 0.5, 1, 1.5, 2]
    assert found_on_devices["checks"]["dropped: again"] == 0


@several
def test_unsynchronized_norm_has_one_moving_average(found_on_devices):
    assert found_on_devices["checks"]["plain norm: spread"] == 0
    assert found_on_devices["checks"]["plain norm: finite"]


@several
def test_no_file_holds_a_part_of_it(found_on_devices):
    assert found_on_devices["checks"]["saved: left on it"] == []


@several
def test_describe(found_on_devices):
    engine = {"tensorflow": "MirroredStrategy", "jax": "DataParallel"}[BACKEND]
    first, second, _ = found_on_devices["checks"]["describe"].splitlines()
    assert first == "4 devices: cpu:0, cpu:1, cpu:2, cpu:3"
    assert engine in second


REFUSED = {
    "model outside": "ValueError: A model must be built inside the scope.* Received: model='seq",
    "compiled outside": "ValueError: .* must be compiled in it, too.* Received: model='seq",
    "compiled again outside": "ValueError: .* must be compiled in it, too.* Received: model='seq",
    "two scopes": "RuntimeError: .* Received: <",
    "optimizer outside": "ValueError: The optimizer must be made inside.* Received: optimizer='sgd",
    "metric outside": "ValueError: A metric must be made inside.* Received: metric='mean_squared_",
    "small batch": "ValueError: A batch is shared by 4 devices.* Received: batch_size=3",
    "no such device": "ValueError: There is no device 'cpu:4'. Did you mean 'cpu:3'",
    "too many devices": "ValueError: There are 4 devices to train on.* Received: devices=5",
}
ON_TENSORFLOW = {
    "jit_compile": "ValueError: XLA cannot compile .* `jit_compile='auto'`.* Received: jit_compile",
    "split already": "ValueError: The step splits each batch.* Received: x=<",
    "own loss": "UserWarning: `OwnLoss.train_step` computes a loss of its own.* the 4 devices",
}
ON_JAX = {"indivisible": "ValueError: JAX splits a batch .* 8 or 12;.* Received: batch_size=10"}
REFUSED |= {"tensorflow": ON_TENSORFLOW, "jax": ON_JAX}.get(BACKEND, {})


@several
@pytest.mark.parametrize("name", REFUSED)
def test_told_before_the_first_step(found_on_devices, name):
    message = found_on_devices["refusals"][name]
    assert re.match(REFUSED[name], message), message
    assert "\n" not in message


def test_one_device_changes_nothing():
    distribution = data_parallel(1)
    assert distribution.num_devices == 1
    assert distribution.is_chief
    with distribution.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        before = set(vars(model))
        model.compile("sgd", "mse")
    assert not {"fit", "compile"} & (set(vars(model)) - before)
    assert getattr(model, "_distribute_strategy", None) is None
    model.fit(np.zeros((8, 4)), np.zeros((8, 3)), verbose=0)
    assert distribution.describe().startswith("1 device: ")


@pytest.mark.backends("tensorflow")
def test_scopes_leave_keras_as_it_was():
    made, compiled = vars(keras.Model)["__new__"], keras.Model.compile
    distribution = data_parallel(2)
    with pytest.raises(ZeroDivisionError), distribution.scope():
        raise ZeroDivisionError
    assert vars(keras.Model)["__new__"] is made
    assert keras.Model.compile is compiled
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).compile("sgd", "mse")


@pytest.mark.backends("torch")
def test_torch_says_what_it_cannot_do():
    assert auto().num_devices == 1
    with pytest.raises(ValueError, match="There are 1 devices to train on"):
        data_parallel(2)


@pytest.mark.parametrize("bad", [0, -1, True, "cpu:0", [], 1.5])
def test_bad_devices(bad):
    with pytest.raises(ValueError, match="Received: devices="):
        data_parallel(bad)


def test_a_device_twice():
    with pytest.raises(ValueError, match=r"once only. Received: devices=\['cpu:0', 'CPU:0'\]"):
        data_parallel(["cpu:0", "CPU:0"])


def test_batch_size_and_rate():
    distribution = data_parallel(1)
    distribution.devices = ["gpu:0", "gpu:1", "gpu:2", "gpu:3"]
    assert distribution.global_batch_size(32) == 128
    assert distribution.scale_learning_rate(0.1) == pytest.approx(0.4)
    assert distribution.scale_learning_rate(0.1, "sqrt") == pytest.approx(0.2)
    assert distribution.scale_learning_rate(0.1, None) == 0.1
    with pytest.raises(ValueError, match="'linear', 'sqrt' or None. Received: rule='cubic'"):
        distribution.scale_learning_rate(0.1, "cubic")
    with pytest.raises(ValueError, match="`rate` must be a number > 0.*Received: rate=0"):
        distribution.scale_learning_rate(0)
    with pytest.raises(ValueError, match="Received: per_device=0"):
        distribution.global_batch_size(0)
