"""Where to look next: the point of a search space that promises most, given all that is known."""

from collections.abc import Callable

import numpy as np
from scipy import optimize

from keras_optkit.tuning.acquisition import log_expected_improvement
from keras_optkit.tuning.gaussian_process import GaussianProcess, condition, fit
from keras_optkit.tuning.unit_space import UnitSpace

# Points drawn all over the space and around the best ones, and climbs from the best of these.
_GLOBAL, _LOCAL, _STARTS = 1000, 500, 6
_NEIGHBOURS = 60
# The logarithm of an expected improvement, in standard deviations, that is not worth a trial.
_LITTLE = np.log(1e-4)


def suggest(
    space: UnitSpace,
    points: np.ndarray,
    outputs: np.ndarray,
    pending: np.ndarray,
    rng: np.random.Generator,
    is_new: Callable[[np.ndarray], bool] = lambda point: True,
    noise: float | None = None,
    beta: float | None = None,
    start: np.ndarray | None = None,
    progress: np.ndarray | None = None,
) -> tuple[np.ndarray | None, np.ndarray]:
    """Returns a point to try next.

    A Gaussian process is fitted to the warped outputs, and the logarithm of the expected
    improvement is climbed from several points. What still runs counts as if it had given what
    the process expects of it, so that no two workers look at one place.

    Args:
        space: The search space.
        points: Array of shape `(n, dimension)`, what was tried.
        outputs: Array of shape `(n,)`, what came of it; the lower the better.
        pending: Array of shape `(m, dimension)`, what is being tried.
        rng: The source of randomness.
        is_new: Tells of a point whether it may be returned.
        noise: Float, the variance of the noise relative to that of the outputs, or `None` to
            estimate it.
        beta: Float, the weight of the deviation in a lower confidence bound that then takes the
            place of the expected improvement, or `None`.
        start: The second result of an earlier call, from which the fit begins.
        progress: Array of shape `(n,)` in (0, 1], how far each output is from the beginning of a
            training to its end, or `None` where all are from the end. The process then learns how
            outputs change on the way, and what is sought is the best at the end.

    Returns:
        The point, or `None` if none is new, and what the process was fitted to.
    """
    y = warp(outputs)
    columns = _Columns(space, progress is not None)
    groups = columns.groups
    process = fit(columns(points, progress), y, groups, noise, start)
    theta = process.theta
    at_end = process.x if progress is None else process.x[progress == progress.max()]
    best = float(process.predict(at_end)[0].min())
    if len(pending):
        x = np.vstack([process.x, columns(pending)])
        expected = process.predict(columns(pending))[0]
        process = condition(x, np.r_[y, expected], groups, theta)
    pool = space.snap(_pool(points[np.argsort(outputs)[:5]], space.dimension, rng))
    ranked, promise = _rank(_Score(space, columns, process, best, beta), pool, rng)
    if beta is None and promise < _LITTLE:
        # All that the process believes in has been seen. With half the length scales it believes
        # less, and the search leaves the optimum that it is in.
        less = np.r_[theta[:-2] - np.log(2), theta[-2:]]
        process = condition(process.x, process.predict(process.x)[0], groups, less)
        ranked, _ = _rank(_Score(space, columns, process, best, beta), pool, rng)
    return next((point for point in ranked if is_new(point)), None), theta


def _rank(score: "_Score", pool: np.ndarray, rng: np.random.Generator) -> tuple[list, float]:
    """Returns points in the order of their promise, and the promise of the first."""
    order = np.argsort(-score(pool))
    # The best of the draws around the best points are often one place: some are from all over.
    wide = order[order < _GLOBAL]
    starts = dict.fromkeys([*order[: _STARTS // 2], *wide[: _STARTS // 2]])
    found = sorted((score.climb(pool[i], rng) for i in starts), key=lambda item: -item[1])
    return [point for point, _ in found] + [pool[i] for i in order], found[0][1]


def warp(outputs: np.ndarray) -> np.ndarray:
    """Returns outputs with a mean of 0, a variance of 1 and tails like those of a normal one.

    Losses often have a long upper tail, beside which the differences between good points vanish.
    The power of Yeo and Johnson (2000) that is most likely is taken.

    Args:
        outputs: Array of shape `(n,)`.
    """
    y = np.asarray(outputs, dtype=float)
    low, middle, high = np.quantile(y, [0.25, 0.5, 0.75])
    y = (y - middle) / ((high - low) or y.std() or 1.0)
    powers = np.linspace(-1.0, 2.0, 31)
    powers = powers[(powers != 0) & (np.abs(powers - 2) > 1e-9)]
    best, chosen = -np.inf, y
    lean = np.sum(np.sign(y) * np.log1p(np.abs(y)))
    for power in powers:
        up = ((np.maximum(y, 0) + 1) ** power - 1) / power
        down = -((np.maximum(-y, 0) + 1) ** (2 - power) - 1) / (2 - power)
        bent = np.where(y >= 0, up, down)
        likelihood = -0.5 * len(y) * np.log(bent.var() + 1e-12) + (power - 1) * lean
        if likelihood > best:
            best, chosen = likelihood, bent
    return (chosen - chosen.mean()) / (chosen.std() or 1.0)


class _Columns:
    """The columns that the process sees: those of the space, and the progress where it varies."""

    def __init__(self, space: UnitSpace, with_progress: bool):
        self.space, self.with_progress = space, with_progress
        more = [space.dimension] if with_progress else []
        self.groups = np.r_[space.groups, more].astype(int)

    def __call__(self, points: np.ndarray, progress: np.ndarray | None = None) -> np.ndarray:
        features = self.space.features(points)
        if not self.with_progress:
            return features
        return np.c_[features, np.ones(len(points)) if progress is None else progress]


class _Score:
    """The acquisition function over the unit cube."""

    def __init__(
        self,
        space: UnitSpace,
        columns: _Columns,
        process: GaussianProcess,
        best: float,
        beta: float | None,
    ):
        self.space, self.columns, self.process = space, columns, process
        self.best, self.beta = best, beta
        self._slopes = space.slopes()

    def __call__(self, points: np.ndarray) -> np.ndarray:
        mean, deviation = self.process.predict(self.columns(points))
        return self._value(mean, deviation)[0]

    def climb(self, point: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """Returns a point that no step along a smooth coordinate or to a neighbour betters."""
        value = -np.inf
        for _ in range(3):
            point, value = self._ascend(point)
            others = self.space.neighbours(point, rng, _NEIGHBOURS)
            if not len(others):
                break
            scores = self(others)
            if scores.max() <= value:
                break
            point = others[scores.argmax()]
        return point, value

    def _ascend(self, point: np.ndarray) -> tuple[np.ndarray, float]:
        before = float(self(point[None])[0])
        free = np.flatnonzero(self.space.smooth & self.space.active(point[None])[0])
        if not len(free):
            return point, before
        columns = np.searchsorted(self.space.groups, free)

        def negative(smooth):
            moved = point.copy()
            moved[free] = smooth
            features = self.columns(moved[None])[0]
            mean, deviation, dmean, ddeviation = self.process.gradients(features)
            value, by_mean, by_deviation = self._value(mean, deviation)
            slope = by_mean * dmean + by_deviation * ddeviation
            return -float(value), -slope[columns] * self._slopes[free]

        result = optimize.minimize(
            negative,
            point[free],
            jac=True,
            bounds=[(0, 1)] * len(free),
            method="L-BFGS-B",
            options={"maxiter": 30},
        )
        moved = point.copy()
        moved[free] = result.x
        moved = self.space.snap(moved[None])[0]
        after = float(self(moved[None])[0])
        return (moved, after) if after > before else (point, before)

    def _value(self, mean, deviation):
        if self.beta is not None:
            return self.beta * deviation - mean, -np.ones_like(mean), self.beta
        return log_expected_improvement(mean, deviation, self.best)


def _pool(best: np.ndarray, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Returns points all over the unit cube, then points around the best ones."""
    wide = rng.random((_GLOBAL, dimension))
    near = best[rng.integers(len(best), size=_LOCAL)]
    # Some coordinates of each are moved, by steps of several sizes.
    moved = rng.random(near.shape) < max(0.3, 2 / dimension)
    size = rng.choice([0.2, 0.05, 0.01], size=(_LOCAL, 1))
    near = np.where(moved, near + size * rng.standard_normal(near.shape), near)
    return np.vstack([wide, near])
