import keras
import keras_tuner
import pytest

from keras_optkit import tuning


@pytest.fixture
def build():
    """A hypermodel of two parameters, for the data of `toy`."""

    def build(hp):
        units = hp.Choice("units", [4, 8])
        rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
        layers = [keras.layers.Dense(units, activation="relu"), keras.layers.Dense(3)]
        model = keras.Sequential([keras.Input((4,)), *layers])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(rate), loss, metrics=["accuracy"])
        return model

    return build


@pytest.fixture
def search_function(tmp_path):
    """Returns a tuner of a function of the hyperparameters, which needs no model."""

    def make(tuner, function, space, **kwargs):
        def run_trial(self, trial, *args, **kwargs):
            return function(trial.hyperparameters)

        black_box = type(tuner, (getattr(tuning, tuner),), {"run_trial": run_trial})
        kwargs = {"directory": str(tmp_path), "project_name": "search", "seed": 0, **kwargs}
        made = black_box(hyperparameters=space, **kwargs)
        made.oracle.verbose = 0
        return made

    return make


@pytest.fixture
def six_points():
    """A space of 2 x 3 points."""
    hp = keras_tuner.HyperParameters()
    hp.Choice("a", [1, 2])
    hp.Int("b", 0, 2)
    return hp
