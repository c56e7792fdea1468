"""SyncBatchNormalization on one device and on several, against float64 of the whole batch."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_optkit.normalization import SyncBatchNormalization

L = keras.layers
N = keras.ops.convert_to_numpy
WORKER = pathlib.Path(__file__).with_name("sync_worker.py")


@pytest.mark.parametrize("replicas", [2, 4])
def test_equal_to_one_device(replicas, tmp_path):
    if replicas == 4 and keras.backend.backend() == "torch":
        pytest.skip("each replica is a process here; two are enough")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(replicas), str(tmp_path)],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found.pop("devices", replicas) == replicas
    # Features lie around 1000: E[x^2] - E[x]^2 would be off by more than 1.
    limits = {"weights": 2e-4, "outputs": 2e-4, "moving": 1e-3, "gradient": 1e-3, "variance": 1e-4}
    for name, difference in found.items():
        assert difference < limits[name], (name, difference)


def test_far_from_zero():
    x = np.random.default_rng(0).normal(1000.0, 1.0, size=(32, 6, 6, 3)).astype("float32")
    exact = x.astype("float64")
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    layer = SyncBatchNormalization(momentum=0.5)
    np.testing.assert_allclose(N(layer(x, training=True)), expected, atol=1e-3)
    variance = (1 + exact.var((0, 1, 2))) / 2
    np.testing.assert_allclose(N(layer.moving_variance), variance, rtol=1e-5)


@pytest.mark.backends("torch")
def test_keras_own_norm_is_off_far_from_zero_on_torch():
    x = np.random.default_rng(0).normal(1000.0, 1.0, size=(32, 6, 6, 3)).astype("float32")
    exact = x.astype("float64")
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    outputs = N(L.BatchNormalization()(x, training=True))
    assert np.abs(outputs - expected).max() > 0.01


def test_keras_own_synchronized_norm():
    """Wrong on TensorFlow, refused elsewhere: the reason for this layer."""
    if keras.backend.backend() != "tensorflow":
        with pytest.raises(ValueError, match="only supported with the TensorFlow backend"):
            L.BatchNormalization(synchronized=True)
        return
    x = np.random.default_rng(0).normal(1000.0, 1.0, size=(32, 6, 6, 3)).astype("float32")
    exact = x.astype("float64")
    expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
    outputs = N(L.BatchNormalization(synchronized=True)(x, training=True))
    assert np.abs(outputs - expected).max() > 0.01


@pytest.mark.parametrize("masked", [False, True])
def test_one_device_is_batch_norm(masked):
    x = np.random.default_rng(0).normal(2.0, 3.0, size=(8, 6, 3)).astype("float32")
    mask = np.arange(6) < np.arange(1, 9)[:, None] % 6 + 1 if masked else None
    ours, theirs = SyncBatchNormalization(), L.BatchNormalization()
    a, b = ours(x, training=True, mask=mask), theirs(x, training=True, mask=mask)
    np.testing.assert_allclose(N(a), N(b), atol=1e-4)
    for own, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_survives_saving_and_mixed_precision(tmp_path):
    layer = SyncBatchNormalization(momentum=0.9, dtype="mixed_float16", name="norm")
    model = keras.Sequential([keras.Input((3,)), layer])
    x = np.random.default_rng(0).normal(100.0, size=(40, 3)).astype("float32")
    assert keras.backend.standardize_dtype(layer(x, training=True).dtype) == "float16"
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def test_bad_arguments():
    with pytest.raises(ValueError, match="Received: synchronized=True"):
        SyncBatchNormalization(synchronized=True)
    with pytest.raises(ValueError, match="momentums"):
        SyncBatchNormalization(momentums=1)
