"""Random schedules, and what their rates must be: float64 formulas, and torch's schedulers."""

import itertools
import math

import keras
import numpy as np
import pytest

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
    Product,
    Sequence,
    StepDecay,
    WarmupStableDecay,
)

STEPS = 2000


def values(schedule, steps=STEPS):
    """All rates at once: a schedule is an elementwise function of the step."""
    # One shape for all, which JAX compiles once.
    rates = schedule(keras.ops.arange(max(steps, STEPS)))
    return keras.ops.convert_to_numpy(rates).astype("float64")[:steps]


def random_one_cycle(rng, rate):
    return OneCycle(
        rate,
        int(rng.integers(10, STEPS)),
        pct_start=rng.uniform(0.05, 0.45),
        anneal=str(rng.choice(["cosine", "linear"])),
        div_factor=rng.uniform(2, 50),
        final_div_factor=10 ** rng.uniform(1, 5),
        three_phase=bool(rng.integers(2)),
        cycle_momentum=True,
        base_momentum=rng.uniform(0.5, 0.85),
        max_momentum=rng.uniform(0.85, 0.99),
    )


def random_cyclic(rng, rate):
    up, down = (int(n) for n in rng.integers(1, 300, size=2))
    mode = str(rng.choice(["triangular", "triangular2", "exp_range"]))
    gamma = rng.uniform(0.99, 1) if mode == "exp_range" else 1.0
    low = rate * rng.choice([0, 0.01, 0.5])
    return Cyclic(low, rate, up + down, mode, gamma, pct_start=up / (up + down))


def random_milestones(rng, count):
    return sorted(int(n) for n in rng.choice(np.arange(1, STEPS), count, replace=False))


def random_warmup_stable_decay(rng, rate, shapes=("linear", "cosine", "1-sqrt")):
    warmup, stable, decay = (int(n) for n in rng.integers(1, 800, size=3))
    schedule = WarmupStableDecay(
        rate, warmup + stable + decay, warmup, decay, str(rng.choice(shapes)), rng.choice([0, 0.1])
    )
    return schedule.with_warmup(warmup, start=0.1 * rate)


def random_sequence(rng, rate):
    parts = [StepDecay(rate, int(rng.integers(1, 400)), rng.uniform(0.05, 0.99))]
    parts.append(CosineDecay(rate, STEPS, alpha=0.1))
    parts.append(ExponentialDecay(rate, int(rng.integers(50, 400)), rng.uniform(0.05, 0.99)))
    return Sequence([parts[i] for i in rng.permutation(3)], random_milestones(rng, 2))


# How a schedule is drawn with a rate.
RANDOM = {
    Constant: lambda rng, rate: Constant(rate),
    StepDecay: lambda rng, rate: StepDecay(
        rate, int(rng.integers(1, 400)), gamma=rng.uniform(0.05, 0.99)
    ),
    MultiStepDecay: lambda rng, rate: MultiStepDecay(
        rate, random_milestones(rng, int(rng.integers(1, 6))), rng.uniform(0.05, 0.99)
    ),
    ExponentialDecay: lambda rng, rate: ExponentialDecay(
        rate, int(rng.integers(1, 400)), rng.uniform(0.05, 0.99), staircase=bool(rng.integers(2))
    ),
    LinearDecay: lambda rng, rate: LinearDecay(
        rate, int(rng.integers(2, STEPS)), rate * rng.choice([0, 0.01, 0.5])
    ),
    PolynomialDecay: lambda rng, rate: PolynomialDecay(
        rate, int(rng.integers(2, STEPS)), rate * rng.choice([0, 0.01]), rng.uniform(0.5, 4)
    ),
    CosineDecay: lambda rng, rate: CosineDecay(
        rate, int(rng.integers(2, STEPS)), alpha=rng.choice([0, 0.01, 0.5])
    ),
    CosineRestarts: lambda rng, rate: CosineRestarts(
        rate,
        int(rng.integers(2, 400)),
        t_mul=rng.choice([1, 1.01, 1.5, 2, rng.uniform(1, 3)]),
        m_mul=rng.uniform(0.5, 1),
        alpha=rng.choice([0, 0.01, 0.5]),
    ),
    OneCycle: random_one_cycle,
    Cyclic: random_cyclic,
    WarmupStableDecay: random_warmup_stable_decay,
    InverseSqrt: lambda rng, rate: InverseSqrt(rate, int(rng.integers(1, STEPS))),
    Sequence: random_sequence,
    Product: lambda rng, rate: Product(
        RANDOM[CosineDecay](rng, rate), RANDOM[ExponentialDecay](rng, 1.0)
    ),
}

# The same, within what torch can do.
RANDOM_IN_TORCH = {kind: draw for kind, draw in RANDOM.items() if kind is not InverseSqrt} | {
    CosineRestarts: lambda rng, rate: CosineRestarts(
        rate, int(rng.integers(2, 400)), t_mul=rng.integers(1, 4), alpha=rng.choice([0, 0.1])
    ),
    WarmupStableDecay: lambda rng, rate: random_warmup_stable_decay(rng, rate, ["linear"]),
    Product: lambda rng, rate: Product(
        RANDOM[MultiStepDecay](rng, rate), RANDOM[ExponentialDecay](rng, 1.0)
    ),
}


def random_schedules(kind, draws=RANDOM, count=20):
    rng = np.random.default_rng(7)
    for _ in range(count):
        yield draws[kind](rng, 10 ** rng.uniform(-4, 0))


def between(start, target, share, form="linear"):
    share = min(max(share, 0), 1)
    done = {
        "linear": share,
        "cosine": (1 - math.cos(math.pi * share)) / 2,
        "1-sqrt": math.sqrt(share),
    }[form]
    return start + (target - start) * done


def share(schedule, step):
    """How much of a schedule is done, its warm-up aside."""
    return min((step - schedule.warmup) / (schedule.duration - schedule.warmup), 1)


def cosine_restarts(s, step):
    cycle, begin, length = 0, 0, s.every
    while step >= round(begin + length):
        cycle, begin, length = cycle + 1, begin + length, length * s.t_mul
    begin, end = max(round(begin), s.warmup), round(begin + length)
    floor = s.alpha * s.initial_learning_rate
    top = floor + (s.initial_learning_rate - floor) * s.m_mul**cycle
    return between(top, floor, (step - begin) / (end - begin), "cosine")


def one_cycle(s, step):
    first = s.max_learning_rate / s.div_factor
    top, end = s.pct_start * s.duration - 1, s.duration - 1
    points = [(0, first), (top, s.max_learning_rate), (end, first / s.final_div_factor)]
    if s.three_phase:
        points.insert(2, (2 * top, first))
    for (begin, start), (end, target) in itertools.pairwise(points):
        if step <= end:
            return between(start, target, (step - begin) / (end - begin), s.anneal)
    return target


def cyclic(s, step):
    cycle, since = divmod(step, s.every)
    top = round(s.pct_start * s.every)
    height = since / top if since < top else (s.every - since) / (s.every - top)
    height *= {"triangular": 1, "triangular2": 0.5**cycle, "exp_range": s.gamma**step}[s.mode]
    return s.initial_learning_rate + (s.max_learning_rate - s.initial_learning_rate) * height


def warmup_stable_decay(s, step):
    decayed = (step - (s.duration - s.decay)) / s.decay
    top = s.initial_learning_rate
    return between(top, s.alpha * top, decayed, s.anneal)


def sequence(s, step):
    part = sum(step >= at for at in s.milestones)
    return reference(s.schedules[part], step - [0, *s.milestones][part])


# The rate of each schedule at a step behind its warm-up.
FORMULAS = {
    Constant: lambda s, step: s.learning_rate,
    StepDecay: lambda s, step: s.initial_learning_rate * s.gamma ** (step // s.every),
    MultiStepDecay: lambda s, step: (
        s.initial_learning_rate * s.gamma ** sum(step >= at for at in s.milestones)
    ),
    ExponentialDecay: lambda s, step: (
        s.initial_learning_rate * s.gamma ** (step // s.every if s.staircase else step / s.every)
    ),
    LinearDecay: lambda s, step: between(
        s.initial_learning_rate, s.end_learning_rate, share(s, step)
    ),
    PolynomialDecay: lambda s, step: (
        s.end_learning_rate
        + (s.initial_learning_rate - s.end_learning_rate) * (1 - share(s, step)) ** s.power
    ),
    CosineDecay: lambda s, step: between(
        s.initial_learning_rate, s.alpha * s.initial_learning_rate, share(s, step), "cosine"
    ),
    CosineRestarts: cosine_restarts,
    OneCycle: one_cycle,
    Cyclic: cyclic,
    WarmupStableDecay: warmup_stable_decay,
    InverseSqrt: lambda s, step: s.initial_learning_rate / math.sqrt(max(step / s.begin_step, 1)),
    Sequence: sequence,
    Product: lambda s, step: reference(s.a, step) * reference(s.b, step),
}


def reference(schedule, step):
    """The rate at a step in float64."""
    formula = FORMULAS[type(schedule)]
    if step >= schedule.warmup:
        return formula(schedule, step)
    peak = formula(schedule, schedule.warmup)
    return between(schedule.warmup_start, peak, step / schedule.warmup)


def torch_scheduler(s, optimizer):
    """torch's counterpart of a schedule."""
    import torch.optim.lr_scheduler as rates

    top = optimizer.defaults["lr"]
    match s:
        case Constant():
            return rates.ConstantLR(optimizer, factor=1.0)
        case StepDecay():
            return rates.StepLR(optimizer, s.every, s.gamma)
        case MultiStepDecay():
            return rates.MultiStepLR(optimizer, s.milestones, s.gamma)
        case ExponentialDecay(staircase=True):
            return rates.StepLR(optimizer, s.every, s.gamma)
        case ExponentialDecay():
            return rates.ExponentialLR(optimizer, s.gamma ** (1 / s.every))
        case LinearDecay():
            return rates.LinearLR(optimizer, 1.0, s.end_learning_rate / top, s.duration)
        case PolynomialDecay():
            return rates.PolynomialLR(optimizer, s.duration, s.power)
        case CosineDecay():
            return rates.CosineAnnealingLR(optimizer, s.duration, s.alpha * top)
        case CosineRestarts():
            return rates.CosineAnnealingWarmRestarts(
                optimizer, s.every, int(s.t_mul), s.alpha * top
            )
        case OneCycle():
            return rates.OneCycleLR(
                optimizer,
                top,
                total_steps=s.duration,
                pct_start=s.pct_start,
                anneal_strategy=s.anneal.removesuffix("ine"),
                cycle_momentum=s.cycle_momentum,
                base_momentum=s.base_momentum,
                max_momentum=s.max_momentum,
                div_factor=s.div_factor,
                final_div_factor=s.final_div_factor,
                three_phase=s.three_phase,
            )
        case Cyclic():
            up = round(s.pct_start * s.every)
            low, mode = s.initial_learning_rate, s.mode
            return rates.CyclicLR(
                optimizer, low, top, up, s.every - up, mode, s.gamma, cycle_momentum=False
            )
        case WarmupStableDecay():
            start, hold = s.warmup_start / top, s.duration - s.decay
            parts = [
                rates.LinearLR(optimizer, start, 1.0, s.warmup),
                rates.LinearLR(optimizer, 1.0, s.alpha, s.decay),
            ]
            return rates.SequentialLR(optimizer, parts, [hold])
        case Sequence():
            parts = [torch_scheduler(part, optimizer) for part in s.schedules]
            return rates.SequentialLR(optimizer, parts, s.milestones)
        case Product():
            return rates.ChainedScheduler([torch_scheduler(f, optimizer) for f in (s.a, s.b)])
    raise NotImplementedError(s)


def highest(schedule):
    """The rate that torch's optimizer is made with."""
    inner = {Sequence: lambda s: s.schedules[0], Product: lambda s: s.a}.get(type(schedule))
    if inner:
        return highest(inner(schedule))
    names = ("max_learning_rate", "initial_learning_rate", "learning_rate")
    return next(getattr(schedule, name) for name in names if hasattr(schedule, name))


def torch_values(schedule, steps, name="lr"):
    """What torch's counterpart gives, step by step: the rate, or `"momentum"`."""
    torch = pytest.importorskip("torch", reason="torch computes the reference values")
    # torch's polynomial ends at 0; the last rate is added to it.
    last = schedule.end_learning_rate if isinstance(schedule, PolynomialDecay) else 0.0
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=highest(schedule) - last, momentum=0.9)
    theirs = torch_scheduler(schedule, optimizer)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0][name] + (last if name == "lr" else 0))
        optimizer.step()
        if step + 1 < steps:
            theirs.step()
    return np.array(found)
