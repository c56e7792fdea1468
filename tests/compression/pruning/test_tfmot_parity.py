"""The same net, weights, data, optimizer and schedule under TF-MOT and under our callback."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_optkit.callbacks import Pruning
from keras_optkit.pruning import (
    BlockSparsity,
    NMSparsity,
    OneShot,
    PolynomialDecay,
)

BATCHES = 200
CASES = {
    "unstructured": lambda: Pruning(PolynomialDecay(0.2, 0.8, 10, 150, frequency=20)),
    # TF-MOT chooses these masks once, at its first step.
    "2:4": lambda: Pruning(OneShot(0.5), structure=NMSparsity(2, 4)),
    "block": lambda: Pruning(
        PolynomialDecay(0.0, 0.75, 0, 120, frequency=40),
        select=keras.layers.Dense,
        structure=BlockSparsity((4, 2)),
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


def make_model():
    keras.utils.set_random_seed(0)
    # Smooth, so that a rounding error stays one: a ReLU may fall to either side of its kink.
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="tanh"),
            keras.layers.Conv2D(6, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )


@pytest.fixture(scope="module")
def given(digits):
    weights = {f"weight_{i}": w for i, w in enumerate(make_model().get_weights())}
    x, y = digits
    order = np.random.default_rng(0).integers(0, len(x), 32 * BATCHES)
    return {"x": x[order], "y": y[order], **weights}


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfmot")
    np.savez(folder / "given.npz", **given)
    script = pathlib.Path(__file__).with_name("tfmot_run.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder / "given.npz"), str(folder / "theirs.npz")],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "theirs.npz"))


@pytest.fixture(scope="module")
def ours(given):
    found = {}

    def train(case):
        if case not in found:
            found[case] = _train(case, given)
        return found[case]

    return train


def _train(case, given):
    model = make_model()
    model.set_weights([given[f"weight_{i}"] for i in range(6)])
    model.compile(
        keras.optimizers.SGD(0.02, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    kernels = [v for v in model.trainable_variables if len(v.shape) > 1]
    if case == "block":
        kernels = kernels[-1:]
    losses, masks = [], []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if keras.backend.backend() == "jax":
                self.model.jax_state_sync()
            losses.append(float(logs["loss"]))
            masks.append(
                np.concatenate([keras.ops.convert_to_numpy(k).ravel() != 0 for k in kernels])
            )
            self.model.reset_metrics()
            if keras.backend.backend() == "jax":
                # The trainer takes the state from the variables again.
                self.model._jax_state_synced = True

    model.fit(
        given["x"],
        given["y"],
        batch_size=32,
        shuffle=False,
        verbose=0,
        callbacks=[CASES[case](), Record()],
    )
    return np.array(losses), np.array(masks)


@every_case
def test_masks_are_equal_at_every_update(ours, theirs, case):
    _, masks = ours(case)
    # TF-MOT masks at the start of a step, ours at the end of the one before.
    np.testing.assert_array_equal(masks[:-1], theirs[f"{case} masks"][1:])
    changes = (masks[1:] != masks[:-1]).any(axis=1).sum()
    # Masks that never changed would prove little.
    assert changes == 0 if case == "2:4" else changes >= 1
    assert masks[-1].mean() < 0.6


@every_case
def test_losses_are_equal(ours, theirs, case):
    losses, _ = ours(case)
    np.testing.assert_allclose(losses, theirs[f"{case} losses"], rtol=2e-5, atol=2e-6)
    assert losses[-20:].mean() < 0.7 * losses[:20].mean()


def test_schedule_objects_of_tfmot_mean_the_same(theirs):
    count = sum(name.startswith("ours") for name in theirs) // 2
    assert count == 7
    for i in range(count):
        due = theirs[f"theirs {i} due"]
        np.testing.assert_array_equal(theirs[f"ours {i} due"], due)
        shares = (theirs[f"{who} {i} sparsity"] for who in ("ours", "theirs"))
        np.testing.assert_allclose(*shares, rtol=1e-6)
        assert (due.any() and not due.all()) or i == 5
