import json

import keras
import numpy as np
import pytest

from keras_optkit.pruning import NMSparsity, sparsity


@pytest.fixture
def model():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, name="hidden"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    return model


def test_counts_of_each_kernel(model):
    hidden = np.ones((4, 8), "float32")
    hidden[0] = 0.0
    hidden[1, :4] = -0.0
    model.layers[0].kernel.assign(hidden)
    model.layers[0].trainable = False
    table = sparsity(model)
    first, second = table.rows
    assert (first.nonzero, first.sparsity, first.shape) == (20, 12 / 32, (4, 8))
    assert second.sparsity == 0 and table.sparsity == pytest.approx(12 / 56)
    assert len(sparsity(model, all_weights=True).rows) == 4


def test_whether_n_of_m_holds(model):
    hidden = np.ones((4, 8), "float32")
    hidden[[0, 2]] = 0
    model.layers[0].kernel.assign(hidden)
    assert [row.pattern for row in sparsity(model).rows] == [True, False]
    assert [row.pattern for row in sparsity(model, NMSparsity(1, 4)).rows] == [False, False]
    assert [row.pattern for row in sparsity(model, NMSparsity(1, 2)).rows] == [True, False]
    # Across the outputs is not along the input.
    model.layers[0].kernel.assign(np.tile([0.0, 1.0], (4, 4)))
    assert not sparsity(model).rows[0].pattern


def test_it_prints_and_converts(model):
    table = sparsity(model)
    lines = str(table).splitlines()
    assert any("hidden/kernel" in line and "4 x 8" in line and "0.00%" in line for line in lines)
    assert any("together" in line and "56 of 56" in line for line in lines)
    found = json.loads(json.dumps(table.to_dict()))
    (path,) = [p for p in found["kernels"] if "head" in p]
    expected = {"shape": [8, 3], "nonzero": 24, "sparsity": 0.0, "2:4": False, "underflows": 0}
    assert found["kernels"][path] == expected


def test_what_underflows_in_half_precision_is_no_zero_and_is_told():
    dense = keras.layers.Dense(2, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((2,)), dense])
    dense.kernel.assign([[1.0, 1e-9], [0.0, -1e-9]])
    table = sparsity(model)
    assert table.sparsity == 0.25 and table.rows[0].underflows == 2
    assert "2 weights" in str(table) and "underflow" in str(table)


def test_an_unbuilt_model():
    with pytest.raises(ValueError, match="no weights yet"):
        sparsity(keras.Sequential([keras.layers.Dense(2)]))
