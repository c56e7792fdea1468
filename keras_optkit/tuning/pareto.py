"""Several objectives: what is best in its own way, and how to look for more of it."""

import numpy as np


def pareto_front(values: np.ndarray) -> np.ndarray:
    """Returns which rows no other row betters in one column without being worse in another.

    Args:
        values: Array of shape `(n, objectives)`; the lower the better.

    Returns:
        Boolean array of shape `(n,)`. Of equal rows all count.

    Example:

    >>> pareto_front(np.array([[0, 3], [1, 1], [2, 2]]))
    array([ True,  True, False])
    """
    values = np.asarray(values, dtype=float)
    no_worse = np.all(values[:, None] <= values[None], axis=2)
    better = np.any(values[:, None] < values[None], axis=2)
    return ~np.any(no_worse & better, axis=0)


def scalarise(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns one output for several objectives, with weights drawn anew at each call.

    The augmented Chebyshev function of ParEGO: in the long run every part of the front is the
    optimum of some weights. Each objective is first brought to [0, 1].

    Args:
        values: Array of shape `(n, objectives)`; the lower the better.
        rng: Draws the weights.

    Reference:
        Knowles, 2006: ParEGO, a hybrid algorithm with on-line landscape approximation.
    """
    values = np.asarray(values, dtype=float)
    low, high = values.min(axis=0), values.max(axis=0)
    weighted = rng.dirichlet(np.ones(values.shape[1])) * (values - low)
    weighted = weighted / np.where(high > low, high - low, 1)
    return weighted.max(axis=1) + 0.05 * weighted.sum(axis=1)
