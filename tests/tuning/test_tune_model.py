import json
import os
import signal

import cv2
import keras
import keras_tuner
import numpy as np
import pytest
from keras import layers

from keras_optkit.tuning import HyperMLP, RandomSearch, SuccessiveHalving, tune


def build():
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:300], digits[1][:300]


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    """One search of 6 trials, and its directory."""
    folder = tmp_path_factory.mktemp("tune")
    space = {"learning_rate": (1e-4, 1e-1), "schedule": True}
    result = tune(
        build, data, trials=6, epochs=2, space=space, directory=folder, batch_size=60, verbose=False
    )
    return result, folder / "search"


def test_it_finds_a_model_that_learns(found, data):
    result, _ = found
    assert result.objective == "val_accuracy" and result.direction == "max"
    assert [trial.status for trial in result.completed] == ["COMPLETED"] * 6
    assert result.best.score == max(trial.score for trial in result.trials) > 0.5
    assert result.best.values == dict(result.hyperparameters.values)
    assert result.model.evaluate(*data, verbose=0, return_dict=True)["accuracy"] > 0.5


def test_the_summary(found):
    result, _ = found
    lines = str(result).splitlines()
    assert lines[0] == "6 trials completed"
    assert lines[1].startswith(f"best: trial {result.best.number}, val_accuracy 0.")
    assert [line.split()[0] for line in lines[2:]] == ["learning_rate", "schedule"]
    importance = result.importance()
    assert next(iter(importance)) == "learning_rate" and importance["learning_rate"] > 0.3


def test_the_files(found):
    result, folder = found
    told = json.loads((folder / "tuning.json").read_text())
    assert told == json.loads(json.dumps(result.to_dict()))
    assert len(told["trials"]) == 6 and told["best"]["score"] == result.best.score
    assert [path.parent.name for path in folder.rglob("*.h5")] == [
        f"trial_{result.best.number - 1}"
    ]
    for name in ("objective", "importance", "parallel"):
        assert cv2.imread(str(folder / f"{name}.png")).std() > 10
    loaded = keras.saving.load_model(folder / "best.keras")
    for a, b in zip(loaded.get_weights(), result.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_more_trials_go_on(found, data, capsys):
    result, folder = found
    space = {"learning_rate": (1e-4, 1e-1), "schedule": True}
    more = tune(build, data, trials=7, epochs=2, space=space, directory=folder.parent)
    assert [t.values for t in more.trials[:6]] == [t.values for t in result.trials]
    assert len(more.trials) == 7
    printed = capsys.readouterr().out.splitlines()
    head = [line.split() for line in printed if line.split()[:1] == ["trial"]]
    assert head == ["trial val_accuracy best seconds learning_rate schedule".split()]
    rows = [line.split() for line in printed if line.startswith("    7")]
    # The best so far is that of all seven.
    best = max(trial.score for trial in more.trials)
    assert len(rows) == 1 and float(rows[0][2]) == pytest.approx(best, abs=1e-4)
    with pytest.raises(ValueError, match="holds another search"):
        tune(build, data, trials=7, space=["dropout"], directory=folder.parent, verbose=False)


def test_bad_trials_end_early_and_that_is_told(data):
    space = {"learning_rate": [0.05, 1e-6]}
    result = tune(
        build,
        data,
        trials=2,
        epochs=4,
        tuner="grid",
        space=space,
        trial_pruner=SuccessiveHalving(),
        verbose=False,
    )
    assert [trial.status for trial in result.trials] == ["COMPLETED"] * 2
    (note,) = result.notes
    assert note == "1 of 2 trials were stopped early, which saved 3 epochs of 8"
    assert str(result).splitlines()[-1] == note


class Interrupts(keras.callbacks.Callback):
    """Presses Ctrl-C in the middle of the second trial."""

    trials = 0

    def on_train_begin(self, logs=None):
        Interrupts.trials += 1

    def on_train_batch_end(self, batch, logs=None):
        if Interrupts.trials == 2:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_loses_nothing(data, tmp_path, capsys):
    Interrupts.trials = 0
    arguments = {"trials": 3, "epochs": 1, "tuner": "random", "directory": tmp_path}
    result = tune(build, data, callbacks=[Interrupts()], **arguments)
    assert [trial.status for trial in result.trials] == ["COMPLETED", "RUNNING"]
    assert result.stopped == "interrupted" and "(interrupted)" in capsys.readouterr().out
    assert result.model.count_params() == 650
    more = tune(build, data, verbose=False, **arguments)
    assert [trial.status for trial in more.trials] == ["COMPLETED"] * 3
    assert [t.values for t in more.trials[:2]] == [t.values for t in result.trials]
    assert [t.score for t in more.trials[:1]] == [t.score for t in result.trials[:1]]


def test_ctrl_c_with_nothing_to_show_is_ctrl_c(data):
    Interrupts.trials = 1
    with pytest.raises(KeyboardInterrupt):
        tune(build, data, trials=2, callbacks=[Interrupts()], verbose=False)


def test_minutes(data):
    # Over before the first trial is: that one comes to its end, and no other begins.
    result = tune(build, data, minutes=1e-6, epochs=2, tuner="random", verbose=False)
    assert [trial.status for trial in result.trials] == ["COMPLETED"]
    assert result.best.best_epoch in (1, 2)
    assert result.stopped == "time is up" and result.directory is None


def test_a_failed_trial_is_told(data, capsys):
    def sometimes():
        sometimes.calls += 1
        if sometimes.calls == 4:
            raise RuntimeError("this one does not build")
        return build()

    sometimes.calls = 0
    result = tune(sometimes, data, "val_loss", trials=3, epochs=1, tuner=RandomSearch)
    assert sorted(trial.status for trial in result.trials) == ["COMPLETED", "COMPLETED", "FAILED"]
    (failed,) = [trial for trial in result.trials if trial.status == "FAILED"]
    assert failed.error == "RuntimeError: this one does not build"
    printed = capsys.readouterr().out
    assert "failed" in printed and "this one does not build" in printed
    assert "2 trials completed, 1 failed" in printed
    assert result.importance() == {}


@pytest.mark.backends("tensorflow")
def test_hyperband_and_a_hypermodel(digits):
    x, y = digits[0].reshape(-1, 64)[:200], digits[1][:200]
    result = tune(
        HyperMLP((64,), 10), ((x, y), (x, y)), trials=2, epochs=2, tuner="hyperband",
        batch_size=100, verbose=False,
    )  # fmt: skip
    assert [trial.status for trial in result.trials] == ["COMPLETED"] * 2
    assert {trial.best_epoch for trial in result.trials} <= {1, 2}
    assert "units" in result.best.values


@pytest.mark.backends("tensorflow")
def test_a_model_and_datasets_of_this_package(tmp_path, monkeypatch):
    from keras_optkit import data as optkit_data

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    train, test = optkit_data.load(split=["train[:20%]", "test[:50%]"])
    space = {"learning_rate": True, "label_smoothing": 0.1, "batch_size": 50}
    result = tune(build(), (train, test), trials=1, epochs=1, space=space, verbose=False)
    assert [trial.status for trial in result.trials] == ["COMPLETED"]
    assert np.isfinite(result.model.evaluate(test, verbose=0)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 0}, "`trials` must be an integer >= 1.*Received: trials=0"),
        ({"trials": 2.5}, "Received: trials=2.5"),
        ({"minutes": 0}, "`minutes` must be a number > 0"),
        ({"epochs": 0}, "Received: epochs=0"),
        ({"batch_size": 0}, "Received: batch_size=0"),
        ({"tuner": "bayes"}, "Did you mean 'bayesian'.*tuner='bayes'"),
        ({"space": {}}, "space is empty"),
        ({"space": {"learning_rat": True}}, "Did you mean 'learning_rate'"),
        ({"objective": "val_acuracy"}, "Did you mean 'val_accuracy'.*objective='val_acuracy'"),
        ({"trial": 3}, "trial"),
    ],
)
def test_bad_arguments_before_the_first_trial(arguments, message, data, tmp_path):
    folder = tmp_path / "kept"
    with pytest.raises((ValueError, TypeError), match=message):
        tune(build, data, directory=folder, verbose=False, **arguments)
    assert not list(folder.rglob("trial_*"))


def test_it_is_for_one_process(data, monkeypatch):
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "tuner1")
    with pytest.raises(ValueError, match="`tune` searches in one process"):
        tune(build, data, verbose=False)


def test_several_objectives(data):
    objectives = ["val_accuracy", "val_loss"]
    result = tune(build, data, objectives, trials=1, epochs=1, tuner="random", verbose=False)
    assert result.objective == "multi_objective" and result.best.score < 3
    accuracy, loss = (float(text.split()[-1]) for text in result.notes[1].split(","))
    assert result.notes[1].startswith("  trial 1: val_accuracy 0.") and len(result.notes) == 2
    assert loss - accuracy == pytest.approx(result.best.score, abs=2e-3)


def test_bad_models_and_directories_before_the_first_trial(data, tmp_path):
    def uncompiled():
        return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])

    for make, message in (
        (uncompiled, "must be compiled"),
        (uncompiled(), "must be compiled"),
        (lambda: None, "must return a compiled `keras.Model`. Received: None"),
        ("model", "`build` must be a function"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            tune(make, data, directory=tmp_path / "kept", verbose=False)
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(ValueError, match="`directory` must be a folder"):
        tune(build, data, directory=file / "kept", verbose=False)
    assert file.read_text() == "mine"
    with pytest.raises(RuntimeError, match="No trial completed(.|\n)*val_nothing"):
        objective = keras_tuner.Objective("val_nothing", "max")
        tune(build, data, objective, trials=1, epochs=1, tuner="random", verbose=False)


def test_the_user_s_model_and_the_random_state_stay(data):
    model = build()
    before = [w.copy() for w in model.get_weights()]
    optimizer = model.optimizer
    tune(model, data, trials=1, epochs=1, tuner="random", verbose=False)
    assert model.optimizer is optimizer and float(optimizer.learning_rate) == pytest.approx(0.01)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
