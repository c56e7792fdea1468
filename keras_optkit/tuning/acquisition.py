"""What a point promises: how much better than the best one it may be."""

import numpy as np
from scipy import special

_LOG_SQRT_2PI = 0.5 * np.log(2 * np.pi)


def log_expected_improvement(
    mean: np.ndarray, deviation: np.ndarray, best: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the logarithm of the expected improvement below `best`, and its two derivatives.

    The logarithm tells points apart also where the improvement itself is 0 in floating point.

    Args:
        mean: Array, what is expected at each point.
        deviation: Array of the same shape, > 0.
        best: Float, the lowest value that is known.

    Returns:
        Three arrays: the logarithm, its derivative by the mean and by the deviation.

    Reference:
        Ament et al., 2023: Unexpected improvements to expected improvement for Bayesian
        optimization.
    """
    z = (best - mean) / deviation
    value = _log_h(z)
    # h' = Phi, and EI = deviation * h(z).
    ratio = np.exp(special.log_ndtr(z) - value)
    return (
        np.log(deviation) + value,
        -ratio / deviation,
        (1 - z * ratio) / deviation,
    )


def _log_h(z: np.ndarray) -> np.ndarray:
    """Returns the logarithm of `phi(z) + z Phi(z)`."""
    z = np.asarray(z, dtype=float)
    near = np.maximum(z, -1.0)
    direct = np.log(np.exp(-0.5 * near**2 - _LOG_SQRT_2PI) + near * special.ndtr(near))
    far = np.minimum(z, -1.0)
    # phi(z) (1 + z Phi(z) / phi(z)); the quotient is a scaled complementary error function.
    mills = np.sqrt(np.pi / 2) * special.erfcx(-far / np.sqrt(2))
    rest = np.log1p(np.maximum(far * mills, -1 + 1e-16))
    tail = -0.5 * far**2 - _LOG_SQRT_2PI + rest
    return np.where(z > -1.0, direct, tail)
