import keras_tuner
import pytest

from keras_optkit.tuning.space import DEFAULT_SPACE, PARAMETERS, Space


def declared(space, rate=0.01, **values):
    """The parameters that a space asks for, and the values of a trial that has `values`."""
    hp = keras_tuner.HyperParameters()
    hp.values = values
    found = Space(space).declare(hp, rate)
    return {p.name: p for p in hp.space}, found


def test_the_default_is_three_parameters_about_the_model():
    asked, values = declared(None, rate=0.02)
    assert list(asked) == list(DEFAULT_SPACE) == ["learning_rate", "schedule", "weight_decay"]
    rate = asked["learning_rate"]
    assert (rate.min_value, rate.max_value, rate.sampling) == (0.002, 0.2, "log")
    assert values == {"learning_rate": 0.02, "schedule": "constant", "weight_decay": 1e-5}


def test_ranges_choices_values_and_what_is_left_alone():
    asked, values = declared(
        {
            "learning_rate": (1e-4, 1e-2),
            "batch_size": [16, 32],
            "epochs": (2, 9),
            "dropout": (0, 0.5),
            "ema": 0.99,
            "schedule": ["cosine"],
            "mixing": False,
        }
    )
    kinds = {name: type(p).__name__ for name, p in asked.items()}
    assert kinds == {
        "learning_rate": "Float",
        "batch_size": "Choice",
        "epochs": "Int",
        "dropout": "Float",
    }
    assert asked["learning_rate"].sampling == "log"
    # A range from 0 has no logarithm.
    assert asked["dropout"].sampling == "linear"
    assert asked["batch_size"].values == [16, 32]
    assert values == {
        "learning_rate": 1e-4,
        "schedule": "cosine",
        "batch_size": 16,
        "epochs": 2,
        "dropout": 0.0,
        "ema": 0.99,
    }


def test_a_list_of_names_is_what_is_usual_of_each():
    assert (
        Space(["ema", "batch_size"]).searched == Space({"batch_size": True, "ema": True}).searched
    )


@pytest.mark.parametrize(("optimizer", "there"), [("sgd", True), ("adam", False)])
def test_momentum_is_of_sgd_only(optimizer, there):
    space = {"optimizer": True, "learning_rate": (0.001, 0.1), "momentum": True}
    asked, values = declared(space, optimizer=optimizer)
    (condition,) = asked["momentum"].conditions
    assert (condition.name, condition.values) == ("optimizer", ["sgd"])
    assert ("momentum" in values) is there
    # One that is set likewise.
    _, values = declared(space | {"momentum": 0.9}, optimizer=optimizer)
    assert (values.get("momentum") == 0.9) is there


@pytest.mark.parametrize(("optimizer", "low", "high"), [("sgd", 3e-3, 0.3), ("adam", 1e-4, 1e-2)])
def test_each_optimizer_has_its_usual_rates(optimizer, low, high):
    asked, values = declared(["optimizer", "learning_rate"], rate=None, optimizer=optimizer)
    rate = asked[f"{optimizer}_learning_rate"]
    assert (rate.min_value, rate.max_value) == (low, high)
    assert values == {"optimizer": optimizer, "learning_rate": low}
    asked, _ = declared({"optimizer": optimizer, "learning_rate": True}, rate=None)
    assert [(p.name, p.min_value, p.max_value) for p in asked.values()] == [
        ("learning_rate", low, high)
    ]


def test_a_tuner_reaches_every_condition(tmp_path):
    seen = []
    space = Space(list(PARAMETERS))

    def build(hp):
        seen.append(space.declare(hp))
        return 0.0

    class Tuner(keras_tuner.RandomSearch):
        def run_trial(self, trial, verbose):
            return build(trial.hyperparameters)

    tuner = Tuner(build, max_trials=40, directory=str(tmp_path), seed=0)
    assert [p.name for p in tuner.oracle.get_space().space] == space.names
    tuner.search(verbose=0)
    for name in PARAMETERS:
        assert any(name in values for values in seen), name
    # Nothing is searched that plays no part.
    for trial in tuner.oracle.trials.values():
        values = trial.hyperparameters.values
        for kind in ("adam", "sgd"):
            assert (f"{kind}_learning_rate" in values) == (values["optimizer"] == kind)
        assert ("mixing_alpha" in values) == (values["mixing"] != "none")
    for values in seen:
        assert ("momentum" in values) == (values["optimizer"] == "sgd")
        assert ("mixing_alpha" in values) == (values["mixing"] != "none")
        assert ("augmentation_strength" in values) == (values["augmentation"] == "rand_augment")


def test_it_describes_itself():
    text = str(Space({"optimizer": True, "learning_rate": True, "momentum": True, "ema": 0.99}))
    assert text.splitlines() == [
        "optimizer           adam, sgd",
        "adam_learning_rate  0.0001 to 0.01, on a log scale (only with optimizer adam)",
        "sgd_learning_rate   0.003 to 0.3, on a log scale (only with optimizer sgd)",
        "momentum            0.8, 0.9, 0.95 (only with optimizer sgd)",
        "set: ema=0.99",
    ]


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rat": True}, "Did you mean 'learning_rate'.*learning_rat"),
        (3, "dictionary from names to ranges.*space=3"),
        ({"dropout": (0.5, 0.2)}, r"lower end.*dropout=\(0.5, 0.2\)"),
        ({"dropout": [0.1, 1.0]}, r"numbers in \[0, 1\)"),
        ({"dropout": (0.1, 0.2, 0.3)}, r"or a range \(low, high\)"),
        ({"batch_size": [0]}, "integers from 1"),
        ({"batch_size": 16.5}, "integers from 1"),
        ({"learning_rate": (0, 0.1)}, "numbers above 0"),
        ({"schedule": ["cosin"]}, "Did you mean 'cosine'"),
        ({"schedule": ("constant", "cosine")}, "list of values to choose from"),
        ({"ema": []}, r"no values to choose from.*ema=\[\]"),
        ({"optimizer": True}, "Put 'learning_rate' into the space"),
        ({"mixing_alpha": True}, "together with 'mixing'"),
        ({"mixing": "none", "mixing_alpha": True}, "only with mixing 'mixup' or 'cutmix'"),
        (
            {"optimizer": "adam", "learning_rate": True, "momentum": 0.9},
            "only with optimizer 'sgd'",
        ),
    ],
)
def test_bad_input(space, message):
    with pytest.raises(ValueError, match=message):
        Space(space)


def test_no_range_about_a_rate_that_is_no_number():
    with pytest.raises(ValueError, match=r"Give a range, as in 'learning_rate': \(1e-4, 1e-1\)"):
        declared(None, rate=None)
