"""A Gaussian process on the unit cube: Matern 5/2, a length scale for each parameter, noise."""

import dataclasses

import numpy as np
from scipy import linalg, optimize

# Log-normal priors, (mean, standard deviation) of the logarithm, for outputs of variance 1 on the
# unit cube. The length scale's mean grows with the square root of the number of parameters, so that
# the typical distance is as long in any space (Hvarfner et al., 2024).
_LENGTH = (-0.7, 0.9)
_AMPLITUDE = (0.5, 1.0)
_NOISE = (np.log(1e-4), 2.0)
_NOISE_RANGE = (np.log(1e-8), np.log(0.5))
_SQRT5 = np.sqrt(5.0)


@dataclasses.dataclass(frozen=True)
class GaussianProcess:
    """A process that was fitted to points.

    Args:
        x: Array of shape `(n, columns)`, the points.
        theta: Array of shape `(parameters + 2,)`: the logarithms of the length scales, of the
            variance and of the noise's variance.
        groups: Array of shape `(columns,)`, which parameter each column belongs to.
        cholesky: Array of shape `(n, n)`, the lower factor of the kernel matrix.
        alpha: Array of shape `(n,)`, the kernel matrix' inverse times the outputs.
    """

    x: np.ndarray
    theta: np.ndarray
    groups: np.ndarray
    cholesky: np.ndarray
    alpha: np.ndarray

    def predict(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean and the standard deviation at some points, without the noise.

        Args:
            points: Array of shape `(m, columns)`.
        """
        scales = np.exp(-self.theta[self.groups])
        k = _matern(_distances(points * scales, self.x * scales), self.theta[-2])[0]
        v = linalg.solve_triangular(self.cholesky, k.T, lower=True, check_finite=False)
        variance = np.exp(self.theta[-2]) - np.einsum("ij,ij->j", v, v)
        return k @ self.alpha, np.sqrt(np.maximum(variance, 1e-12))

    def gradients(self, point: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
        """Returns mean, standard deviation and their derivatives along each column at one point.

        Args:
            point: Array of shape `(columns,)`.
        """
        scales = np.exp(-self.theta[self.groups])
        apart = (point - self.x) * scales
        k, slope = _matern(np.sqrt(np.sum(apart**2, axis=1)), self.theta[-2])
        dk = -slope[:, None] * apart * scales
        v = linalg.cho_solve((self.cholesky, True), k, check_finite=False)
        deviation = np.sqrt(max(np.exp(self.theta[-2]) - k @ v, 1e-12))
        return k @ self.alpha, deviation, dk.T @ self.alpha, -(dk.T @ v) / deviation


def fit(
    x: np.ndarray,
    y: np.ndarray,
    groups: np.ndarray,
    noise: float | None = None,
    start: np.ndarray | None = None,
) -> GaussianProcess:
    """Fits a process to outputs of mean 0 and variance 1, by the maximum of its posterior.

    Args:
        x: Array of shape `(n, columns)` in [0, 1].
        y: Array of shape `(n,)`.
        groups: Array of shape `(columns,)`, which parameter each column belongs to: 0, 1, ...
        noise: Float, the noise's variance, or `None` to fit it.
        start: The `theta` of an earlier fit to begin from.

    Returns:
        A `GaussianProcess`.
    """
    count = int(groups.max()) + 1
    # The squared distances along each parameter, which no step changes.
    squares = np.zeros((count, len(x), len(x)))
    for column, group in enumerate(groups):
        squares[group] += (x[:, column, None] - x[None, :, column]) ** 2
    means = np.r_[np.full(count, _LENGTH[0] + 0.5 * np.log(count)), _AMPLITUDE[0], _NOISE[0]]
    widths = np.r_[np.full(count, _LENGTH[1]), _AMPLITUDE[1], _NOISE[1]]
    fixed = None if noise is None else np.log(max(noise, 1e-8))
    noises = _NOISE_RANGE if fixed is None else (fixed, fixed)
    bounds = [*[(np.log(0.02), np.log(20.0))] * count, (np.log(0.05), np.log(50.0)), noises]
    # What looks like a rough function may be a smooth one in noise: both are begun from.
    smooth = np.r_[means[:-2] + 0.7, means[-2], np.log(0.1)]
    starts = [means, smooth] if start is None else [start, means, smooth]
    found = [
        optimize.minimize(
            _negative_log_posterior,
            np.clip(first, *np.transpose(bounds)),
            args=(squares, y, means, widths),
            jac=True,
            bounds=bounds,
            method="L-BFGS-B",
            options={"maxiter": 30},
        )
        for first in starts
    ]
    theta = min(found, key=lambda result: result.fun).x
    return condition(x, y, groups, theta)


def condition(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, theta: np.ndarray
) -> GaussianProcess:
    """Returns the process of given length scales, variance and noise at some points.

    Args:
        x: Array of shape `(n, columns)`.
        y: Array of shape `(n,)`.
        groups: Array of shape `(columns,)`.
        theta: Array, as in `GaussianProcess`.
    """
    scaled = x * np.exp(-theta[groups])
    kernel = _matern(_distances(scaled, scaled), theta[-2])[0]
    cholesky = _factor(kernel, np.exp(theta[-1]))
    alpha = linalg.cho_solve((cholesky, True), y, check_finite=False)
    return GaussianProcess(x, theta, groups, cholesky, alpha)


def _negative_log_posterior(theta, squares, y, means, widths):
    weights = np.exp(-2 * theta[:-2])
    scaled = squares * weights[:, None, None]
    kernel, slope = _matern(np.sqrt(scaled.sum(axis=0)), theta[-2])
    noise = np.exp(theta[-1])
    cholesky = _factor(kernel, noise)
    inverse = linalg.cho_solve((cholesky, True), np.eye(len(y)), check_finite=False)
    alpha = inverse @ y
    outer = inverse - np.outer(alpha, alpha)
    gradient = np.empty_like(theta)
    gradient[:-2] = 0.5 * np.einsum("ij,gij->g", outer * slope, scaled)
    gradient[-2] = 0.5 * np.sum(outer * kernel)
    gradient[-1] = 0.5 * noise * np.trace(outer)
    value = 0.5 * y @ alpha + np.sum(np.log(np.diag(cholesky)))
    away = (theta - means) / widths
    return value + 0.5 * away @ away, gradient + away / widths


def _matern(r: np.ndarray, log_variance: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the kernel at scaled distances, and the negative of its slope over the distance."""
    decay = np.exp(log_variance - _SQRT5 * r)
    slope = 5 / 3 * (1 + _SQRT5 * r) * decay
    return (1 + _SQRT5 * r + 5 / 3 * r**2) * decay, slope


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))


def _factor(kernel: np.ndarray, noise: float) -> np.ndarray:
    """Returns the Cholesky factor, with as much on the diagonal as it takes to have one."""
    jitter = 1e-10 * kernel[0, 0]
    while True:
        try:
            raised = kernel + (noise + jitter) * np.eye(len(kernel))
            return linalg.cholesky(raised, lower=True, check_finite=False)
        except linalg.LinAlgError:
            jitter *= 100
