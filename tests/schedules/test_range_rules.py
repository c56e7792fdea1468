import numpy as np
import pytest

from keras_optkit.schedules.range_rules import (
    MovingAverage,
    diverged,
    minimum,
    slide,
    steepest,
    suggest,
    sweep,
    valley,
)

RATES = np.geomspace(1e-7, 10, 100)


def curve(seed=0, noise=0.0):
    """A loss that is flat, falls around 1e-3, is lowest near 0.1, and explodes."""
    rng = np.random.default_rng(seed)
    x = np.log10(RATES)
    return 2.3 - 1.5 / (1 + np.exp(-3 * (x + 3))) + np.exp(4 * x) + noise * rng.normal(size=100)


def test_sweep():
    rates = sweep(1e-7, 10, 100)
    np.testing.assert_allclose(rates, 1e-7 * (10 / 1e-7) ** (np.arange(100) / 99), rtol=1e-12)
    np.testing.assert_allclose(sweep(0, 1, 5, "linear"), [0, 0.25, 0.5, 0.75, 1])


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.98])
def test_moving_average(beta):
    losses = np.random.default_rng(0).normal(size=50)
    average = MovingAverage(beta)
    for i, smoothed in enumerate([average.add(loss) for loss in losses]):
        weights = beta ** np.arange(i, -1, -1.0)
        np.testing.assert_allclose(smoothed, np.average(losses[: i + 1], weights=weights))


def test_a_moving_average_stays_nan():
    average = MovingAverage(0.5)
    assert np.isnan([average.add(loss) for loss in (np.nan, 1.0, 1.0)]).all()


def test_diverged():
    assert diverged(2.01, 2.3, 0.5, 4) and not diverged(2.0, 2.3, 0.5, 4)
    # Below zero a factor means nothing: -1 is worse than -2, and four times -2 is better.
    assert not diverged(-1.9, 0.0, -2.0, 4) and diverged(4.1, 0.0, -2.0, 4)
    assert not diverged(1e-3, 3.0, 0.0, 4) and diverged(9.1, 3.0, 0.0, 4)


def slow_steepest(rates, losses):
    best, at = np.inf, None
    for i in range(int(np.argmin(losses))):
        slope = (losses[i + 1] - losses[i]) / (np.log(rates[i + 1]) - np.log(rates[i]))
        if slope < best:
            best, at = slope, rates[i]
    return at


def slow_slide(rates, losses):
    """The window starts at the right end, and goes left until both slopes agree."""
    scaled = losses / (losses[0] - losses.min())
    slopes = [scaled[1] - scaled[0]]
    slopes += [(scaled[i + 1] - scaled[i - 1]) / 2 for i in range(1, len(scaled) - 1)]
    slopes += [scaled[-1] - scaled[-2]]
    left, right = len(rates) - 16, len(rates) - 1
    found = left
    while abs(slopes[right] - slopes[left]) > 0.005:
        found, left, right = left, left - 1, right - 1
        if left < 0:
            return None
    return rates[found]


def slow_valley(rates, losses):
    """The longest falling subsequence by patience sorting, in place of dynamic programming."""
    piles, lengths = [], []
    for loss in losses:
        # Piles keep the highest possible last loss of a run of each length.
        at = next((i for i, last in enumerate(piles) if last <= loss), len(piles))
        piles[at : at + 1] = [loss]
        lengths.append(at + 1)
    longest = max(lengths)
    begin = lengths.index(longest) - longest
    return rates[begin + int(longest / 3) + int(longest / 6)]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_the_rules_are_those_of_slow_references(seed, noise):
    losses = curve(seed, noise)
    assert steepest(RATES, losses) == slow_steepest(RATES, losses)
    assert valley(RATES, losses) == slow_valley(RATES, losses)
    assert slide(RATES, losses) == slow_slide(RATES, losses)
    assert minimum(RATES, losses) == RATES[losses.argmin()] / 10


def test_a_curve_by_hand():
    rates = 10.0 ** np.arange(-10, 2)
    losses = np.array([9, 9, 9, 8, 6, 3, 2, 1.5, 1.4, 1.3, 5, 9.0])
    assert steepest(rates, losses) == rates[4]
    assert minimum(rates, losses) == pytest.approx(rates[8])
    # 9 8 6 3 2 1.5 1.4 1.3: eight that end at 9, counted from 1; 1 + 2 + 1.
    assert valley(rates, losses) == rates[4]
    # Shorter than the window of the slide.
    assert slide(rates, losses) is None


def test_a_jump_behind_the_lowest_loss_is_not_steepest():
    losses = curve()
    losses[-2:] = [1000.0, 3.0]
    assert steepest(RATES, losses) < RATES[losses.argmin()]


def test_suggestions_do_not_depend_on_the_unit_of_the_loss():
    found, _ = suggest(RATES, curve())
    scaled, _ = suggest(RATES, 1024 * curve() - 4096)
    assert found == scaled
    assert all(rate is not None for rate in found.values())
    assert found["minimum"] < 0.1 and 1e-4 < found["valley"] < 1e-2


def test_what_is_not_finite_is_never_suggested():
    losses = curve()
    losses[70:] = np.nan
    found, _ = suggest(RATES, losses)
    assert found == suggest(RATES[:70], losses[:70])[0]
    found, reasons = suggest(RATES, np.full(100, np.nan))
    assert set(found.values()) == {None} and "0 finite losses" in reasons["valley"]


def test_no_suggestion_without_a_fall_or_points():
    found, reasons = suggest(RATES, 1 + RATES)
    assert set(found.values()) == {None} and "never falls" in reasons["steepest"]
    found, reasons = suggest(RATES[:9], curve()[:9])
    assert set(found.values()) == {None} and "9 finite losses, and 10" in reasons["slide"]
    found, reasons = suggest(RATES[60:72], curve()[60:72] - np.arange(12) ** 2)
    assert found["slide"] is None and set(reasons) == {"slide"}


def test_the_start_of_the_average_is_left_out():
    losses = curve()
    losses[1:5] -= 1
    assert suggest(RATES, losses)[0] == suggest(RATES, curve())[0]


def test_a_rate_behind_the_lowest_loss_is_not_suggested():
    # It settles anew, at rates that are far too high.
    losses = np.concatenate([np.linspace(2.3, 1.6, 40), np.full(10, 1.6), np.full(50, 2.1)])
    losses[:10] = 2.3
    assert slide(RATES, losses) > RATES[losses.argmin()]
    found, reasons = suggest(RATES, losses)
    assert found["slide"] is None and "lowest loss" in reasons["slide"]
    assert {"steepest", "valley", "minimum"} == {n for n, rate in found.items() if rate}
