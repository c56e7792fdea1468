import inspect
import json
import math
import pathlib
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest

from keras_optkit import tuning

TUNERS = ["BayesianOptimization", "GridSearch", "Hyperband", "RandomSearch"]


def arguments(name):
    return {"max_epochs": 3} if name == "Hyperband" else {"max_trials": 3}


def statuses(tuner):
    return [trial.status for trial in tuner.oracle.trials.values()]


@pytest.mark.parametrize("name", TUNERS)
def test_arguments_are_kerastuners_in_its_order(name):
    ours, theirs = (getattr(part, name) for part in (tuning, keras_tuner))
    assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    assert issubclass(ours, theirs)


@pytest.mark.parametrize("name", TUNERS)
@pytest.mark.filterwarnings("ignore:.*retracing.*")
def test_a_search_trains_and_gives_its_models(name, build, toy, tmp_path):
    tuner = getattr(tuning, name)(
        build, "val_accuracy", directory=str(tmp_path), seed=1, **arguments(name)
    )
    tuner.search(*toy, validation_split=0.25, epochs=2, verbose=0)
    assert set(statuses(tuner)) == {"COMPLETED"}
    best = tuner.oracle.get_best_trials(1)[0]
    (model,) = tuner.get_best_models(1)
    x, y = toy
    # The weights of the best epoch are what the score was measured on.
    assert model.evaluate(x[48:], y[48:], verbose=0)[1] == pytest.approx(best.score)
    assert tuner.get_best_hyperparameters()[0].values == best.hyperparameters.values


def fails_at_2(hp):
    if hp["a"] == 2:
        raise ArithmeticError("two is too much")
    return float(hp["b"])


def exhausts_memory(hp):
    if hp["a"] == 2:
        np.ones(1 << 46)
    return float(hp["b"])


def gives_nan(hp):
    return math.nan if hp["a"] == 2 else float(hp["b"])


@pytest.mark.parametrize(
    "function, cause",
    [(fails_at_2, "two is too much"), (exhausts_memory, "MemoryError"), (gives_nan, "[nan]")],
)
def test_a_failed_trial_is_recorded_and_the_search_goes_on(
    function, cause, search_function, six_points, tmp_path
):
    tuner = search_function("GridSearch", function, six_points)
    tuner.search()
    # More failures in a row than KerasTuner would go on after.
    assert statuses(tuner) == ["COMPLETED"] * 3 + ["FAILED"] * 3
    for trial in list(tuner.oracle.trials.values())[3:]:
        stored = json.loads((tmp_path / f"search/trial_{trial.trial_id}/trial.json").read_text())
        assert stored["status"] == "FAILED"
        assert cause in stored["message"]
    # KerasTuner fills up with failed trials.
    assert len(tuner.oracle.get_best_trials(6)) == 3


def test_a_search_without_a_completed_trial_raises_the_first_error(search_function, six_points):
    def fails(hp):
        raise ArithmeticError(f"failed at a={hp['a']}, b={hp['b']}")

    tuner = search_function("GridSearch", fails, six_points)
    with pytest.raises(RuntimeError, match=r"No trial completed: 3 of 3 .*(?s:.*)a=1, b=0") as info:
        tuner.search()
    assert isinstance(info.value.__cause__, ArithmeticError)
    # KerasTuner raises before it records the last one.
    again = search_function("GridSearch", lambda hp: 0.0, six_points)
    assert statuses(again) == ["FAILED"] * 3
    again.search()
    assert statuses(again) == ["FAILED"] * 3 + ["COMPLETED"] * 3


def test_a_limit_of_failures_in_a_row_is_kept(search_function, six_points):
    tuner = search_function("GridSearch", fails_at_2, six_points, max_consecutive_failed_trials=2)
    with pytest.raises(RuntimeError, match="2 trials failed in a row: 2 of 5 failed"):
        tuner.search()


def test_a_retry_replaces_the_result(search_function, six_points):
    values = iter([math.nan, 1.0, 2.0])
    tuner = search_function(
        "RandomSearch", lambda hp: next(values), six_points, max_trials=2, max_retries_per_trial=1
    )
    tuner.search()
    assert [trial.score for trial in tuner.oracle.trials.values()] == [1.0, 2.0]


def test_seed_0_is_a_seed(search_function, six_points, tmp_path):
    def points(number):
        space = keras_tuner.HyperParameters()
        space.Float("x", 0, 1)
        tuner = search_function(
            "RandomSearch", lambda hp: hp["x"], space, max_trials=3, project_name=number
        )
        tuner.search()
        return [trial.score for trial in tuner.oracle.trials.values()]

    assert points("first") == points("second")


def test_random_search_uses_up_a_finite_space(search_function, tmp_path):
    space = keras_tuner.HyperParameters()
    space.Int("x", 0, 39)
    tuner = search_function("RandomSearch", lambda hp: hp["x"], space, max_trials=None)
    tuner.search()
    assert sorted(trial.score for trial in tuner.oracle.trials.values()) == list(range(40))


def test_raising_max_trials_goes_on(search_function, six_points):
    for count in (2, 4, 12):
        tuner = search_function(
            "RandomSearch", lambda hp: hp["a"] + 10 * hp["b"], six_points, max_trials=count
        )
        tuner.search()
        assert len(tuner.oracle.trials) == min(count, 6)
    assert len({trial.score for trial in tuner.oracle.trials.values()}) == 6


@pytest.mark.parametrize(
    "change, told",
    [
        ({"space": "wider"}, "parameter 'b': max_value was 2, is 3"),
        ({"space": "more"}, "parameter 'c' is new"),
        ({"space": "fewer"}, "parameter 'b' is gone"),
        ({"objective": keras_tuner.Objective("y", "max")}, "objective: was"),
        ({"tuner": "GridSearch"}, "tuner: was 'RandomSearch', is 'GridSearch'"),
    ],
)
def test_a_directory_refuses_another_search(change, told, search_function):
    def open_search(space="same", tuner="RandomSearch", **kwargs):
        hp = keras_tuner.HyperParameters()
        hp.Choice("a", [1, 2])
        if space != "fewer":
            hp.Int("b", 0, 3 if space == "wider" else 2)
        if space == "more":
            hp.Boolean("c")
        return search_function(tuner, lambda hp: 1.0, hp, max_trials=2, **kwargs)

    open_search().search()
    with pytest.raises(ValueError, match="holds another search") as info:
        open_search(**change)
    assert told in str(info.value)
    assert len(open_search().oracle.trials) == 2
    assert len(open_search(**change, overwrite=True).oracle.trials) == 0


def test_a_directory_refuses_another_model(build, toy, tmp_path):
    def wider(hp):
        hp.Choice("units", [4, 8])
        hp.Float("rate", 1e-3, 1e-1, sampling="log")
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
        model.compile("sgd", "mse", metrics=["accuracy"])
        return model

    kwargs = {"objective": "loss", "max_trials": 1, "directory": str(tmp_path)}
    tuning.RandomSearch(build, **kwargs).search(*toy, epochs=1, verbose=0)
    assert len(tuning.RandomSearch(build, **kwargs).oracle.trials) == 1
    with pytest.raises(ValueError, match=r"'layer 0': .*units was 4, is 5(?s:.*)'optimizer'"):
        tuning.RandomSearch(wider, **kwargs)


def test_a_directory_of_kerastuners_is_gone_on_with(search_function, six_points, tmp_path):
    def run_trial(self, trial, **kwargs):
        return 1.0

    theirs = type("Theirs", (keras_tuner.RandomSearch,), {"run_trial": run_trial})
    tuner = theirs(
        max_trials=2, hyperparameters=six_points, directory=str(tmp_path), project_name="search"
    )
    tuner.search(verbose=0)
    tuner = search_function("RandomSearch", lambda hp: 2.0, six_points, max_trials=3)
    tuner.search()
    assert [trial.score for trial in tuner.oracle.trials.values()] == [1.0, 1.0, 2.0]
    space = keras_tuner.HyperParameters()
    space.Choice("a", [1, 3])
    with pytest.raises(ValueError, match=r"parameter 'a': values was \[1, 2\], is \[1, 3\]"):
        search_function("RandomSearch", lambda hp: 2.0, space, max_trials=3)


def test_a_damaged_file_is_named(search_function, six_points, tmp_path):
    search_function("RandomSearch", lambda hp: 1.0, six_points, max_trials=2).search()
    path = tmp_path / "search/oracle.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match=r"is damaged .* Received: .*oracle.json"):
        search_function("RandomSearch", lambda hp: 1.0, six_points, max_trials=2)


@pytest.mark.backends("tensorflow")
def test_killed_at_any_moment_a_search_loses_nothing():
    script = pathlib.Path(__file__).parent / "killed_searches.py"
    done = subprocess.run(
        [sys.executable, str(script), *TUNERS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [found[name]["wrong"] for name in TUNERS] == [[], [], [], []]
    assert found["GridSearch"]["kills"] > 30


# On torch Keras has no distribution.
@pytest.mark.backends("tensorflow", "jax")
def test_policy_and_distribution_outlive_the_start_of_a_trial(build, toy, tmp_path):
    policy = keras.config.dtype_policy()
    before = keras.distribution.distribution()
    distribution = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices("cpu")[:1]
    )
    seen = []

    def watched(hp):
        model = build(hp)
        seen.append((model.layers[0].compute_dtype, keras.distribution.distribution()))
        return model

    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        keras.distribution.set_distribution(distribution)
        tuner = tuning.RandomSearch(watched, "loss", max_trials=2, directory=str(tmp_path))
        tuner.search(*toy, epochs=1, verbose=0)
    finally:
        keras.config.set_dtype_policy(policy)
        keras.distribution.set_distribution(before)
    assert statuses(tuner) == ["COMPLETED"] * 2
    assert seen == [("bfloat16", distribution)] * 3


@pytest.mark.backends("tensorflow")
def test_trials_need_no_tensorboard(tmp_path):
    code = f"""
import sys
sys.modules["tensorboard"] = None
import keras, numpy as np
from keras_optkit import tuning
def build(hp):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Choice("n", [1, 2]))])
    model.compile("sgd", "mse")
    return model
tuner = tuning.RandomSearch(build, "loss", max_trials=1, directory={str(tmp_path)!r})
tuner.search(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_room_imports_no_kerastuner():
    code = "import sys, keras_optkit.tuning; print('keras_tuner' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


BAD = [
    ({"max_trials": 0}, "max_trials.*>= 1.*max_trials=0"),
    ({"objective": "val_acuracy"}, "Did you mean 'val_accuracy'"),
    ({"objective": keras_tuner.Objective("val_acuracy", "max")}, "Did you mean 'val_accuracy'"),
    ({"objective": None}, "must name a metric"),
    ({"hypermodel": lambda hp: None}, "must return a compiled `keras.Model`.*Received: None"),
    ({"hypermodel": None}, "hypermodel=None"),
]


@pytest.mark.parametrize("change, match", BAD)
def test_bad_input_is_told_before_anything_is_written(change, match, build, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/mine").write_text("kept")
    kwargs = {"hypermodel": build, "objective": "val_loss", "max_trials": 1, **change}
    with pytest.raises((ValueError, TypeError), match=f"(?s){match}"):
        tuning.RandomSearch(**kwargs, directory=str(tmp_path), project_name="p", overwrite=True)
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["mine"]


def test_a_model_that_is_not_compiled_and_an_empty_space_are_told(tmp_path, make_model):
    def not_compiled(hp):
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(hp.Choice("n", [1, 2]))])

    def nothing_to_tune(hp):
        return make_model()

    for hypermodel, match in ((not_compiled, "not compiled"), (nothing_to_tune, "space is empty")):
        with pytest.raises(ValueError, match=match):
            tuning.RandomSearch(hypermodel, "loss", directory=str(tmp_path))


def test_a_validation_objective_needs_validation_data(build, toy, tmp_path):
    tuner = tuning.RandomSearch(build, "val_loss", directory=str(tmp_path))
    with pytest.raises(ValueError, match="'val_loss' needs `validation_data`"):
        tuner.search(*toy, epochs=1, verbose=0)
    assert not tuner.oracle.trials


@pytest.mark.parametrize("folder", ["file", "/proc/none"])
def test_a_directory_that_cannot_be_written_to_is_told(folder, build, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="folder that can be written to"):
        tuning.RandomSearch(build, "loss", directory=str(tmp_path / folder))


def test_a_metrics_own_direction_is_taken(toy, tmp_path, make_model):
    """KerasTuner minimises every metric that is no accuracy."""
    assert keras_tuner.engine.metrics_tracking.infer_metric_direction("val_r2_score") == "min"

    def build(hp):
        return make_model(
            hp.Choice("optimizer", ["sgd", "adam"]), metrics=[keras.metrics.R2Score()]
        )

    tuner = tuning.RandomSearch(build, "val_r2_score", directory=str(tmp_path))
    assert tuner.oracle.objective.direction == "max"


def test_conditional_parameters_are_found_the_same_at_each_start(search_function, tmp_path):
    def build(hp):
        kind = hp.Choice("kind", ["none", "some"])
        with hp.conditional_scope("kind", ["some"]):
            if kind == "some":
                for i in range(hp.Int("count", 1, 9)):
                    hp.Float(f"rate_{i}", 0, 1)
                sub = hp.Choice("sub", ["plain", "deep"])
                with hp.conditional_scope("sub", ["deep"]):
                    if sub == "deep":
                        hp.Float("depth", 0, 1)

    spaces = []
    for i in range(3):
        tuner = search_function(
            "RandomSearch", lambda hp: 0.0, None, hypermodel=build, project_name=str(i)
        )
        spaces.append([parameter.name for parameter in tuner.oracle.get_space().space])
    assert spaces == [["kind", "count", "rate_0", "sub", "depth"]] * 3


def test_an_interrupted_search_goes_on_in_the_same_process(search_function, six_points):
    begun = []

    def function(hp):
        begun.append((hp["a"], hp["b"]))
        if len(begun) == 3:
            raise KeyboardInterrupt
        return float(hp["b"])

    tuner = search_function("GridSearch", function, six_points)
    with pytest.raises(KeyboardInterrupt):
        tuner.search()
    tuner.search()
    assert statuses(tuner) == ["COMPLETED"] * 6
    # The one that was interrupted is repeated, and no other.
    assert begun[2] == begun[3] and len(set(begun)) == 6 and len(begun) == 7
