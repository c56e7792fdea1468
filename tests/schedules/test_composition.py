"""Schedules that are made of schedules."""

import json

import keras
import numpy as np
import pytest
from schedule_references import values

from keras_optkit.core.duration import Run
from keras_optkit.schedules import (
    Constant,
    CosineDecay,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    Product,
    Sequence,
    StepDecay,
    WarmupStableDecay,
)

RUN = Run(epochs=10, steps_per_epoch=20)
NESTED = {
    "sequence": lambda: Sequence(
        [Constant(0.1), CosineDecay(0.1, "2ep").with_warmup("1ep"), StepDecay(0.01, 0.5)],
        ["2ep", 0.5],
    ).with_warmup("1ep", 0.01),
    "product": lambda: Product(
        OneCycle(0.1, 0.8), Sequence([Constant(1.0), MultiStepDecay(0.5, [0.5])], ["2ep"])
    ),
    "of Keras": lambda: Sequence(
        [keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5), LinearDecay(0.1)], [50]
    ),
}


@pytest.mark.parametrize("make", NESTED.values(), ids=NESTED)
def test_config_and_resolution(make):
    schedule = make()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == schedule.get_config()
    json.dumps(schedule.get_config())
    np.testing.assert_array_equal(values(again.resolve(RUN)), values(schedule.resolve(RUN)))
    assert again.get_config() == schedule.get_config()


def test_every_part_of_a_sequence_starts_at_its_first_step():
    schedule = NESTED["sequence"]().resolve(RUN)
    rates = values(schedule)
    np.testing.assert_allclose(rates[:20], np.linspace(0.01, 0.1, 20, endpoint=False), rtol=1e-6)
    np.testing.assert_allclose(rates[20:40], 0.1, rtol=1e-6)
    second = values(CosineDecay(0.1, 40).with_warmup(20))
    np.testing.assert_allclose(rates[40:100], second[:60], rtol=1e-6)
    np.testing.assert_allclose(rates[100:200], values(StepDecay(0.01, 50))[:100], rtol=1e-6)


def test_a_fraction_in_a_sequence_is_one_of_its_part():
    schedule = Sequence([LinearDecay(0.1), LinearDecay(0.2), CosineDecay(0.3)], ["2ep", "5ep"])
    rates = values(schedule.resolve(RUN))
    np.testing.assert_allclose(rates[:40], 0.1 * (1 - np.arange(40) / 40), rtol=1e-6)
    np.testing.assert_allclose(rates[40:100], 0.2 * (1 - np.arange(60) / 60), rtol=1e-6)
    np.testing.assert_allclose(rates[100:200], values(CosineDecay(0.3, 100), 100), rtol=1e-6)
    assert rates[199] > 0 == rates[200]
    # A sequence in a sequence has the part that it is in.
    inner = Sequence([Constant(0.1), LinearDecay(0.1)], [0.5])
    rates = values(Sequence([Constant(0.1), inner], ["4ep"]).resolve(RUN))
    np.testing.assert_allclose(rates[140:200], 0.1 * (1 - np.arange(60) / 60), rtol=1e-6)


def test_a_part_that_is_never_reached_does_no_harm():
    schedule = Sequence([Constant(0.1), CosineDecay(0.1)], ["12ep"]).resolve(RUN)
    np.testing.assert_allclose(values(schedule, 200), 0.1, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (Constant(0.1), None),
        (StepDecay(0.1, "2ep"), None),
        (CosineDecay(0.1, "2ep"), 40),
        (MultiStepDecay(0.1, ["2ep", "12ep"]), 240),
        (Sequence([Constant(0.1), StepDecay(0.1, 5)], ["3ep"]), 60),
        (Sequence([Constant(0.1), CosineDecay(0.1, "2ep")], ["3ep"]), 100),
        (Product(CosineDecay(0.1, "2ep"), MultiStepDecay(0.1, ["3ep"])), 60),
        (Product(Constant(0.1), StepDecay(0.1, "2ep")), None),
        (Product(CosineDecay(0.1, 7), keras.optimizers.schedules.ExponentialDecay(1.0, 9, 1)), 7),
    ],
)
def test_the_step_by_which_all_has_ended(schedule, end):
    assert schedule.resolve(RUN).end == end


def test_unresolved_durations_are_told():
    with pytest.raises(ValueError, match="callbacks.LearningRate.*duration='2ep'"):
        Product(CosineDecay(0.1, "2ep"), Constant(1.0))(0)
    with pytest.raises(ValueError, match="callbacks.LearningRate.*milestones='2ep'"):
        Sequence([Constant(0.1), Constant(0.2)], ["2ep"])(0)
    with pytest.raises(ValueError, match="steps_per_epoch=.*duration=1.0"):
        Sequence([Constant(0.1), CosineDecay(0.1)], [5]).resolve(Run(3, None))


def test_a_schedule_shows_what_it_is_made_of():
    schedule = Sequence([Constant(0.1), Constant(0.2)], [5]).with_warmup(2)
    assert eval(repr(schedule).replace(", warmup=2, warmup_start=0.0", "")).milestones == [5]
    assert "Constant(learning_rate=0.2)" in repr(Product(Constant(0.1), Constant(0.2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sequence([Constant(0.1)], []), "milestones=.]"),
        (lambda: Sequence([Constant(0.1)], [5]), "schedules=.Constant.*milestones=.5]"),
        (lambda: Sequence(Constant(0.1), [5]), "schedules=Constant"),
        (lambda: Sequence([Constant(0.1), 0.2], [5]), "schedules=0.2"),
        (lambda: Sequence([Constant(0.1)] * 3, [9, 5]), "milestones=.9, 5]"),
        (lambda: Product(Constant(0.1), 0.5), "b=0.5"),
        (lambda: Product("cosine", Constant(0.1)), "a='cosine'"),
        (lambda: Product(Constant(0.1), lambda step: 1.0), "b=<function"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match="Received: .*" + message):
        make()


def test_a_warmup_of_the_constructor_is_the_one_of_the_method():
    ours = WarmupStableDecay(0.1, 100, warmup=10, decay=20)
    other = WarmupStableDecay(0.1, 100, warmup=0, decay=20).with_warmup(10)
    assert ours.get_config() == other.get_config()
    assert WarmupStableDecay(0.1, 100, 10, 20).with_warmup(0).get_config()["warmup"] == 0
