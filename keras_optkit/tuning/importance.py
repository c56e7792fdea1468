"""How much of what trials came to is due to each parameter."""

from collections.abc import Callable

import numpy as np

_TREES, _SAMPLES = 64, 1024
# With fewer trials than this, a forest has nothing to split.
ENOUGH = 6


def variance_shares(
    points: np.ndarray,
    scores: np.ndarray,
    snap: Callable[[np.ndarray], np.ndarray] = lambda points: points,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the share of the variance of a score that each coordinate takes part in.

    A random forest learns the score from the points. What each tree says all over the space, and
    not only where the search has been, is split up by Jansen's estimate of the total effect: how
    much of the variance is left when everything but this coordinate is held. A share counts what a
    coordinate does alone and what it does together with others, so that they may add up to more
    than 1.

    Args:
        points: Float array `(trials, parameters)` in [0, 1].
        scores: Float array `(trials,)`, finite.
        snap: A function from points to the nearest that trials may have: a coordinate that plays no
            part next to the others is put where those of the trials are.
        seed: Integer, for the forest and the points that it is asked at.

    Returns:
        Two arrays `(parameters,)`, the mean over the trees and the standard deviation; or `None`
        where there are fewer than `ENOUGH` trials, or all came to the same.

    Reference:
        Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter
        Importance", 2014. Jansen, "Analysis of variance designs for model output", 1999.
    """
    from scipy.stats import qmc
    from sklearn.ensemble import RandomForestRegressor

    points, scores = np.asarray(points, float), np.asarray(scores, float)
    if len(scores) < ENOUGH or points.shape[1] == 0 or np.ptp(scores) == 0:
        return None
    forest = RandomForestRegressor(_TREES, random_state=seed).fit(points, scores)
    count = points.shape[1]
    a, b = np.hsplit(qmc.Sobol(2 * count, seed=seed).random(_SAMPLES), 2)
    asked = [a]
    for i in range(count):
        asked.append(a.copy())
        asked[-1][:, i] = b[:, i]
    asked.append(b)
    snapped = snap(np.vstack(asked))
    shares = []
    for tree in forest.estimators_:
        told = tree.predict(snapped).reshape(count + 2, _SAMPLES)
        variance = np.var(told[[0, -1]])
        if variance > 0:
            shares.append(((told[1:-1] - told[0]) ** 2).mean(axis=1) / (2 * variance))
    if not shares:
        return None
    return np.mean(shares, axis=0), np.std(shares, axis=0)
