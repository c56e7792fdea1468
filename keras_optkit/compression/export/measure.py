"""What can be counted on a model or a file: parameters, bytes, accuracy with its error, time."""

import gzip
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np


@dataclass(frozen=True)
class Latency:
    """The time of one run of a model.

    Args:
        median_ms: Float, the median, in milliseconds.
        p95_ms: Float, the 95th percentile, in milliseconds.
        runs: Integer, how many runs were measured.
        threads: Integer, the interpreter's threads.
        batch_size: Integer, samples per run.
    """

    median_ms: float
    p95_ms: float
    runs: int
    threads: int
    batch_size: int

    @classmethod
    def of(cls, times: np.ndarray, threads: int, batch_size: int) -> "Latency":
        """Summarises measured times in milliseconds."""
        median, p95 = np.percentile(times, [50, 95])
        return cls(float(median), float(p95), len(times), threads, batch_size)


@dataclass(frozen=True)
class Accuracy:
    """A share of correct answers and how far chance may have moved it.

    Args:
        value: Float, correct answers over samples.
        samples: Integer, how many samples.
        low: Float, the lower end of the 95 % Wilson interval.
        high: Float, its upper end.
    """

    value: float
    samples: int
    low: float
    high: float

    @classmethod
    def of(cls, correct: np.ndarray) -> "Accuracy":
        """Summarises a boolean array, one entry for each sample."""
        low, high = wilson_interval(int(correct.sum()), len(correct))
        return cls(float(correct.mean()), len(correct), low, high)


def count_parameters(model: keras.Model) -> tuple[int, int]:
    """Counts the parameters of a model, and those that are not zero.

    Args:
        model: A built Keras model.

    Returns:
        A tuple `(parameters, nonzero)` over all weights, trainable or not. A parameter is zero if
        the value that its variable holds equals 0 exactly: -0.0 is (a mask times a negative weight
        gives it), a tiny value that only float16 would round to 0 is not.
    """
    arrays = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
    return sum(a.size for a in arrays), sum(int(np.count_nonzero(a)) for a in arrays)


def gzip_size(content: bytes) -> int:
    """Returns the bytes of `content` after gzip at its strongest level, 9."""
    return len(gzip.compress(content, compresslevel=9, mtime=0))


def wilson_interval(successes: int, samples: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns the Wilson score interval of a share (Wilson, 1927, without continuity correction).

    Args:
        successes: Integer in [0, samples].
        samples: Integer, at least 1.
        confidence: Float in (0, 1).

    Returns:
        A tuple `(low, high)` in [0, 1].

    Raises:
        ValueError: If a number is out of range.

    Example:

    >>> low, high = wilson_interval(95, 100)
    >>> round(low, 4), round(high, 4)
    (0.8882, 0.9785)
    """
    if samples < 1 or not 0 <= successes <= samples or not 0 < confidence < 1:
        raise ValueError(
            "`successes` must be in [0, samples], `samples` at least 1, `confidence` in (0, 1). "
            f"Received: successes={successes}, samples={samples}, confidence={confidence}"
        )
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / samples
    centre = (share + z**2 / (2 * samples)) / (1 + z**2 / samples)
    half = z * math.sqrt(share * (1 - share) / samples + z**2 / (4 * samples**2))
    half /= 1 + z**2 / samples
    # Rounding would leave the end that is known exactly a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == samples else min(1.0, centre + half)
    return low, high


def mcnemar_p(first: np.ndarray, second: np.ndarray) -> float:
    """Returns how likely chance alone is to set two models that far apart on the same samples.

    The exact McNemar test (McNemar, 1947): of the samples that one model gets right and the other
    wrong, either model should win half. It sees smaller differences than two separate intervals.

    Args:
        first: Boolean array, which samples the first model got right.
        second: The same for the second model.

    Returns:
        Float, the two-sided p-value; a difference is within noise where it is above 0.05.

    Example:

    >>> mcnemar_p(np.array([1, 1, 1, 1, 1], bool), np.array([0, 0, 0, 0, 1], bool))
    0.125
    """
    wins = int(np.sum(first & ~second))
    losses = int(np.sum(second & ~first))
    n = wins + losses
    tail = term = 1
    for k in range(1, min(wins, losses) + 1):
        term = term * (n - k + 1) // k
        tail += term
    # A ratio of integers: Python divides those correctly however large they are.
    return min(1.0, 2 * tail / 2**n)


def sign_test_p(first: np.ndarray, second: np.ndarray) -> float:
    """Returns how likely chance alone is to make one function win as many rounds as it did.

    The exact two-sided sign test on times that were taken in turn: each round compares the two
    under the same conditions, so that a machine that drifts does not count.

    Args:
        first: Array, the times of the first function, one for each round.
        second: The same for the second function.

    Returns:
        Float, the p-value; a difference is within noise where it is above 0.05.

    Example:

    >>> sign_test_p(np.array([1, 1, 1, 1]), np.array([2, 2, 2, 2]))
    0.125
    """
    return mcnemar_p(first < second, second < first)


def interleaved_times(
    calls: Sequence[Callable[[], None]], runs: int, warmup: int
) -> list[np.ndarray]:
    """Measures several functions in turn, so that a machine that drifts hits all alike.

    Args:
        calls: The functions, without arguments.
        runs: Integer, how often each is measured, at least 1.
        warmup: Integer, how often each is called before that.

    Returns:
        For each function an array of `runs` times in milliseconds.

    Raises:
        ValueError: If a number is out of range.
    """
    if runs < 1 or warmup < 0:
        raise ValueError(
            "`runs` must be at least 1 and `warmup` at least 0. "
            f"Received: runs={runs!r}, warmup={warmup!r}"
        )
    for call in calls:
        for _ in range(warmup):
            call()
    times = np.empty((len(calls), runs))
    rng = np.random.default_rng(0)
    for i in range(runs):
        # In another order in each round: what comes after a large model finds cold caches.
        for k in rng.permutation(len(calls)):
            start = time.perf_counter_ns()
            calls[k]()
            times[k, i] = (time.perf_counter_ns() - start) / 1e6
    return list(times)


def correct_answers(
    predictions: np.ndarray, labels: np.ndarray, threshold: float | None = None
) -> np.ndarray:
    """Tells for each sample whether a classifier's prediction is its label.

    Args:
        predictions: Array of shape `(samples, classes)`, or `(samples, 1)` for two classes.
        labels: Class numbers of shape `(samples,)` or `(samples, 1)`, or one-hot labels of the
            shape of the predictions.
        threshold: Float, where a single column is cut; `None` for `binary_threshold`.

    Returns:
        Boolean array of shape `(samples,)`.

    Example:

    >>> correct_answers(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
    array([ True, False])
    """
    if predictions.shape[-1] == 1:
        cut = binary_threshold(predictions) if threshold is None else threshold
        return (predictions[:, 0] > cut) == (labels.reshape(len(labels)) > 0.5)
    is_one_hot = labels.ndim == 2 and labels.shape[1] > 1
    classes = labels.argmax(-1) if is_one_hot else labels.reshape(len(labels))
    return predictions.argmax(-1) == classes


def binary_threshold(predictions: np.ndarray) -> float:
    """Returns where a single output column is cut: 0.5, or 0 for logits, values outside [0, 1]."""
    return 0.5 if predictions.min() >= 0 and predictions.max() <= 1 else 0.0
