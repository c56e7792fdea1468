import json

import keras
import numpy as np
import pytest

from keras_optkit.core.duration import Run
from keras_optkit.pruning import ConstantSparsity, CubicWithWarmup, OneShot, PolynomialDecay


def curve(schedule, steps):
    sparsity = [float(schedule.sparsity(step)) for step in steps]
    return sparsity, [step for step in steps if bool(schedule.prunes_at(step))]


def test_polynomial_decay_is_the_papers_formula():
    schedule = PolynomialDecay(0.2, 0.9, begin_step=10, end_step=110, power=3, frequency=20)
    sparsity, pruned = curve(schedule, range(0, 130))
    share = np.clip((np.arange(130) - 10) / 100, 0, 1)
    np.testing.assert_allclose(sparsity, 0.9 + (0.2 - 0.9) * (1 - share) ** 3, rtol=1e-6)
    assert pruned == [10, 30, 50, 70, 90, 110]


def test_the_end_is_a_refresh_wherever_it_falls():
    assert curve(PolynomialDecay(0, 0.9, 0, 25, frequency=10), range(40))[1] == [0, 10, 20, 25]


def test_constant_sparsity():
    schedule = ConstantSparsity(0.5, begin_step=5, frequency=10)
    sparsity, pruned = curve(schedule, range(40))
    assert set(sparsity) == {0.5} and pruned == [5, 15, 25, 35]
    assert curve(ConstantSparsity(0.5, 5, end_step=20, frequency=10), range(40))[1] == [5, 15, 20]


def test_one_shot():
    sparsity, pruned = curve(OneShot(0.5, 7), range(40))
    assert set(sparsity) == {0.5} and pruned == [7]
    assert [OneShot(0.5, 7).settled_at(step) for step in (6, 7)] == [False, True]
    assert OneShot(0.5, "2ep").resolve(Run(10, 4)).begin_step == 8


def test_cubic_with_warmup_is_measured_from_both_ends():
    schedule = CubicWithWarmup(0.8, "2ep", 0.25, initial_sparsity=0.2, frequency=5)
    found = schedule.resolve(Run(epochs=20, steps_per_epoch=10))
    expected = PolynomialDecay(0.2, 0.8, 20, 150, power=3, frequency=5)
    assert found.get_config() == expected.get_config()
    with pytest.raises(ValueError, match="number of batches in this data is not known"):
        schedule.resolve(Run(epochs=20, steps_per_epoch=None))


def test_another_target_or_frequency_at_the_same_steps():
    schedule = PolynomialDecay(0.5, 0.9, 0, 10, frequency=5)
    changed = schedule.with_target(0.25).with_frequency(2)
    assert (changed.initial_sparsity, changed.target, changed.frequency) == (0.25, 0.25, 2)
    assert schedule.timing == schedule.with_target(0.25).timing != changed.timing


def test_settled():
    assert [ConstantSparsity(0.5, 5).settled_at(s) for s in (4, 5)] == [False, True]
    assert [PolynomialDecay(0, 0.5, 0, 9).settled_at(s) for s in (8, 9)] == [False, True]


@pytest.mark.parametrize(
    "schedule",
    [
        PolynomialDecay(0.0, 0.5, "1ep", 0.5, power=2, frequency=3),
        ConstantSparsity(0.5, "2ep"),
        OneShot(0.5, "2ep"),
    ],
)
def test_config_and_resolution(schedule):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == schedule.get_config()
    resolved = again.resolve(Run(epochs=10, steps_per_epoch=4))
    expected = (4, 20) if isinstance(schedule, PolynomialDecay) else (8, -1)
    assert (resolved.begin_step, resolved.end_step) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PolynomialDecay(-0.1, 0.5, 0, 10), "initial_sparsity=-0.1"),
        (lambda: PolynomialDecay(0.0, 1.0, 0, 10), "final_sparsity=1.0"),
        (lambda: PolynomialDecay(0.0, 0.5, 10, 10), "begin_step=10, end_step=10"),
        (lambda: PolynomialDecay(0.0, 0.5, "3ep", "2ep"), "begin_step='3ep', end_step='2ep'"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, -1), "end_step=-1"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, frequency=0), "frequency=0"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, frequency=2.5), "2.5"),
        (lambda: PolynomialDecay(0.0, 0.5, 0, 10, power=0), "power=0"),
        (lambda: OneShot(1.0), "target_sparsity=1.0"),
        (lambda: OneShot(0.5, 1.5), "begin_step=1.5"),
        (lambda: CubicWithWarmup(0.5, cooldown=-1), "cooldown=-1"),
        (lambda: CubicWithWarmup(0.5, frequency=0), "frequency=0"),
        (lambda: ConstantSparsity(1.5, 0), "target_sparsity=1.5"),
        (lambda: ConstantSparsity(float("nan"), 0), "target_sparsity=nan"),
        (lambda: ConstantSparsity(0.5, "soon"), "begin_step='soon'"),
        (lambda: ConstantSparsity(0.5, -5), "begin_step=-5"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match="Received: .*" + message):
        make()


def test_an_end_that_turns_out_before_the_beginning_is_told():
    with pytest.raises(ValueError, match="begin_step=20, end_step=16"):
        PolynomialDecay(0, 0.5, 0.5, "4ep").resolve(Run(epochs=10, steps_per_epoch=4))
