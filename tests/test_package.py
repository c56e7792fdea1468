import os
import subprocess
import sys

import pytest

import keras_optkit

HEAVY = [
    "cv2",
    "keras_tuner",
    "matplotlib",
    "rich",
    "sklearn",
    "tensorboard",
    "tensorflow_datasets",
    "tensorflow_model_optimization",
    "tf_keras",
    "ai_edge_litert",
]


def python(code):
    """Runs code in a process of its own and returns what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def imported():
    code = (
        "import os, sys, keras; before = set(sys.modules), dict(os.environ);"
        "import keras_optkit; print(sorted(set(sys.modules) - before[0]));"
        "print(os.environ == before[1]);"
        "print('tensorflow' in sys.modules, keras.Model.__module__)"
    )
    return python(code).splitlines()


def test_importing_imports_nothing_heavy(imported):
    modules = eval(imported[0])
    assert "keras_optkit.layers" in modules
    assert not [m for m in modules if m.split(".")[0] in HEAVY]


def test_importing_changes_nothing(imported):
    assert imported[1] == "True"
    on_tensorflow = os.environ["KERAS_BACKEND"] == "tensorflow"
    assert imported[2].split() == [str(on_tensorflow), "keras.src.models.model"]


def test_every_name_that_is_promised_is_there():
    for name in keras_optkit.__all__:
        face = getattr(keras_optkit, name)
        for part in getattr(face, "__all__", []):
            assert getattr(face, part).__doc__ or isinstance(getattr(face, part), str)
    assert set(keras_optkit.__all__) <= set(dir(keras_optkit))
    with pytest.raises(AttributeError, match="no attribute 'layerz'"):
        _ = keras_optkit.layerz


def test_no_two_classes_are_registered_under_one_name():
    import keras

    faces = (keras_optkit.layers, keras_optkit.schedules, keras_optkit.pruning)
    for part in [getattr(face, name) for face in faces for name in face.__all__]:
        name = keras.saving.get_registered_name(part)
        if isinstance(part, type) and name.startswith("keras_optkit"):
            assert keras.saving.get_registered_object(name) is part


def test_a_saved_model_loads_after_a_bare_import(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((8, 8, 1)), keras_optkit.layers.ConvBNAct(4, 3)])
    model.compile(keras.optimizers.SGD(keras_optkit.schedules.StepDecay(0.1, 5)), "mse")
    model.save(tmp_path / "model.keras")
    path = str(tmp_path / "model.keras")
    code = (
        f"import keras, keras_optkit; model = keras.models.load_model({path!r});"
        "print(type(model.layers[0]).__name__)"
    )
    assert python(code).strip() == "ConvBNAct"


@pytest.mark.backends("tensorflow")
@pytest.mark.filterwarnings("ignore")
def test_a_default_tuner_trial_runs(tmp_path, toy, make_model):
    """KerasTuner imports tensorboard in every default trial, and fails all of them without it."""
    import keras_tuner

    def build(hp):
        return make_model(hp.Choice("optimizer", ["sgd", "adam"]))

    tuner = keras_tuner.RandomSearch(
        build, "val_loss", max_trials=1, directory=str(tmp_path), project_name="trial"
    )
    tuner.search(*toy, validation_split=0.5, epochs=1, verbose=0)
    (trial,) = tuner.oracle.trials.values()
    assert trial.status == "COMPLETED", trial.message
