"""What holds for every part: it trains, survives saving, and a killed run ends as a whole one."""

import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from settings import KILLED, KILLED_IN_EPOCH, ONE_OF_EACH_KIND, SETTINGS, data, fit, make_model

import keras_optkit

every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)


@pytest.fixture(scope="module")
def whole():
    """Each setting trained without interruption: its model and its history."""
    found = {}

    def train(setting):
        if setting.name not in found:
            model = make_model(setting)
            found[setting.name] = model, fit(model, setting.callbacks())
        return found[setting.name]

    return train


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """The folder in which one process was killed and another one finished its work."""
    folder = tmp_path_factory.mktemp("killed") / "runs"
    script = str(pathlib.Path(__file__).with_name("settings.py"))
    codes = [
        subprocess.run(
            [sys.executable, script, phase, str(folder)], env=os.environ, capture_output=True
        )
        for phase in ("start", "resume")
    ]
    assert codes[0].returncode == -signal.SIGKILL, codes[0].stderr.decode()
    assert codes[1].returncode == 0, codes[1].stderr.decode()
    return folder


@every_setting
def test_it_trains(setting, whole):
    _, history = whole(setting)
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]
    json.dumps(history)


@every_setting
def test_its_model_survives_saving(setting, whole, tmp_path):
    model, _ = whole(setting)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x, _ = data()
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    assert len(again.optimizer.variables) == len(model.optimizer.variables)


@pytest.mark.parametrize("setting", KILLED, ids=lambda setting: setting.name)
def test_a_killed_and_resumed_run_equals_a_whole_one(setting, whole, killed_and_resumed):
    model, history = whole(setting)
    folder = killed_and_resumed / setting.name
    resumed = pickle.loads((folder / "history").read_bytes())
    for name, values in history.items():
        np.testing.assert_allclose(resumed[name], values[KILLED_IN_EPOCH:], rtol=1e-6)
    with np.load(folder / "end.npz") as end:
        for weights, name in zip(model.get_weights(), end.files, strict=True):
            np.testing.assert_allclose(end[name], weights, rtol=1e-6, atol=1e-7)


def test_every_public_part_has_a_setting():
    assert {setting.name for setting in SETTINGS} > ONE_OF_EACH_KIND
    parts = {
        name
        for face in (keras_optkit.layers, keras_optkit.callbacks, keras_optkit.schedules)
        for name in face.__all__
    } | set(keras_optkit.pruning.__all__)
    # Bases, results, and the callbacks whose schedules stand in the table.
    parts -= {"LearningRate", "Pruning", "RangeTest", "Run", "Schedule", "StopReason"}
    # Layers that mix labels stand in no model; `test_mix_up.py` has their three faces.
    parts -= {"CutMix", "MixUp"}
    # It takes part in no training; tests/stopping/resume kills processes that use it.
    parts -= {"Resume"}
    # Functions, which are no part of a model or a `fit`.
    parts = {name for name in parts if not name.islower()}
    assert parts <= {setting.name for setting in SETTINGS}
