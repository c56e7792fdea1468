"""Every schedule against float64 formulas, and against torch's where torch is installed."""

import json
import math

import keras
import numpy as np
import pytest

from keras_optkit.core.duration import Run
from keras_optkit.schedules import CosineDecay, OneCycle, StepDecay
from keras_optkit.schedules.curves import power

STEPS = 2000


def values(schedule, steps=STEPS):
    """All rates at once: a schedule is an elementwise function of the step."""
    # One shape for all, which JAX compiles once.
    rates = schedule(np.arange(max(steps, STEPS)))
    return keras.ops.convert_to_numpy(rates).astype("float64")[:steps]


def random_schedules(kind, count=20):
    rng = np.random.default_rng(7)
    for _ in range(count):
        rate = 10 ** rng.uniform(-4, 0)
        if kind is StepDecay:
            yield StepDecay(rate, int(rng.integers(1, 400)), gamma=rng.uniform(0.05, 0.99))
        elif kind is CosineDecay:
            yield CosineDecay(rate, int(rng.integers(2, STEPS)), alpha=rng.choice([0, 0.01, 0.5]))
        else:
            three_phase = bool(rng.integers(2))
            yield OneCycle(
                rate,
                int(rng.integers(10, STEPS)),
                pct_start=rng.uniform(0.05, 0.45),
                anneal=str(rng.choice(["cosine", "linear"])),
                div_factor=rng.uniform(2, 50),
                final_div_factor=10 ** rng.uniform(1, 5),
                three_phase=three_phase,
            )


def step_decay(schedule, step):
    return schedule.initial_learning_rate * schedule.gamma ** (step // schedule.every)


def cosine_decay(schedule, step):
    top = schedule.initial_learning_rate
    floor = schedule.alpha * top
    share = min(step / schedule.duration, 1)
    return floor + (top - floor) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("kind", "formula"), [(StepDecay, step_decay), (CosineDecay, cosine_decay)]
)
def test_equal_to_the_formula_in_float64(kind, formula):
    for schedule in random_schedules(kind):
        expected = [formula(schedule, step) for step in range(STEPS)]
        # Rates below the smallest float32 are 0 on every backend.
        expected = np.where(np.array(expected) < 1e-37, 0, expected)
        ours = np.where(values(schedule) < 1e-37, 0, values(schedule))
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-12)


def torch_rates(schedule, steps):
    torch = pytest.importorskip("torch", reason="torch computes the reference values")
    rates = torch.optim.lr_scheduler
    top = getattr(schedule, "max_learning_rate", None) or schedule.initial_learning_rate
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=top)
    if isinstance(schedule, StepDecay):
        theirs = rates.StepLR(optimizer, schedule.every, schedule.gamma)
    elif isinstance(schedule, CosineDecay):
        theirs = rates.CosineAnnealingLR(optimizer, schedule.duration, schedule.alpha * top)
    else:
        theirs = rates.OneCycleLR(
            optimizer,
            top,
            total_steps=schedule.duration,
            pct_start=schedule.pct_start,
            anneal_strategy=schedule.anneal.removesuffix("ine"),
            cycle_momentum=False,
            div_factor=schedule.div_factor,
            final_div_factor=schedule.final_div_factor,
            three_phase=schedule.three_phase,
        )
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            theirs.step()
    return np.array(found)


@pytest.mark.parametrize("kind", [StepDecay, CosineDecay, OneCycle])
def test_equal_to_torch(kind):
    for schedule in random_schedules(kind):
        steps = STEPS if kind is StepDecay else schedule.duration
        expected = torch_rates(schedule, steps)
        np.testing.assert_allclose(values(schedule, steps), expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", [CosineDecay(0.1, 50, alpha=0.1), OneCycle(0.1, 50)])
def test_the_last_rate_is_held(schedule):
    rates = values(schedule, 200)
    np.testing.assert_array_equal(rates[50:], rates[50])
    assert rates[50] == pytest.approx(0.01 if isinstance(schedule, CosineDecay) else 0.1 / 25 / 1e4)


def test_power_keeps_its_digits():
    exponents = np.arange(0, 4000, dtype="float32")
    for base in (0.999, 0.97, 0.5, 1.0):
        expected = np.array([math.pow(base, int(e)) for e in exponents])
        ours = keras.ops.convert_to_numpy(power(base, exponents))
        normal = expected > 1e-37
        np.testing.assert_allclose(ours[normal], expected[normal], rtol=1e-6)


def test_warmup_is_linear_and_part_of_the_duration():
    rates = values(CosineDecay(0.1, 100).with_warmup(20, start=0.02), 200)
    np.testing.assert_allclose(rates[:21], np.linspace(0.02, 0.1, 21), rtol=1e-6)
    expected = [0.05 * (1 + math.cos(math.pi * (s - 20) / 80)) for s in range(20, 100)]
    np.testing.assert_allclose(rates[20:100], expected, rtol=1e-6, atol=1e-12)
    assert rates[100] == 0


def test_warmup_leaves_the_drops_where_they_are():
    plain, warm = StepDecay(0.1, 30), StepDecay(0.1, 30).with_warmup(5)
    np.testing.assert_allclose(values(warm, 100)[5:], values(plain, 100)[5:], rtol=1e-6)
    np.testing.assert_allclose(values(warm, 100)[:5], np.linspace(0, 0.08, 5), rtol=1e-6)


@pytest.mark.parametrize(
    "schedule",
    [
        StepDecay(0.1, "2ep", gamma=0.5),
        CosineDecay(0.1, "8ep", alpha=0.1).with_warmup("1ep", 0.01),
        OneCycle(0.1, 0.8, pct_start=0.2, anneal="linear", three_phase=True),
    ],
)
def test_config_and_resolution(schedule):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == schedule.get_config()
    run = Run(epochs=10, steps_per_epoch=20)
    np.testing.assert_array_equal(
        values(again.resolve(run), 300), values(schedule.resolve(run), 300)
    )
    # Resolving leaves the schedule as it was, for the next run.
    assert again.get_config() == schedule.get_config()


def test_epochs_and_fractions_are_steps_of_the_run():
    run = Run(epochs=10, steps_per_epoch=20)
    expected = values(CosineDecay(0.1, 160).with_warmup(20), 300)
    for schedule in (CosineDecay(0.1, "8ep"), CosineDecay(0.1, 0.8)):
        ours = values(schedule.with_warmup("1ep").resolve(run), 300)
        np.testing.assert_array_equal(ours, expected)


def test_unresolved_durations_are_told():
    with pytest.raises(ValueError, match="callbacks.LearningRate.*duration='8ep'"):
        CosineDecay(0.1, "8ep")(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CosineDecay(-0.1, 10), "initial_learning_rate=-0.1"),
        (lambda: CosineDecay(0.0, 10), "initial_learning_rate=0.0"),
        (lambda: CosineDecay(float("nan"), 10), "initial_learning_rate=nan"),
        (lambda: CosineDecay("0,1", 10), "initial_learning_rate='0,1'"),
        (lambda: CosineDecay(0.1, 0), "duration=0"),
        (lambda: CosineDecay(0.1, "10 days"), "duration='10 days'"),
        (lambda: CosineDecay(0.1, 10, alpha=1.5), "alpha=1.5"),
        (lambda: CosineDecay(0.1, 10).with_warmup(10), "warmup=10, duration=10"),
        (lambda: CosineDecay(0.1, "5ep").with_warmup("6ep"), "warmup='6ep', duration='5ep'"),
        (lambda: CosineDecay(0.1, 10).with_warmup(5, start=-1), "warmup_start=-1"),
        (lambda: StepDecay(0.1, 10, gamma=1.5), "gamma=1.5"),
        (lambda: StepDecay(0.1, 10, gamma=0), "gamma=0"),
        (lambda: OneCycle(0.1, 1), "duration=1"),
        (lambda: OneCycle(0.1, 10, pct_start=1.0), "pct_start=1.0"),
        (lambda: OneCycle(0.1, 10, pct_start=0.5, three_phase=True), "three_phase=True"),
        (lambda: OneCycle(0.1, 10, anneal="cos"), "anneal='cos'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match="Received: .*" + message):
        make()


def test_a_warmup_that_turns_out_too_long_is_told():
    schedule = CosineDecay(0.1, 0.5).with_warmup("6ep")
    with pytest.raises(ValueError, match="shorter"):
        schedule.resolve(Run(epochs=10, steps_per_epoch=20))


def test_works_in_an_optimizer_without_the_callback(make_model, toy):
    model = make_model(keras.optimizers.SGD(StepDecay(0.1, 4, gamma=0.5)))
    model.fit(*toy, batch_size=16, epochs=2, verbose=0)
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.025)
