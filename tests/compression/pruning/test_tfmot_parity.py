"""The same net, weights, data, optimizer and schedule under TF-MOT and under our callback."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import Pruning
from keras_optkit.pruning import PolynomialDecay

BATCHES = 20


@pytest.fixture(scope="module")
def given(digits):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    weights = {f"weight_{i}": w for i, w in enumerate(model.get_weights())}
    x, y = digits
    return {"x": x[: 32 * BATCHES], "y": y[: 32 * BATCHES], **weights}, model


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfmot")
    np.savez(folder / "given.npz", **given[0])
    script = pathlib.Path(__file__).with_name("tfmot_run.py")
    subprocess.run(
        [sys.executable, str(script), str(folder / "given.npz"), str(folder / "theirs.npz")],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        check=True,
        capture_output=True,
    )
    return np.load(folder / "theirs.npz")


@pytest.fixture(scope="module")
def ours(given):
    data, model = given
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    losses, masks, totals = [], [], []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            totals.append(float(logs["loss"]) * (batch + 1))
            kernels = [keras.ops.convert_to_numpy(v) for v in self.model.trainable_variables[::2]]
            masks.append(np.concatenate([k.ravel() != 0 for k in kernels]))

    schedule = PolynomialDecay(0.2, 0.8, begin_step=2, end_step=14, frequency=3)
    model.fit(
        data["x"],
        data["y"],
        batch_size=32,
        shuffle=False,
        verbose=0,
        callbacks=[Pruning(schedule), Record()],
    )
    losses = np.diff([0, *totals])
    return {"losses": losses, "masks": np.array(masks)}


def test_masks_are_equal_at_every_update(ours, theirs):
    # TF-MOT masks at the start of a step, ours at the end of the one before.
    np.testing.assert_array_equal(ours["masks"][:-1], theirs["masks"][1:].astype(bool))
    shares = ours["masks"].mean(axis=1)
    assert shares[0] == 1 and shares[-1] == pytest.approx(0.2, abs=0.01)


def test_losses_are_equal(ours, theirs):
    np.testing.assert_allclose(ours["losses"], theirs["losses"], rtol=2e-4)
