import math

import keras
import numpy as np
import pytest

from keras_optkit.compression.pruning.nm_sparsity import input_axis
from keras_optkit.compression.pruning.structures import Structure
from keras_optkit.pruning import BlockSparsity, NMSparsity

L = keras.layers


def masks(structure, scores, sparsities, axes=None, scope="layer"):
    axes = axes or [len(s.shape) - 2 for s in scores]
    chosen = structure.choose([np.float32(s) for s in scores], sparsities, axes, scope)
    return [keras.ops.convert_to_numpy(mask) for mask in chosen]


def scores(*shape, seed=0):
    return np.abs(np.random.default_rng(seed).normal(size=shape)).astype("float32")


# Written anew after the cases that TF-MOT tests its N:M masks with: weights, N of M, expected mask,
# each along the input axis (rows).
NM_TABLE = [
    ([[1, 8], [2, 7], [3, 6], [4, 5]], 2, 4, [[0, 1], [0, 1], [1, 0], [1, 0]]),
    ([[4], [3], [2], [1], [1], [2], [3], [4]], 2, 4, [[1], [1], [0], [0], [0], [0], [1], [1]]),
    ([[1], [2], [3], [4], [9], [8]], 2, 4, [[0], [0], [1], [1], [1], [1]]),  # a short last group
    ([[5], [1], [2]], 1, 3, [[1], [0], [0]]),
    ([[3], [3], [3], [3]], 2, 4, [[0], [0], [1], [1]]),  # ties: exactly two
    ([[0], [0], [0], [0]], 1, 4, [[0], [0], [0], [1]]),
]


@pytest.mark.parametrize(("weights", "n", "m", "expected"), NM_TABLE)
def test_n_of_m_by_table(weights, n, m, expected):
    (mask,) = masks(NMSparsity(n, m), [np.array(weights)], [1 - n / m])
    np.testing.assert_array_equal(mask, np.array(expected, bool))


@pytest.mark.parametrize(("n", "m"), [(1, 2), (2, 4), (1, 4), (3, 5), (2, 16)])
@pytest.mark.parametrize("shape", [(20, 6), (3, 2, 20, 6), (7, 3)])
def test_n_of_m_keeps_the_largest_of_each_group(n, m, shape):
    given = scores(*shape)
    (mask,) = masks(NMSparsity(n, m), [given], [1 - n / m])
    moved, kept = np.moveaxis(given, -2, -1), np.moveaxis(mask, -2, -1)
    for row, keep in zip(moved.reshape(-1, shape[-2]), kept.reshape(-1, shape[-2]), strict=True):
        for start in range(0, len(row), m):
            group, chosen = row[start : start + m], keep[start : start + m]
            assert chosen.sum() == min(n, len(group))
            assert set(group[chosen]) == set(np.sort(group)[-n:])


def test_n_of_m_on_the_way_to_its_sparsity():
    given = scores(16, 3)
    shares = [masks(NMSparsity(2, 4), [given], [s])[0].mean() for s in (0.0, 0.2, 0.3, 0.5)]
    assert shares == [1.0, 0.75, 0.75, 0.5]


def block_reference(values, block, pooling):
    """Scores of blocks by plain loops in float64."""
    (height, width), (rows, columns) = block, values.shape[-2:]
    pool = {"avg": np.mean, "max": np.max}[pooling]
    lead = values.reshape(-1, rows, columns).astype("float64")
    return [
        [
            [pool(v[i : i + height, j : j + width]) for j in range(0, columns, width)]
            for i in range(0, rows, height)
        ]
        for v in lead
    ]


@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("block", [(1, 4), (4, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("shape", [(12, 10), (7, 11), (3, 3, 5, 6)])
def test_blocks_go_as_a_whole_and_the_smallest_first(pooling, block, shape):
    given = scores(*shape)
    (mask,) = masks(BlockSparsity(block, pooling), [given], [0.5])
    pooled = np.array(block_reference(given, block, pooling))
    kept = np.array(block_reference(mask, block, "max"))
    np.testing.assert_array_equal(kept, block_reference(mask, block, "avg"))
    assert kept.sum() == max(1, np.round(kept.size * 0.5))
    assert pooled[kept == 1].min() > pooled[kept == 0].max()


def test_equal_blocks_are_pruned_to_exactly_the_count():
    (mask,) = masks(BlockSparsity((2, 2)), [np.ones((8, 8))], [0.75])
    assert mask.sum() == 16


def test_one_threshold_across_layers_is_by_rank():
    given = [scores(5, 6), scores(3, 3, 4, 2, seed=1), 10 * scores(4, 2, seed=2)]
    found = masks(Structure(), given, [0.7], [0, 2, 0], "global")
    everything = np.concatenate([s.ravel() for s in given])
    kept = round(len(everything) * 0.3)
    threshold = np.sort(everything)[-kept]
    for mask, s in zip(found, given, strict=True):
        np.testing.assert_array_equal(mask, s >= threshold)


def test_one_threshold_across_layers_with_ties_and_many_weights():
    given = [np.ones((50, 60)), np.ones((70, 10)), np.zeros((3, 4))]
    found = masks(Structure(), given, [0.25], [0, 0, 0], "global")
    size = sum(s.size for s in given)
    assert sum(mask.sum() for mask in found) == round(size * 0.75)
    # The zeros go first, then the ones of the earlier layer.
    assert not found[2].any() and found[1].all()


def test_blocks_across_layers():
    given = [scores(4, 8), 10 * scores(4, 8, seed=1)]
    first, second = masks(BlockSparsity((2, 2)), given, [0.5], [0, 0], "global")
    assert first.sum() + second.sum() == 32
    assert second.mean() > first.mean()


def test_the_input_axis_of_each_kind_of_layer():
    image, tokens = keras.Input((8, 8, 3)), keras.Input((5, 6))
    transposed = L.Conv2DTranspose(7, 3)
    transposed(image)
    conv, dense = L.Conv2D(7, 3), L.Dense(4)
    conv(image), dense(tokens)
    split = L.EinsumDense("abc,cde->abde", (None, 2, 4))
    merged = L.EinsumDense("abde,dec->abc", (None, 6))
    merged(split(tokens))
    for layer, length in ((transposed, 3), (conv, 3), (dense, 6), (split, 6), (merged, 4)):
        assert layer.kernel.shape[input_axis(layer, layer.kernel)] == length


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NMSparsity(4, 2), "n=4, m=2"),
        (lambda: NMSparsity(4, 4), "n=4, m=4"),
        (lambda: NMSparsity(0, 4), "n=0, m=4"),
        (lambda: NMSparsity(2.0, 4), "n=2.0"),
        (lambda: BlockSparsity(4), "block_size=4"),
        (lambda: BlockSparsity((0, 4)), r"block_size=\(0, 4\)"),
        (lambda: BlockSparsity((1, 2, 3)), r"block_size=\(1, 2, 3\)"),
        (lambda: BlockSparsity((2, 2), "min"), "pooling='min'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match="Received: .*" + message):
        make()


def test_a_block_larger_than_a_kernel():
    structure = BlockSparsity((4, 2))
    structure.check("a/kernel", (4, 2))
    for shape in ((3, 8), (8, 1), (9,)):
        with pytest.raises(ValueError, match=r"larger than the kernel 'a/kernel'.*\(4, 2\)"):
            structure.check("a/kernel", shape)


@pytest.mark.parametrize("structure", [NMSparsity(2, 4), BlockSparsity((2, 3), "max")])
def test_config(structure):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(structure))
    assert repr(again) == repr(structure)


def test_negative_scores_of_a_criterion_are_ordered_too():
    given = np.random.default_rng(0).normal(size=(90, 90)).astype("float32")
    (mask,) = masks(Structure(), [given], [0.6])
    kept = round(given.size * 0.4)
    assert mask.sum() == kept
    np.testing.assert_array_equal(mask, given >= np.sort(given.ravel())[-kept])
    assert math.isclose(mask.mean(), 0.4, abs_tol=1e-3)
