import math
import os

import keras_tuner
import numpy as np
import pytest

from keras_optkit.tuning.acquisition import log_expected_improvement
from keras_optkit.tuning.files import write_json
from keras_optkit.tuning.gaussian_process import condition, fit
from keras_optkit.tuning.pareto import pareto_front, scalarise
from keras_optkit.tuning.suggestion import suggest, warp
from keras_optkit.tuning.unit_space import UnitSpace


def test_the_process_is_scikit_learns():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    rng = np.random.default_rng(0)
    x, points = rng.random((20, 3)), rng.random((50, 3))
    y = np.sin(5 * x[:, 0]) + x[:, 1] ** 2
    scales, variance, noise = np.array([0.3, 0.7, 2.0]), 1.7, 1e-3
    kernel = ConstantKernel(variance) * Matern(scales, nu=2.5)
    reference = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(x, y)
    process = condition(x, y, np.arange(3), np.log([*scales, variance, noise]))
    means, deviations = reference.predict(points, return_std=True)
    np.testing.assert_allclose(process.predict(points)[0], means, atol=1e-7)
    np.testing.assert_allclose(process.predict(points)[1], deviations, atol=1e-6)
    # The derivatives, against differences.
    for point in points[:5]:
        mean, deviation, dmean, ddeviation = process.gradients(point)
        steps = point + 1e-6 * np.vstack([np.eye(3), -np.eye(3)])
        near = [(values[:3] - values[3:]) / 2e-6 for values in process.predict(steps)]
        np.testing.assert_allclose([dmean, ddeviation], near, atol=1e-5)
        np.testing.assert_allclose([[mean], [deviation]], process.predict(point[None]), atol=1e-9)


def test_a_fit_finds_which_parameters_matter_and_the_noise():
    rng = np.random.default_rng(0)
    x = rng.random((80, 3))
    y = np.sin(7 * x[:, 0]) + 0.2 * rng.normal(size=80)
    y = (y - y.mean()) / y.std()
    process = fit(x, y, np.arange(3))
    lengths = np.exp(process.theta[:3])
    assert lengths[0] < 0.6 * lengths[1:].min()
    assert np.exp(process.theta[-1]) == pytest.approx((0.2 / 0.72) ** 2, rel=0.6)


def test_the_log_of_the_expected_improvement():
    mp = pytest.importorskip("mpmath").mp
    exact = mp.mpf
    mp.dps = 60
    for z in (-1000.0, -40.0, -5.0, -1.001, -0.999, 0.0, 3.0):
        density = mp.exp(-(exact(z) ** 2) / 2) / mp.sqrt(2 * mp.pi)
        expected = mp.log(2 * (density + z * mp.ncdf(exact(z))))
        value, by_mean, by_deviation = log_expected_improvement(
            np.array(-2 * z), np.array(2.0), 0.0
        )
        np.testing.assert_allclose(float(value), float(expected), rtol=1e-9)
        tail = log_expected_improvement(np.array(1e6), np.array(1.0), 0.0)[0]
        np.testing.assert_allclose(tail + 5e11, -0.9189385 - 2 * np.log(1e6), atol=1e-3)
        step = 1e-5
        above = log_expected_improvement(np.array(-2 * z + step), np.array(2.0), 0.0)[0]
        below = log_expected_improvement(np.array(-2 * z - step), np.array(2.0), 0.0)[0]
        np.testing.assert_allclose(by_mean, (above - below) / (2 * step), rtol=1e-3, atol=1e-6)
        above = log_expected_improvement(np.array(-2 * z), np.array(2 + step), 0.0)[0]
        below = log_expected_improvement(np.array(-2 * z), np.array(2 - step), 0.0)[0]
        np.testing.assert_allclose(by_deviation, (above - below) / (2 * step), rtol=1e-3, atol=1e-6)


def test_the_warp_keeps_the_order_and_shortens_the_tail():
    y = np.exp(np.random.default_rng(0).normal(size=200) * 2)
    warped = warp(y)
    assert np.array_equal(np.argsort(y), np.argsort(warped))
    assert abs(np.mean(warped**3)) < 1 < 3 < np.mean(((y - y.mean()) / y.std()) ** 3)
    np.testing.assert_allclose([warped.mean(), warped.std()], [0, 1], atol=1e-9)
    assert np.all(warp(np.ones(5)) == 0)


def every_kind():
    hp = keras_tuner.HyperParameters()
    kind = hp.Choice("kind", ["sgd", "adam", "rmsprop"])
    hp.Float("rate", 1e-4, 1e-1, sampling="log")
    hp.Int("units", 8, 128, step=2, sampling="log")
    hp.Int("layers", 1, 20)
    hp.Float("drop", 0.0, 0.5, step=0.1)
    hp.Choice("batch", [32, 64, 128])
    hp.Int("width", 3, 1000, sampling="log")
    hp.Boolean("norm")
    hp.Fixed("always", 7)
    with hp.conditional_scope("kind", ["sgd"]):
        if kind == "sgd":
            hp.Float("momentum", 0.0, 0.99)
            hp.Boolean("nesterov")
    return hp.space


def test_values_survive_the_unit_cube():
    space = UnitSpace(every_kind())
    points = space.snap(np.random.default_rng(0).random((300, space.dimension)))
    seen = set()
    for point in points:
        values = space.decode(point)
        assert ("momentum" in values) == ("nesterov" in values) == (values["kind"] == "sgd")
        again = space.decode(space.encode(values))
        # A log range of integers is a range to the process; all else is at its value's place.
        exact = [parameter.name != "width" for parameter in space.parameters]
        np.testing.assert_allclose(space.encode(values)[exact], point[exact], atol=1e-9)
        for name, value in values.items():
            assert again[name] == (pytest.approx(value) if type(value) is float else value), name
            assert type(again[name]) is type(value)
        seen |= {("units", values["units"]), ("drop", round(values["drop"], 3))}
    assert {u for n, u in seen if n == "units"} == {8, 16, 32, 64, 128}
    assert {d for n, d in seen if n == "drop"} == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}


def test_the_columns_of_a_point():
    space = UnitSpace(every_kind())
    rng = np.random.default_rng(0)
    points = space.snap(rng.random((200, space.dimension)))
    # Any two kinds of optimizer are as far apart as any other two.
    columns = space.features(points)[:, space.groups == 0]
    apart = np.linalg.norm(columns[:, None] - columns[None], axis=2)
    assert set(np.round(apart.ravel(), 9)) == {0.0, 1.0}
    # What is not active makes no difference.
    adam = {"kind": "adam", "rate": 1e-2, "units": 8, "layers": 1, "drop": 0.0, "batch": 32}
    adam |= {"width": 10, "norm": True}
    np.testing.assert_array_equal(
        space.encode(adam), space.encode({**adam, "momentum": 0.9, "nesterov": True})
    )
    other = space.neighbours(space.encode(adam), rng, 1000)
    assert {space.decode(point)["kind"] for point in other} == {"sgd", "adam", "rmsprop"}


def sphere(hp):
    return (hp["x"] - 0.3) ** 2 + (hp["y"] - 0.6) ** 2 + (hp["kind"] != "b")


@pytest.fixture
def mixed():
    hp = keras_tuner.HyperParameters()
    hp.Float("x", 0, 1)
    hp.Float("y", 0, 1)
    hp.Choice("kind", ["a", "b", "c"])
    return hp


@pytest.mark.parametrize("beta", [None, 2.6])
def test_it_finds_the_minimum_of_a_mixed_space(search_function, mixed, beta):
    tuner = search_function("BayesianOptimization", sphere, mixed, max_trials=25, beta=beta)
    tuner.search()
    (best,) = tuner.oracle.get_best_trials(1)
    assert best.score < 1e-3
    assert best.hyperparameters["kind"] == "b"


def test_it_maximises_too(search_function, mixed):
    tuner = search_function(
        "BayesianOptimization",
        lambda hp: {"gain": -sphere(hp)},
        mixed,
        max_trials=25,
        objective=keras_tuner.Objective("gain", "max"),
    )
    tuner.search()
    assert tuner.oracle.get_best_trials(1)[0].score > -1e-3


def test_no_point_comes_twice_and_a_finite_space_is_used_up(search_function, six_points):
    tuner = search_function(
        "BayesianOptimization", lambda hp: float(hp["a"]), six_points, max_trials=None
    )
    tuner.search()
    values = [tuple(t.hyperparameters.values.values()) for t in tuner.oracle.trials.values()]
    assert len(values) == len(set(values)) == 6


def test_what_runs_is_kept_away_from(mixed):
    space = UnitSpace(mixed.space)
    rng = np.random.default_rng(0)
    points = space.snap(rng.random((8, 3)))
    outputs = np.array([sphere(space.decode(point)) for point in points])

    def ask(pending):
        return suggest(space, points, outputs, pending, np.random.default_rng(1))[0]

    alone = ask(np.empty((0, 3)))
    beside = ask(alone[None])
    # Without the pending one the same place is suggested again.
    assert np.abs(ask(np.empty((0, 3))) - alone).max() < 1e-9
    assert np.abs(beside - alone).max() > 0.02


def test_what_ended_early_is_not_taken_for_what_it_would_have_come_to():
    hp = keras_tuner.HyperParameters()
    hp.Float("x", 0, 1)
    space = UnitSpace(hp.space)
    # After a few epochs all are worse by 1; of the good ones none was let on.
    ended, whole = np.array([0.65, 0.72, 0.8, 0.88, 0.95]), np.array([0.05, 0.2, 0.35, 0.5])
    x = np.r_[ended, whole, whole]
    progress = np.r_[np.full(9, 0.3), np.ones(4)]
    outputs = (x - 0.8) ** 2 + (progress < 1)

    def ask(rows, progress=None):
        arguments = x[rows, None], outputs[rows], np.empty((0, 1)), np.random.default_rng(0)
        # Where the least is expected, with no weight on what is not known.
        found, theta = suggest(space, *arguments, beta=0.0, progress=progress)
        assert len(theta) == (3 if progress is None else 4)
        return found[0]

    # Among those that were ended, where the best are.
    assert 0.65 < ask(np.arange(13), progress) < 0.95
    # With the last value of each alone, that place looks bad.
    assert ask(np.r_[:5, 9:13]) < 0.55


@pytest.mark.parametrize("direction", ["min", "max"])
def test_trials_say_what_they_came_to_on_their_way(search_function, direction):
    sign = 1 if direction == "min" else -1
    curves = {0: [5.0, 3.0, 4.0, 1.0], 1: [9.0], 2: [8.0, math.nan, 2.0]}
    hp = keras_tuner.HyperParameters()
    hp.Int("x", 0, 9)
    tuner = search_function(
        "BayesianOptimization", lambda hp: 0.0, hp, max_trials=3,
        objective=keras_tuner.Objective("y", direction),
    )  # fmt: skip

    def run_trial(trial):
        curve = curves[int(trial.trial_id)]
        values = {epoch: sign * value for epoch, value in enumerate(curve, 1)}
        state = {"values": values, "pruned": len(curve) < 4, "planned": 4}
        write_json(f"{tuner.get_trial_dir(trial.trial_id)}/epochs.json", state)
        return {"y": sign * min(value for value in curve if value == value)}

    tuner.run_trial = run_trial
    tuner.search()
    trials = list(tuner.oracle.trials.values())
    rows, outputs, progress = tuner.oracle._seen_on_the_way(trials)
    # Of each the first, second, fourth and last epoch, by the best until then.
    expected = [(0, 1, 4), (0, 3, 2), (0, 5, 1), (1, 9, 1), (2, 2, 3), (2, 8, 1), (2, 8, 2)]
    epochs = np.round(5**progress - 1)
    found = list(zip(rows.tolist(), outputs.tolist(), epochs.tolist(), strict=True))
    assert sorted(found) == expected
    for trial in trials[1:]:
        os.remove(f"{tuner.get_trial_dir(trial.trial_id)}/epochs.json")
    # Where none was ended early there is nothing to learn of it.
    assert tuner.oracle._seen_on_the_way(trials) is None


def test_the_pareto_front():
    values = np.random.default_rng(0).integers(0, 40, size=(60, 3))
    expected = [
        not any(np.all(other <= row) and np.any(other < row) for other in values) for row in values
    ]
    np.testing.assert_array_equal(pareto_front(values), expected)
    assert 1 < sum(expected) < 60


def test_the_scalarisation_reaches_a_concave_front():
    angle = np.linspace(0, np.pi / 2, 21)
    # From the good side this front is hollow: no weighted sum has its middle as its minimum.
    values = np.c_[np.cos(angle), 1000 * np.sin(angle)]
    rng = np.random.default_rng(0)
    found = {int(scalarise(values, rng).argmin()) for _ in range(200)}
    assert len(found) > 10


def test_several_objectives_spread_over_their_front(search_function):
    hp = keras_tuner.HyperParameters()
    hp.Float("x", 0, 1)
    hp.Float("y", 0, 1)

    def function(hp):
        waste = hp["y"] ** 2
        return {"accuracy": hp["x"] - waste, "size": 1e6 * (hp["x"] ** 2 + waste)}

    objectives = [keras_tuner.Objective("accuracy", "max"), keras_tuner.Objective("size", "min")]
    tuner = search_function(
        "BayesianOptimization", function, hp, max_trials=30, objective=objectives
    )
    tuner.search()
    front = tuner.pareto_front()
    along = sorted(trial.hyperparameters["x"] for trial in front)
    assert len(front) > 8
    assert along[0] < 0.2 and along[-1] > 0.8
    assert max(trial.hyperparameters["y"] for trial in front) < 0.3
