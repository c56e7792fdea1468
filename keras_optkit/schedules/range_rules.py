"""The arithmetic of the learning-rate range test: sweep, smoothing, and four rules for a rate.

Everything here works on plain float64 arrays.
"""

import numpy as np

# Fewer points than this say nothing about the shape of a curve.
MIN_POINTS = 10
# From fastai's `slide`: two gradients that are so many updates apart are compared, and the loss has
# settled where they differ by no more than this. There the loss has its own unit, here that of its
# whole fall, so that a loss in another unit gives the same rate.
_SLIDE_WIDTH = 15
_SLIDE_THRESHOLD = 0.005


def sweep(start: float, end: float, steps: int, mode: str = "exponential") -> np.ndarray:
    """Returns the learning rates of a range test, one for each update.

    Args:
        start: Float, the first rate; > 0 if `mode` is `"exponential"`.
        end: Float > `start`, the last rate.
        steps: Integer >= 2, the number of rates.
        mode: `"exponential"` for equal factors, `"linear"` for equal differences.

    Returns:
        Array of shape (steps,), float64.

    Example:

    >>> sweep(1e-4, 1.0, 5).round(6).tolist()
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    return np.linspace(start, end, steps) if mode == "linear" else np.geomspace(start, end, steps)


class MovingAverage:
    """The exponential moving average of losses, corrected for its start at zero.

    `average[i] = (1 - beta) * sum(beta ** (i - j) * losses[j]) / (1 - beta ** (i + 1))`

    From the first loss that is not finite on, it is not finite.

    Args:
        beta: Float in [0, 1), the weight of the past; 0 returns the losses.

    Example:

    >>> average = MovingAverage(beta=0.5)
    >>> [round(average.add(loss), 4) for loss in (1.0, 0.0, 0.0)]
    [1.0, 0.3333, 0.1429]

    Reference:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2014, section 3, for the
        correction.
    """

    def __init__(self, beta: float = 0.98):
        self.beta = beta
        self._sum = 0.0
        self._weight = 0.0

    def add(self, loss: float) -> float:
        """Takes up the next loss, and returns the average."""
        self._sum = self.beta * self._sum + (1 - self.beta) * loss
        self._weight = self.beta * self._weight + (1 - self.beta)
        return self._sum / self._weight


def diverged(loss: float, first: float, best: float, divergence: float) -> bool:
    """Tells whether a smoothed loss has left the lowest one behind by a factor.

    A loss that may be negative has no factor. It has diverged when it rises above its best by
    `divergence - 1` times the size of the best, or of the fall to it if that is larger.

    Args:
        loss: Float, the smoothed loss.
        first: Float, the first smoothed loss.
        best: Float, the lowest smoothed loss so far.
        divergence: Float > 1, the factor.

    Example:

    >>> diverged(2.1, 2.3, 0.5, divergence=4.0)
    True
    """
    if best > 0:
        return loss > divergence * best
    return loss - best > (divergence - 1) * max(-best, first - best)


def suggest(rates: np.ndarray, smoothed: np.ndarray) -> tuple[dict, dict]:
    """Returns the four suggested learning rates of a curve.

    Args:
        rates: Array of shape (n,), increasing and > 0.
        smoothed: Array of shape (n,), the smoothed loss at each rate.

    Returns:
        A tuple `(suggestions, reasons)`. `suggestions` has the keys `"steepest"`, `"valley"`,
        `"minimum"` and `"slide"`, each with a float or `None`; `reasons` says for each `None` why.
    """
    finite = np.isfinite(smoothed)
    n = len(finite) if finite.all() else int(np.argmin(finite))
    # The first average is that of one loss. As in fastai, a tenth of the curve is left to settle.
    rates, smoothed = rates[n // 10 : n], smoothed[n // 10 : n]
    found = dict.fromkeys(_RULES)
    if n < MIN_POINTS:
        reason = f"the test has {n} finite losses, and {MIN_POINTS} are needed"
        return found, dict.fromkeys(_RULES, reason)
    if smoothed.min() >= smoothed[0]:
        return found, dict.fromkeys(_RULES, "the loss never falls below the first one")
    reasons, lowest = {}, rates[np.argmin(smoothed)]
    for name, rule in _RULES.items():
        rate = rule(rates, smoothed)
        if rate is None:
            reasons[name] = _NO_SLIDE
        elif rate >= lowest:
            # As where the curve settles once more, at rates that are too high.
            reasons[name] = f"its rate of {rate:.2e} is not below that of the lowest loss"
        else:
            found[name] = rate
    return found, reasons


def steepest(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """Returns the rate at which the loss falls most per factor of the rate.

    Only the part up to the lowest loss counts: behind it, a curve that diverges may jump.

    Args:
        rates: Array of shape (n,), increasing and > 0.
        smoothed: Array of shape (n,), finite, with its lowest value not in front.

    Reference:
        Gugger, "How Do You Find A Good Learning Rate", 2018, and fastai's `steep`.
    """
    last = int(np.argmin(smoothed)) + 1
    slopes = np.diff(smoothed[:last]) / np.diff(np.log(rates[:last]))
    return float(rates[np.argmin(slopes)])


def valley(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """Returns the rate in the middle of the longest valley, the longest run of lower losses.

    The run is the longest subsequence that falls, and may skip points. Its length is counted back
    from its end, and the rate half-way is taken.

    Args:
        rates: Array of shape (n,), increasing and > 0.
        smoothed: Array of shape (n,), finite, with its lowest value not in front.

    Reference:
        fastai's `valley` (one sixth into the second third of the valley).
    """
    lengths = np.ones(len(smoothed), dtype=int)
    for i in range(1, len(smoothed)):
        lengths[i] += max(lengths[:i][smoothed[:i] > smoothed[i]], default=0)
    end = int(np.argmax(lengths))
    third = lengths[end] / 3
    return float(rates[end - lengths[end] + int(third) + int(third / 2)])


def minimum(rates: np.ndarray, smoothed: np.ndarray) -> float:
    """Returns a tenth of the rate with the lowest loss.

    Args:
        rates: Array of shape (n,), increasing and > 0.
        smoothed: Array of shape (n,), finite.

    Reference:
        Gugger, "How Do You Find A Good Learning Rate", 2018, and fastai's `minimum`.
    """
    return float(rates[np.argmin(smoothed)] / 10)


def slide(rates: np.ndarray, smoothed: np.ndarray) -> float | None:
    """Returns the rate where a window that slides in from the right finds the loss settled.

    It has settled where the slopes at the window's two ends agree.

    Args:
        rates: Array of shape (n,), increasing and > 0.
        smoothed: Array of shape (n,), finite, with its lowest value not in front.

    Returns:
        Float, or `None` if the loss settles nowhere.

    Reference:
        The interval slide rule of Novetta, as in fastai's `slide`, where the loss has its own unit.
    """
    fall = smoothed[0] - smoothed.min()
    gradient = np.gradient(smoothed / fall)
    changes = np.abs(gradient[_SLIDE_WIDTH:] - gradient[:-_SLIDE_WIDTH])
    settled = np.flatnonzero(changes <= _SLIDE_THRESHOLD)
    if len(settled) == 0:
        return None
    # The last window that had not settled, if there was one.
    return float(rates[min(settled[-1] + 1, len(changes) - 1)])


_RULES = {"steepest": steepest, "valley": valley, "minimum": minimum, "slide": slide}
_NO_SLIDE = f"no two slopes that are {_SLIDE_WIDTH} updates apart agree"
