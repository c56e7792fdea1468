import json
import pathlib

import keras
import keras_tuner
import numpy as np
import pytest
from keras import layers

from keras_optkit import pruning
from keras_optkit.tuning import DEFAULT_SPACE, OptkitHyperModel

# A model is loaded before its optimizer is built, and Keras says so.
pytestmark = pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")


def build():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Flatten(),
            layers.Dense(24, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")],
    )
    return model


@pytest.fixture
def search(tmp_path, digits):
    """A function that searches over 300 digits and returns the tuner."""

    def run(hypermodel, trials=2, objective="val_accuracy", data=None, **arguments):
        tuner = keras_tuner.RandomSearch(
            hypermodel, objective, max_trials=trials, directory=str(tmp_path), seed=1
        )
        if data is None:
            data = {"x": digits[0][:300], "y": digits[1][:300], "validation_split": 1 / 3}
        tuner.search(**data, **{"epochs": 2, "verbose": 0, **arguments})
        return tuner

    return run


def statuses(tuner):
    return [t.status for t in tuner.oracle.trials.values()]


def test_the_default_space_of_a_plain_build(search):
    hypermodel = OptkitHyperModel(build)
    tuner = search(hypermodel)
    assert statuses(tuner) == ["COMPLETED"] * 2
    for trial in tuner.oracle.trials.values():
        assert set(trial.hyperparameters.values) == set(DEFAULT_SPACE)
    assert str(hypermodel).splitlines() == [
        "Search space of 3 parameters:",
        "  learning_rate  the model's own / 10 to x 10, on a log scale",
        "  schedule       constant, cosine",
        "  weight_decay   1e-05 to 0.1, on a log scale",
    ]


def test_all_at_once_and_the_best_model_takes_labels_as_before(search, digits):
    space = {
        "optimizer": ["sgd"],
        "learning_rate": (0.05, 0.1),
        "momentum": True,
        "schedule": "cosine",
        "warmup": 0.1,
        "weight_decay": True,
        "batch_size": 25,
        "epochs": 3,
        "batch_norm": "before_activation",
        "dropout": 0.1,
        "mixing": "mixup",
        "mixing_alpha": 0.5,
        "label_smoothing": 0.1,
        "ema": 0.9,
        "pruning": 0.5,
    }
    hypermodel = OptkitHyperModel(build, space, seed=0)
    tuner = search(hypermodel, trials=1)
    (trial,) = tuner.oracle.trials.values()
    assert trial.status == "COMPLETED", trial.message
    assert set(trial.hyperparameters.values) == {"learning_rate", "momentum", "weight_decay"}
    (model,) = tuner.get_best_models()
    x, y = digits[0][200:300], digits[1][200:300]
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(trial.score, abs=1e-6)
    assert set(found) == {"loss", "accuracy", "weighted"}
    names = [type(layer).__name__ for layer in model.layers]
    assert names == [
        "Flatten", "Dense", "BatchNormalization", "Activation", "Dropout", "Dense",
    ]  # fmt: skip
    assert pruning.sparsity(model).sparsity == pytest.approx(0.5, abs=0.01)


def test_training_anew_with_the_values_of_a_trial(digits):
    hypermodel = OptkitHyperModel(build, {"epochs": [3, 4], "label_smoothing": 0.1})
    hp = keras_tuner.HyperParameters()
    few = digits[0][:200], digits[1][:200]
    model = hypermodel.build(hp)
    assert len(hypermodel.fit(hp, model, *few, verbose=0).epoch) == 3
    assert len(hypermodel.fit(hp, model, *few, epochs=1, verbose=0).epoch) == 1
    # It takes labels as before.
    assert model.loss == "sparse_categorical_crossentropy"
    assert model.evaluate(*few, verbose=0, return_dict=True)["accuracy"] > 0.2


class Records(keras.callbacks.Callback):
    """Keeps what a `fit` looked like in a file, since callbacks are copied for each trial."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        row = {"epoch": epoch, "logs": sorted(logs), "rate": rate, "batches": self.params["steps"]}
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")


def test_rate_batch_size_and_epochs_reach_fit(search, tmp_path):
    space = {"learning_rate": (0.02, 0.03), "batch_size": [50], "epochs": 3}
    path = tmp_path / "rows"
    tuner = search(OptkitHyperModel(build, space), trials=1, callbacks=[Records(path)])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert {row["batches"] for row in rows} == {4}
    (best,) = tuner.get_best_hyperparameters()
    assert rows[0]["rate"] == pytest.approx(best["learning_rate"], rel=1e-5)


def test_no_epoch_counts_before_the_model_is_pruned(search):
    """A rate that ruins the model makes the first epoch the best: it is left out all the same."""

    def too_fast():
        model = build()
        model.optimizer.learning_rate = 3.0
        return model

    space = {"pruning": [0.5, 0.8], "epochs": 5}

    tuner = search(OptkitHyperModel(too_fast, space), trials=1)
    (trial,) = tuner.oracle.trials.values()
    # The ramp ends at 0.7 of 5 epochs: the fourth is the first to count.
    assert trial.best_step >= 3
    (model,) = tuner.get_best_models()
    target = trial.hyperparameters.values["pruning"]
    assert pruning.sparsity(model).sparsity == pytest.approx(target, abs=0.02)


@pytest.mark.backends("tensorflow")
def test_a_dataset(search, digits):
    import tensorflow as tf

    x, y = digits[0][:300], digits[1][:300]
    train = tf.data.Dataset.from_tensor_slices((x[:200], y[:200])).batch(32)
    held_out = tf.data.Dataset.from_tensor_slices((x[200:], y[200:])).batch(32)
    space = {"learning_rate": True, "mixing": "mixup", "schedule": "one_cycle"}
    data = {"x": train, "validation_data": held_out}
    tuner = search(OptkitHyperModel(build, space), data=data, trials=1)
    assert statuses(tuner) == ["COMPLETED"]


@pytest.mark.backends("tensorflow")
def test_a_build_with_hp_a_hypermodel_and_a_model(search, digits):
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            model = build()
            hp.Choice("schedule", ["own", "none"])
            return model

        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, **{**kwargs, "epochs": 1})

    # The default leaves out what `build` searches itself.
    tuner = search(OptkitHyperModel(Own()), trials=1)
    (trial,) = tuner.oracle.trials.values()
    assert set(trial.hyperparameters.values) == {"schedule", "learning_rate", "weight_decay"}
    assert trial.best_step == 0


def test_a_model_is_copied_with_its_weights(digits):
    few = digits[0][:200], digits[1][:200]
    model = build()
    model.fit(*few, verbose=0)
    hypermodel = OptkitHyperModel(model, ["learning_rate"])
    hp = keras_tuner.HyperParameters()
    hp.values = {"learning_rate": 0.05}
    copied = hypermodel.build(hp)
    assert float(copied.optimizer.learning_rate) == pytest.approx(0.05)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    for a, b in zip(model.get_weights(), copied.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    copied.fit(*few, verbose=0)
    assert not np.array_equal(model.get_weights()[0], copied.get_weights()[0])


def test_bad_input_before_the_first_trial(search, tmp_path):
    for space in ({}, [], {"learning_rate": False}, {"batch_size": 32}):
        with pytest.raises(ValueError, match="space is empty.*Received: space="):
            OptkitHyperModel(build, space)
    with pytest.raises(ValueError, match="`build` must be a function.*Received: build=3"):
        OptkitHyperModel(3)
    with pytest.raises(ValueError, match="Received: a function of a, b"):
        OptkitHyperModel(lambda a, b: None)

    def uncompiled():
        return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])

    def own_rate(hp):
        hp.Float("learning_rate", 0.1, 0.2)
        return build()

    def nothing(hp):
        return build()

    for make, space, message in (
        (uncompiled, None, "must be compiled: let the function"),
        (lambda: "model", None, "must return a compiled `keras.Model`. Received: 'model'"),
        (own_rate, ["learning_rate"], "searches 'learning_rate' itself, under the same name"),
        (nothing, {}, "neither `space` nor `build\\(hp\\)` has anything"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            search(OptkitHyperModel(make, space))
    assert not list(pathlib.Path(tmp_path).rglob("trial_*"))


@pytest.mark.parametrize(
    ("changes", "space", "message"),
    [
        ({"norm": True}, {"batch_norm": True}, "There is nothing to insert"),
        ({"loss": "mse"}, {"mixing": True}, "must have one output and a crossentropy"),
        ({"loss": "mse"}, {"label_smoothing": (0, 0.1)}, "must have one output"),
        ({"head": layers.Reshape((3, 1))}, {"mixing": True}, r"Received: outputs.*\(None, 3, 1\)"),
        ({"use_ema": True}, {"ema": True}, "leave 'ema' out of the space"),
        ({"scheduled": True}, {"schedule": True}, "A schedule needs the learning rate"),
        ({"scheduled": True}, {"learning_rate": True}, "Give a range, as in"),
        ({}, {"momentum": True}, "Adam has none"),
    ],
)
def test_what_a_later_trial_would_stumble_over_is_told_first(changes, space, message):
    def build():
        rate = 0.01
        if changes.get("scheduled"):
            rate = keras.optimizers.schedules.CosineDecay(0.01, 100)
        norm = [layers.BatchNormalization()] if changes.get("norm") else []
        head = [changes["head"]] if "head" in changes else []
        hidden = [layers.Dense(4, activation="relu"), *norm]
        model = keras.Sequential([keras.Input((8,)), *hidden, layers.Dense(3), *head])
        optimizer = keras.optimizers.Adam(rate, use_ema=changes.get("use_ema", False))
        model.compile(optimizer, changes.get("loss", "sparse_categorical_crossentropy"))
        return model

    # The first model has none of it: each search begins with the first choice.
    with pytest.raises(ValueError, match=message):
        OptkitHyperModel(build, space).build(keras_tuner.HyperParameters())


def test_what_only_the_data_shows_stops_the_search(search, digits):
    labelled = {"x": digits[0][:60], "y": digits[1][:60], "validation_split": 0.5}
    for space, objective, data, message in (
        (None, keras_tuner.Objective("val_acuracy", "max"), labelled, "mean 'val_accuracy'"),
        (None, "val_loss", {"x": digits[0], "y": digits[1]}, "needs `validation_data`"),
        (
            {"mixing": ["mixup", "cutmix"]},
            "val_loss",
            labelled | {"x": iter([digits[0]])},
            "can be searched with NumPy arrays",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            search(OptkitHyperModel(build, space), objective=objective, data=data)
