import numpy as np
import pytest

from keras_optkit.tuning.importance import ENOUGH, variance_shares

RNG = np.random.default_rng(0)


def test_a_sum_has_the_shares_of_its_parts():
    points = RNG.random((300, 3))
    # Var(a * u) = a ** 2 / 12: 9 and 1 of 10 parts, and none.
    shares, spread = variance_shares(points, 3 * points[:, 0] + points[:, 1])
    np.testing.assert_allclose(shares, [0.9, 0.1, 0.0], atol=0.05)
    assert spread.shape == (3,) and (spread >= 0).all()


def test_what_acts_together_counts_for_both():
    points = RNG.random((600, 3))
    # Of (u - 0.5) * (v - 0.5) all the variance is an interaction: a total effect of 1 each.
    shares, _ = variance_shares(points, (points[:, 0] - 0.5) * (points[:, 1] - 0.5))
    assert shares[0] > 0.7 and shares[1] > 0.7 and shares[2] < 0.3


def test_it_is_the_space_that_counts_and_not_where_the_search_has_been():
    # All but a few trials have the first coordinate where it is best.
    points = RNG.random((300, 2))
    points[30:, 0] = 0.5
    scores = -10 * np.abs(points[:, 0] - 0.5) + points[:, 1]
    visited = np.var(-10 * np.abs(points[:, 0] - 0.5)) / np.var(scores)
    shares, _ = variance_shares(points, scores)
    assert shares[0] > 0.9 > visited + 0.02


def test_a_parameter_that_plays_a_part_half_of_the_time():
    def snap(points):
        points = points.copy()
        points[points[:, 0] < 0.5, 1] = 0.5
        return points

    points = snap(RNG.random((400, 2)))
    scores = np.where(points[:, 0] < 0.5, 0.5, 4 * points[:, 1])
    # The variance of g: E over the upper half of (4v - mean)**2 and of (0.5 - mean)**2.
    with_snap, _ = variance_shares(points, scores, snap)
    draws = RNG.random((3, 200_000))

    def g(u, v):
        return np.where(u < 0.5, 0.5, 4 * v)

    whole = np.var(g(draws[0], draws[1]))
    expected = [
        np.mean((g(draws[0], draws[1]) - g(draws[2], draws[1])) ** 2) / (2 * whole),
        np.mean((g(draws[0], draws[1]) - g(draws[0], draws[2])) ** 2) / (2 * whole),
    ]
    np.testing.assert_allclose(with_snap, expected, atol=0.08)


@pytest.mark.parametrize(
    ("count", "scores"), [(ENOUGH - 1, None), (20, np.full(20, 0.5))], ids=["few", "equal"]
)
def test_nothing_can_be_told(count, scores):
    points = RNG.random((count, 2))
    assert variance_shares(points, points[:, 0] if scores is None else scores) is None
