"""Counts, sizes, intervals and tests against SciPy, NumPy and real files."""

import gzip
import itertools

import keras
import numpy as np
import pytest
import scipy.stats

from keras_optkit.compression.export import measure


@pytest.mark.parametrize("samples", [1, 2, 17, 360, 100_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_wilson_interval_is_scipys(samples, confidence):
    for successes in {0, 1, samples // 3, samples - 1, samples}:
        want = scipy.stats.binomtest(successes, samples).proportion_ci(confidence, "wilson")
        got = measure.wilson_interval(successes, samples, confidence)
        np.testing.assert_allclose(got, (want.low, want.high), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 5, 1.0)])
def test_wilson_interval_arguments(arguments):
    with pytest.raises(ValueError, match="Received: successes="):
        measure.wilson_interval(*arguments)


@pytest.mark.parametrize(("wins", "losses"), itertools.product([0, 1, 4, 30], [0, 1, 9, 31]))
def test_mcnemar_is_the_exact_binomial_test(wins, losses):
    first = np.array([True] * wins + [False] * losses + [True, False] * 10)
    second = np.array([False] * wins + [True] * losses + [True, False] * 10)
    n = wins + losses
    want = scipy.stats.binomtest(wins, n).pvalue if n else 1.0
    assert measure.mcnemar_p(first, second) == pytest.approx(want, rel=1e-9)


def test_sign_test_is_the_exact_binomial_test():
    # 9 of 10 rounds won: 2 (1 + 10) / 2^10; a tie counts for neither.
    first = np.array([1.0] * 9 + [3.0, 2.0])
    assert measure.sign_test_p(first, np.full(11, 2.0)) == pytest.approx(22 / 1024)
    assert measure.sign_test_p(first, first) == 1.0


def test_mcnemar_on_many_samples():
    first = np.arange(20_000) % 2 == 0
    want = scipy.stats.binomtest(10_000, 20_100).pvalue
    first = np.array([True] * 10_000 + [False] * 10_100)
    assert measure.mcnemar_p(first, ~first) == pytest.approx(want, rel=1e-6)


def test_count_parameters_says_what_zero_is():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    kernel = np.array([[0.0, -0.0, 1e-12], [1.0, 2.0, 0.0]], "float32")
    model.layers[0].set_weights([kernel, np.zeros(3)])
    # Three zeros in the kernel, the bias, beta and the moving mean; 1e-12 is none.
    assert measure.count_parameters(model) == (model.count_params(), 21 - 3 - 9)


def test_gzip_size_is_that_of_a_file(tmp_path):
    content = np.random.default_rng(0).integers(0, 4, 5000).astype("uint8").tobytes()
    with gzip.GzipFile(tmp_path / "f.gz", "wb", compresslevel=9, mtime=0) as file:
        file.write(content)
    # A file holds its own name besides, "f" and a zero.
    assert measure.gzip_size(content) == (tmp_path / "f.gz").stat().st_size - 2
    assert measure.gzip_size(content) < len(content) / 2


def test_latency_is_numpys_percentiles():
    times = np.random.default_rng(0).gamma(2.0, size=101)
    latency = measure.Latency.of(times, threads=2, batch_size=4)
    assert latency.median_ms == pytest.approx(np.median(times))
    assert latency.p95_ms == pytest.approx(np.sort(times)[95])
    assert (latency.runs, latency.threads, latency.batch_size) == (101, 2, 4)


def test_times_are_taken_in_turn():
    calls = []
    functions = [lambda name=name: calls.append(name) for name in "abc"]
    times = measure.interleaved_times(functions, runs=40, warmup=2)
    assert "".join(calls[:6]) == "aabbcc"
    rounds = ["".join(calls[i : i + 3]) for i in range(6, len(calls), 3)]
    assert len(rounds) == 40
    # All orders come up, so that none always follows the same other one.
    assert set(rounds) == {"abc", "acb", "bac", "bca", "cab", "cba"}
    assert [len(t) for t in times] == [40, 40, 40]
    assert all((t >= 0).all() for t in times)


def test_correct_answers():
    predictions = np.array([[0.1, 0.9], [0.8, 0.2], [0.4, 0.6]])
    want = [True, False, True]
    for labels in (np.array([1, 1, 1]), np.array([[1], [1], [1]]), np.eye(2)[[1, 1, 1]]):
        np.testing.assert_array_equal(measure.correct_answers(predictions, labels), want)
    column = np.array([[0.4], [0.6], [0.7]])
    np.testing.assert_array_equal(measure.correct_answers(column, np.array([0, 1, 0])), [1, 1, 0])
    logits = np.array([[-0.4], [0.2], [3.0]])
    np.testing.assert_array_equal(measure.correct_answers(logits, np.array([0, 1, 0])), [1, 1, 0])


def test_accuracy():
    accuracy = measure.Accuracy.of(np.array([True] * 95 + [False] * 5))
    assert (accuracy.value, accuracy.samples) == (0.95, 100)
    assert (round(accuracy.low, 4), round(accuracy.high, 4)) == (0.8882, 0.9785)
