import keras
import numpy as np
import pytest

from keras_optkit.compression.pruning.masks import keep_largest, num_kept


def mask(scores, count):
    return keras.ops.convert_to_numpy(keep_largest(np.asarray(scores, "float32"), count))


def by_sorting(scores, count):
    order = np.argsort(scores.ravel(), kind="stable")
    kept = np.ones(scores.size, bool)
    kept[order[: scores.size - count]] = False
    return kept.reshape(scores.shape)


@pytest.mark.parametrize("shape", [(1,), (7,), (5, 9), (3, 3, 4, 8)])
def test_equal_to_a_stable_sort(shape):
    rng = np.random.default_rng(0)
    for scale in (1e-30, 1.0, 1e30):
        scores = np.abs(rng.normal(size=shape)).astype("float32") * np.float32(scale)
        for count in {1, scores.size // 2, scores.size - 1, scores.size} - {0}:
            np.testing.assert_array_equal(mask(scores, count), by_sorting(scores, count))


def large_scores():
    """More than are sorted as a whole: spread, tied, and such that a sample of them misleads."""
    rng = np.random.default_rng(0)
    misleading = rng.uniform(1, 2, 9000).astype("float32")
    misleading[::5] = 100.0
    return {
        "spread": np.abs(rng.normal(size=(90, 100))).astype("float32"),
        "negative too": rng.normal(size=(90, 100)).astype("float32"),
        "tied": rng.integers(0, 4, 9000).astype("float32"),
        "equal": np.ones(9000, "float32"),
        "misleading": misleading,
    }


@pytest.mark.parametrize("name", large_scores())
def test_large_tensors_are_equal_to_a_stable_sort(name):
    scores = large_scores()[name]
    for count in (1, 1800, 4500, 8999, 9000):
        np.testing.assert_array_equal(mask(scores, count), by_sorting(scores, count))


@pytest.mark.parametrize("value", [0.0, 0.5, 1e-40])
def test_ties_are_pruned_to_exactly_the_count(value):
    # The trap: TF-MOT prunes nothing where all weights are equal.
    for count in (1, 5, 9, 10):
        kept = mask(np.full((10,), value), count)
        assert kept.sum() == count
        assert kept[-count:].all()


def test_ties_at_the_threshold_only():
    np.testing.assert_array_equal(mask([1, 2, 2, 2, 3], 3), [False, False, True, True, True])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    scores = keras.ops.cast(np.abs(np.random.default_rng(0).normal(size=(64,))), dtype)
    assert keras.ops.convert_to_numpy(keep_largest(scores, 16)).sum() == 16


def test_a_nan_is_kept_where_it_can_be_seen():
    assert mask([1.0, np.nan, 3.0], 1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("size", "sparsity", "kept"),
    [(10, 0.0, 10), (10, 0.5, 5), (10, 0.99, 1), (3, 0.5, 2), (7, 0.9, 1), (1000, 0.875, 125)],
)
def test_number_of_kept_weights(size, sparsity, kept):
    assert int(num_kept(size, sparsity)) == kept
