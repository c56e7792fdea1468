import itertools

import keras_tuner

from keras_optkit.tuning.grid import combinations, covers


def conditional():
    hp = keras_tuner.HyperParameters()
    kind = hp.Choice("kind", ["sgd", "adam"])
    with hp.conditional_scope("kind", ["sgd"]):
        if kind == "sgd":
            hp.Float("momentum", 0.0, 0.5, step=0.1)
    hp.Int("units", 8, 32, step=2, sampling="log", default=16)
    return hp


def test_the_grid_is_the_product_with_its_conditions():
    found = [tuple(point.items()) for point in combinations(conditional().space)]
    momenta = [i * 0.1 for i in range(6)]
    units = [16, 8, 32]
    expected = [
        (("kind", "sgd"), ("momentum", m), ("units", u))
        for m, u in itertools.product(momenta, units)
    ] + [(("kind", "adam"), ("units", u)) for u in units]
    assert found == expected
    assert all(type(dict(point)["units"]) is int for point in found)


def test_the_points_are_kerastuners(search_function, tmp_path):
    """Where KerasTuner's count of steps is right and no value is rounded."""

    def space():
        hp = keras_tuner.HyperParameters()
        hp.Choice("kind", ["sgd", "adam"])
        hp.Int("units", 1, 3)
        hp.Float("rate", 1e-3, 1e-1, sampling="log")
        return hp

    def run_trial(self, trial, **kwargs):
        return 0.0

    theirs = type("Theirs", (keras_tuner.GridSearch,), {"run_trial": run_trial})(
        hyperparameters=space(), directory=str(tmp_path), project_name="theirs"
    )
    theirs.search(verbose=0)
    ours = search_function("GridSearch", lambda hp: 0.0, space())
    ours.search()
    points = [
        {tuple(trial.hyperparameters.values.items()) for trial in tuner.oracle.trials.values()}
        for tuner in (ours, theirs)
    ]
    assert points[0] == points[1]
    assert len(points[0]) == len(ours.oracle.trials) == 2 * 3 * 11


def test_a_search_that_stops_anywhere_visits_the_rest_in_order(search_function):
    whole = search_function("GridSearch", lambda hp: 0.0, conditional(), project_name="whole")
    whole.search()
    for stop in (1, 5, 20):
        name = str(stop)
        part = search_function(
            "GridSearch", lambda hp: 0.0, conditional(), project_name=name, max_trials=stop
        )
        part.search()
        rest = search_function("GridSearch", lambda hp: 0.0, conditional(), project_name=name)
        rest.search()
        points = [
            [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
            for tuner in (rest, whole)
        ]
        assert points[0] == points[1]


def test_parameters_that_appear_later_are_covered(search_function):
    def function(hp):
        for i in range(hp["layers"]):
            hp.Int(f"units_{i}", 1, 2)
        return 0.0

    hp = keras_tuner.HyperParameters()
    hp.Int("layers", 0, 2)
    tuner = search_function("GridSearch", function, hp)
    tuner.search()
    values = [trial.hyperparameters.values for trial in tuner.oracle.trials.values()]
    two = {(v["units_0"], v["units_1"]) for v in values if v["layers"] == 2}
    assert two == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert {v["layers"] for v in values} == {0, 1, 2}
    # No trial is one that ran before its parameters were known.
    assert not any(covers(a, b) for a, b in itertools.combinations(values, 2))
