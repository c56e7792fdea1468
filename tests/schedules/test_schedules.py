"""Every schedule against float64 formulas, and against torch's where torch is installed."""

import json
import math

import keras
import numpy as np
import pytest
from schedule_references import (
    RANDOM,
    RANDOM_IN_TORCH,
    STEPS,
    random_schedules,
    reference,
    torch_values,
    values,
)

from keras_optkit.core.duration import Run
from keras_optkit.schedules import (
    Constant,
    CosineDecay,
    CosineRestarts,
    Cyclic,
    ExponentialDecay,
    InverseSqrt,
    LinearDecay,
    MultiStepDecay,
    OneCycle,
    PolynomialDecay,
    StepDecay,
    WarmupStableDecay,
)


def name(kind):
    return kind.__name__


def compiled(schedule):
    """A schedule as a step that XLA compiles sees it."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(schedule)
    import tensorflow as tf

    return tf.function(schedule, jit_compile=True)


def assert_equal_to_the_formula(schedule, function=None):
    expected = np.array([reference(schedule, step) for step in range(STEPS)])
    ours = values(function or schedule)
    # Rates below the smallest float32 are 0 on every backend.
    expected, ours = (np.where(rates < 1e-37, 0, rates) for rates in (expected, ours))
    np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-15, err_msg=repr(schedule))


@pytest.mark.parametrize("kind", RANDOM, ids=name)
def test_equal_to_the_formula_in_float64(kind):
    for schedule in random_schedules(kind):
        assert_equal_to_the_formula(schedule)


@pytest.mark.parametrize("kind", [kind for kind in RANDOM if kind is not OneCycle], ids=name)
def test_equal_to_the_formula_behind_a_warmup(kind):
    for schedule in random_schedules(kind, count=5):
        longest = getattr(schedule, "duration", None) or getattr(schedule, "every", None) or 100
        warm = schedule.with_warmup(max(longest // 3, 1), start=1e-4)
        assert_equal_to_the_formula(warm)


@pytest.mark.backends("tensorflow", "jax")
@pytest.mark.parametrize("kind", RANDOM, ids=name)
def test_equal_to_the_formula_where_it_is_compiled(kind):
    for schedule in random_schedules(kind, count=8):
        assert_equal_to_the_formula(schedule, compiled(schedule))


@pytest.mark.parametrize("kind", RANDOM_IN_TORCH, ids=name)
def test_equal_to_torch(kind):
    for schedule in random_schedules(kind, RANDOM_IN_TORCH):
        # Behind their ends, torch's raises, rises again, or is what ours is.
        steps = schedule.duration if kind in (CosineDecay, OneCycle) else STEPS
        expected = torch_values(schedule, steps)
        ours = values(schedule, steps)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-12, err_msg=repr(schedule))


def test_the_momentum_of_one_cycle_equals_torch():
    for schedule in random_schedules(OneCycle, RANDOM_IN_TORCH):
        expected = torch_values(schedule, schedule.duration, "momentum")
        ours = schedule.momentum(np.arange(schedule.duration))
        ours = keras.ops.convert_to_numpy(ours)
        np.testing.assert_allclose(ours, expected, rtol=1e-6, err_msg=repr(schedule))


@pytest.mark.parametrize("schedule", [CosineDecay(0.1, 50, alpha=0.1), OneCycle(0.1, 50)])
def test_the_last_rate_is_held(schedule):
    rates = values(schedule, 200)
    np.testing.assert_array_equal(rates[50:], rates[50])
    assert rates[50] == pytest.approx(0.01 if isinstance(schedule, CosineDecay) else 0.1 / 25 / 1e4)


def test_it_goes_on_far_behind_the_first_steps():
    step = 3_000_001
    for schedule in (
        CosineRestarts(0.1, 7, t_mul=1.001),
        CosineRestarts(0.1, 7, t_mul=1, m_mul=0.9999),
        Cyclic(0.01, 0.1, 7, pct_start=3 / 7),
        ExponentialDecay(0.1, 100_000, 0.5),
        InverseSqrt(0.1, 100),
    ):
        rate = float(keras.ops.convert_to_numpy(schedule(step)))
        assert rate == pytest.approx(reference(schedule, step), rel=1e-6), schedule


def test_the_schedule_of_the_transformer():
    size, warmup = 512, 400
    rates = values(InverseSqrt((size * warmup) ** -0.5, warmup).with_warmup(warmup))
    steps = np.arange(1, STEPS)
    expected = size**-0.5 * np.minimum(steps**-0.5, steps * warmup**-1.5)
    np.testing.assert_allclose(rates[1:], expected, rtol=1e-6)


def test_parts_that_just_fill_the_whole_may_be_rounded():
    schedule = WarmupStableDecay(0.1, 1.0, 0.5, 0.5, "linear").resolve(Run(1, 7))
    np.testing.assert_allclose(values(schedule, 8)[:5], np.linspace(0, 0.1, 5), rtol=1e-6)
    np.testing.assert_allclose(values(schedule, 8)[4:], np.linspace(0.1, 0, 4), rtol=1e-6)


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
        Constant(0.1).with_warmup("1ep"),
        LinearDecay(0.1, 0.5, 0.01),
        MultiStepDecay(0.1, ["2ep", 0.5, 150], gamma=0.5),
        ExponentialDecay(0.1, "1ep", 0.5, staircase=True),
        PolynomialDecay(0.1, "8ep", 0.01, power=2.0),
        CosineRestarts(0.1, "2ep", t_mul=1.5, m_mul=0.5, alpha=0.1).with_warmup(5),
        Cyclic(0.01, 0.1, 0.2, "exp_range", gamma=0.99, pct_start=0.2),
        WarmupStableDecay(0.1, "8ep", "1ep", 0.1, "cosine", alpha=0.1),
        WarmupStableDecay(0.1, 0.005, 0, 0.005),
        WarmupStableDecay(0.1).with_warmup("2ep", start=0.05),
        InverseSqrt(0.1, "1ep").with_warmup("1ep", 0.01),
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
        (lambda: Constant(-1), "learning_rate=-1"),
        (lambda: Constant(0.1).with_warmup("1 day"), "warmup='1 day'"),
        (lambda: LinearDecay(0.1, 0), "duration=0"),
        (lambda: LinearDecay(0.1, 10, 0.2), "end_learning_rate=0.2, initial_learning_rate=0.1"),
        (lambda: LinearDecay(0.1, 10, -0.2), "end_learning_rate=-0.2"),
        (lambda: LinearDecay(0.1, 10).with_warmup(10), "warmup=10, duration=10"),
        (lambda: PolynomialDecay(0.1, 10, power=0), "power=0"),
        (lambda: PolynomialDecay(0.1, 10, 0.2), "end_learning_rate=0.2"),
        (lambda: MultiStepDecay(0.1, 30), "milestones=30"),
        (lambda: MultiStepDecay(0.1, "30ep"), "milestones='30ep'"),
        (lambda: MultiStepDecay(0.1, []), "milestones=.]"),
        (lambda: MultiStepDecay(0.1, [0, 10]), "milestones=.0, 10]"),
        (lambda: MultiStepDecay(0.1, [20, 10]), "milestones=.20, 10]"),
        (lambda: MultiStepDecay(0.1, ["1ep", "1ep"]), "milestones=.'1ep', '1ep']"),
        (lambda: MultiStepDecay(0.1, [10, -20]), "milestones=-20"),
        (lambda: MultiStepDecay(0.1, [10], gamma=2), "gamma=2"),
        (lambda: ExponentialDecay(0.1, 0, 0.5), "every=0"),
        (lambda: ExponentialDecay(0.1, 10, 1.5), "gamma=1.5"),
        (lambda: CosineRestarts(0.1, 10, t_mul=0.5), "t_mul=0.5"),
        (lambda: CosineRestarts(0.1, 10, m_mul=1.5), "m_mul=1.5"),
        (lambda: CosineRestarts(0.1, 10, alpha=-1), "alpha=-1"),
        (lambda: CosineRestarts(0.1, 10).with_warmup(10), "warmup=10, every=10"),
        (lambda: Cyclic(0.1, 0.1, 10), "initial_learning_rate=0.1, max_learning_rate=0.1"),
        (lambda: Cyclic(-0.1, 0.1, 10), "initial_learning_rate=-0.1"),
        (lambda: Cyclic(0.01, 0.1, 1), "every=1"),
        (lambda: Cyclic(0.01, 0.1, 10, "square"), "mode='square'"),
        (lambda: Cyclic(0.01, 0.1, 10, gamma=0.9), "gamma=0.9, mode='triangular'"),
        (lambda: Cyclic(0.01, 0.1, 10, pct_start=1), "pct_start=1"),
        (lambda: WarmupStableDecay(0.1, 10, 0, 0), "decay=0"),
        (lambda: WarmupStableDecay(0.1, 10, 10, 1), "warmup=10, duration=10"),
        (lambda: WarmupStableDecay(0.1, 10, 5, 7), "warmup=5, decay=7, duration=10"),
        (lambda: WarmupStableDecay(0.1, decay=1.0), "warmup=0.01, decay=1.0, duration=1.0"),
        (lambda: WarmupStableDecay(0.1, anneal="sqrt"), "anneal='sqrt'"),
        (lambda: InverseSqrt(0.1, 0), "begin_step=0"),
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


def test_milestones_that_turn_out_not_to_increase_are_told():
    with pytest.raises(ValueError, match="must increase.*100, 40"):
        MultiStepDecay(0.1, [0.5, "2ep"]).resolve(Run(epochs=10, steps_per_epoch=20))


def test_works_in_an_optimizer_without_the_callback(make_model, toy):
    model = make_model(keras.optimizers.SGD(StepDecay(0.1, 4, gamma=0.5)))
    model.fit(*toy, batch_size=16, epochs=2, verbose=0)
    assert float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)) == pytest.approx(0.025)
