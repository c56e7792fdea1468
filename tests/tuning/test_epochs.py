import json
import pathlib

import keras
import keras_tuner
import numpy as np
import pytest

from keras_optkit import tuning


@pytest.fixture
def learns_or_not(make_model):
    """A hypermodel of which only the first of three settings learns."""

    def build(hp):
        # From the same weights, so that no setting is ahead by chance.
        keras.utils.set_random_seed(0)
        return make_model(keras.optimizers.SGD(hp.Choice("rate", [0.5, 1e-6, 1e-7])))

    return build


@pytest.mark.parametrize(
    "pruner",
    [tuning.SuccessiveHalving(factor=2), tuning.MedianStopping(min_trials=1)],
    ids=["halving", "median"],
)
def test_bad_trials_stop_early_and_it_is_told(pruner, learns_or_not, toy, tmp_path, capsys):
    kwargs = {"objective": "loss", "directory": str(tmp_path), "trial_pruner": pruner}
    # In two processes' worth of search: the second knows the first one's epochs.
    for trials in (1, 3):
        tuner = tuning.GridSearch(learns_or_not, max_trials=trials, **kwargs)
        tuner.search(*toy, epochs=4, batch_size=16, verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 3
    assert tuner.epochs_saved() == {"trials": 3, "pruned": 2, "epochs": 6, "saved": 6}
    stored = sorted(pathlib.Path(tuner.project_dir).glob("trial_*/epochs.json"))
    assert [len(json.loads(path.read_text())["values"]) for path in stored] == [4, 1, 1]
    tuner.oracle.verbose = 1
    assert "2 of 3 trials were stopped early; 6 epochs run, 6 saved" in tuner._report()[0]
    assert tuner.get_best_hyperparameters()[0]["rate"] == 0.5


def test_without_a_pruner_all_epochs_run(learns_or_not, toy, tmp_path):
    epochs = []

    class Count(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            epochs.append(epoch)

        def __deepcopy__(self, memo):
            return self

    tuner = tuning.GridSearch(learns_or_not, "loss", directory=str(tmp_path))
    tuner.search(*toy, epochs=2, verbose=0, callbacks=[Count()])
    assert epochs == [0, 1] * 3
    assert tuner.epochs_saved() == {"trials": 0, "pruned": 0, "epochs": 0, "saved": 0}


def test_of_several_executions_a_pruned_trial_has_one(learns_or_not, toy, tmp_path):
    tuner = tuning.GridSearch(
        learns_or_not,
        "loss",
        directory=str(tmp_path),
        trial_pruner=tuning.SuccessiveHalving(factor=2),
        executions_per_trial=2,
    )
    fits = []
    fit = tuner.hypermodel.fit
    tuner.hypermodel.fit = lambda hp, *args, **kwargs: (
        fits.append(hp["rate"]) or fit(hp, *args, **kwargs)
    )
    tuner.search(*toy, epochs=2, verbose=0)
    assert fits == [0.5, 0.5, 1e-6, 1e-7]


def test_an_objective_that_no_epoch_has_is_warned_of(toy, tmp_path, make_model):
    class Fit(keras_tuner.HyperModel):
        def build(self, hp):
            return make_model(hp.Choice("optimizer", ["sgd", "adam"]))

        def fit(self, hp, model, *args, **kwargs):
            model.fit(*args, **kwargs)
            return 1.0

    tuner = tuning.GridSearch(
        Fit(), max_trials=1, directory=str(tmp_path), trial_pruner=tuning.MedianStopping()
    )
    with pytest.warns(UserWarning, match="'default_objective' in their logs"):
        tuner.search(*toy, verbose=0)


def test_bad_arguments_are_told(learns_or_not, tmp_path):
    for kwargs, match in (
        ({"trial_pruner": "asha"}, "SuccessiveHalving.*trial_pruner='asha'"),
        ({"keep_checkpoints": 0}, "keep_checkpoints=0"),
        ({"objective": ["loss"], "trial_pruner": tuning.MedianStopping()}, "one objective"),
    ):
        with pytest.raises(ValueError, match=match):
            tuning.GridSearch(
                learns_or_not, **{"objective": "loss", "directory": str(tmp_path), **kwargs}
            )


def test_the_best_checkpoints_are_kept_and_the_best_is_retrained(
    learns_or_not, toy, tmp_path, capsys
):
    kwargs = {"objective": "loss", "directory": str(tmp_path), "keep_checkpoints": 1}
    tuner = tuning.GridSearch(learns_or_not, **kwargs)
    tuner.search(*toy, epochs=3, batch_size=16, verbose=0)
    folder = pathlib.Path(tuner.project_dir)
    best = tuner.oracle.get_best_trials(1)[0]
    kept = [path.parent.name for path in folder.rglob("*.weights.h5")]
    assert kept == [f"trial_{best.trial_id}"]
    assert len(tuner.get_best_models(1)) == 1
    with pytest.raises(ValueError, match=r"were not kept. Received: keep_checkpoints=1"):
        tuner.get_best_models(2)
    assert tuner.disk_usage() == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())

    model = tuner.retrain_best(*toy, batch_size=16, verbose=0)
    assert f"for {best.best_step + 1} epochs" in capsys.readouterr().out
    # 64 samples in batches of 16, all of them.
    assert int(model.optimizer.iterations) == 4 * (best.best_step + 1)
    assert model.evaluate(*toy, verbose=0)[0] == pytest.approx(best.score, rel=0.3)
    with pytest.raises(ValueError, match="all the data.*Received: validation_split=float"):
        tuner.retrain_best(*toy, validation_split=0.1)
    with pytest.raises(ValueError, match="3 trials have completed.*rank=3"):
        tuner.retrain_best(*toy, rank=3)


@pytest.mark.backends("tensorflow")
def test_hyperband_goes_on_from_checkpoints_that_are_kept(learns_or_not, toy, tmp_path):
    tuner = tuning.Hyperband(
        learns_or_not,
        "loss",
        max_epochs=2,
        factor=2,
        directory=str(tmp_path),
        keep_checkpoints=1,
        trial_pruner=tuning.SuccessiveHalving(factor=2),
    )
    tuner.search(*toy, batch_size=16, verbose=0)
    promoted = [
        trial
        for trial in tuner.oracle.trials.values()
        if "tuner/trial_id" in trial.hyperparameters.values
    ]
    assert promoted and {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    assert tuner.retrain_best(*toy, verbose=0).optimizer.iterations > 0


def test_hyperband_promotes_what_completed_where_trials_fail(search_function):
    hp = keras_tuner.HyperParameters()
    hp.Float("x", 0, 1)

    def function(hp):
        if hp["x"] > 0.3:
            raise ArithmeticError
        return hp["x"]

    tuner = search_function("Hyperband", function, hp, max_epochs=9, seed=3)
    tuner.search()
    rounds = [
        (trial.hyperparameters["tuner/bracket"], trial.hyperparameters["tuner/round"])
        for trial in tuner.oracle.trials.values()
    ]
    # KerasTuner promotes none, with fewer than seven of nine left.
    assert (2, 2) in rounds and (1, 1) in rounds


def test_hyperband_promotes_where_the_space_is_small(search_function, six_points):
    tuner = search_function("Hyperband", lambda hp: float(hp["b"]), six_points, max_epochs=9)
    tuner.search()
    trials = tuner.oracle.trials.values()
    assert sum(trial.hyperparameters["tuner/round"] == 0 for trial in trials) == 6
    assert max(trial.hyperparameters["tuner/epochs"] for trial in trials) == 9


def test_accuracy_and_size_are_sought_together(toy, tmp_path, make_model):
    def build(hp):
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(hp.Int("units", 1, 9)), keras.layers.Dense(3)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, metrics=["accuracy"])
        return model

    objective = ["val_accuracy", keras_tuner.Objective("parameters", "min")]
    tuner = tuning.RandomSearch(build, objective, max_trials=3, seed=0, directory=str(tmp_path))
    tuner.search(*toy, validation_split=0.5, epochs=1, verbose=0)
    trials = list(tuner.oracle.trials.values())
    for trial in trials:
        units = trial.hyperparameters["units"]
        assert trial.metrics.get_best_value("parameters") == 5 * units + 3 * (units + 1)
    smallest = min(trials, key=lambda trial: trial.hyperparameters["units"])
    assert smallest in tuner.pareto_front()


class Slow(keras.layers.Layer):
    """Puts a clock forward by some milliseconds in each call."""

    def __init__(self, clock, milliseconds):
        super().__init__(dtype="float32")
        self.clock, self.milliseconds = clock, milliseconds

    def call(self, x):
        self.clock.seconds += self.milliseconds / 1000
        return x


def test_accuracy_and_latency_are_sought_together(toy, tmp_path, monkeypatch):
    clock = type("Clock", (), {"seconds": 0.0})()
    monkeypatch.setattr("keras_optkit.tuning.epochs.perf_counter", lambda: clock.seconds)

    def build(hp):
        slow = Slow(clock, hp.Choice("milliseconds", [20, 1]))
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), slow])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        # So that Python runs in each call.
        model.compile("sgd", loss, metrics=["accuracy"], run_eagerly=True)
        return model

    objective = ["accuracy", keras_tuner.Objective("latency", "min")]
    tuner = tuning.GridSearch(build, objective, directory=str(tmp_path))
    tuner.search(*toy, batch_size=64, epochs=1, verbose=0)
    trials = list(tuner.oracle.trials.values())
    found = [trial.metrics.get_best_value("latency") for trial in trials]
    np.testing.assert_allclose(found, [20, 1], rtol=1e-6)
    assert trials[1] in tuner.pareto_front()
    with pytest.raises(RuntimeError, match="'latency' is measured with an example from arrays"):
        other = tuning.GridSearch(build, objective, directory=str(tmp_path / "other"))
        other.search((toy for _ in range(9)), steps_per_epoch=1, verbose=0)
