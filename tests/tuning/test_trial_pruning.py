import math

import numpy as np
import pytest

from keras_optkit.tuning import MedianStopping, SuccessiveHalving


def test_successive_halving_judges_at_its_rungs_only():
    pruner = SuccessiveHalving(min_epochs=2, factor=3)
    best = {epoch: 1.0 for epoch in range(1, 30)}
    others = [best] * 9
    stops = [
        epoch
        for epoch in range(1, 25)
        if pruner.should_stop({e: 0.5 for e in range(1, epoch + 1)}, others, "max")
    ]
    assert stops == [2, 6, 18]


@pytest.mark.parametrize("direction", ["min", "max"])
def test_successive_halving_lets_one_in_factor_go_on(direction):
    """Against a simulation: of many trials in random order a third passes each rung."""
    rng = np.random.default_rng(0)
    pruner = SuccessiveHalving(min_epochs=1, factor=3)
    sign = 1 if direction == "max" else -1
    qualities = rng.permutation(300)
    there = {1: [], 3: []}
    passed = {1: [], 3: []}
    for quality in qualities:
        history = {1: sign * float(quality)}
        if pruner.should_stop(history, there[1], direction):
            there[1].append(history)
            continue
        passed[1].append(quality)
        later = {**history, 2: history[1], 3: history[1]}
        there[1].append(later)
        if not pruner.should_stop(later, there[3] + there[1][:-1], direction):
            passed[3].append(quality)
        there[3].append(later)
    assert 300 / 3 * 0.8 < len(passed[1]) < 300 / 3 * 1.3
    assert len(passed[3]) < len(passed[1]) * 0.6
    # Whatever came early, the best one is never stopped.
    assert 299 in passed[3]


def test_successive_halving_stops_what_was_never_finite():
    pruner = SuccessiveHalving()
    assert pruner.should_stop({1: math.nan}, [{1: 1.0}], "min")
    assert not pruner.should_stop({1: math.nan}, [], "min")
    assert not pruner.should_stop({1: 5.0}, [{1: math.nan}, {1: math.nan}], "min")


@pytest.mark.parametrize("direction", ["min", "max"])
def test_median_stopping_is_the_rule_of_vizier(direction):
    """Against the rule written with NumPy, on random histories."""
    rng = np.random.default_rng(1)
    pruner = MedianStopping(min_epochs=2, min_trials=3)
    seen = set()
    for _ in range(200):
        values = rng.normal(size=(rng.integers(2, 7), 5))
        epoch = int(rng.integers(1, 6))
        lengths = rng.integers(1, 6, size=len(values))
        others = [
            dict(enumerate(row[:n].tolist(), 1))
            for row, n in zip(values[1:], lengths[1:], strict=True)
        ]
        history = dict(enumerate(values[0, :epoch].tolist(), 1))
        averages = [
            v[:epoch].mean() for v, n in zip(values[1:], lengths[1:], strict=True) if n >= epoch
        ]
        best = values[0, :epoch].max() if direction == "max" else values[0, :epoch].min()
        expected = epoch >= 2 and len(averages) >= 3
        if expected:
            median = np.median(averages)
            expected = bool(best < median if direction == "max" else best > median)
        assert pruner.should_stop(history, others, direction) is expected
        seen.add(expected)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "pruner, kwargs, match",
    [
        (SuccessiveHalving, {"factor": 1}, "factor.*>= 2.*factor=1"),
        (SuccessiveHalving, {"min_epochs": 0}, "min_epochs.*>= 1.*min_epochs=0"),
        (MedianStopping, {"min_trials": 0}, "min_trials.*>= 1"),
        (MedianStopping, {"min_epochs": 1.5}, "min_epochs=1.5"),
    ],
)
def test_bad_settings_are_told(pruner, kwargs, match):
    with pytest.raises(ValueError, match=match):
        pruner(**kwargs)
