import keras
import numpy as np
import pytest

from keras_optkit.core.optimizer import (
    ensure_built,
    iterations,
    members,
    moving_average,
    require_compiled,
    updates_per_batch,
)


def multi(**kwargs):
    one, two = keras.optimizers.SGD(0.1), keras.optimizers.Adam(0.01, **kwargs)
    return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(one, {".*/bias": two})), [
        two,
        one,
    ]


def test_an_uncompiled_model_is_told():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"model.compile\(optimizer"):
        require_compiled(model, "Pruning")


def test_the_members_are_those_that_update():
    optimizer, inner = multi()
    assert members(optimizer) == inner
    assert members(inner[0]) == [inner[0]]


def test_updates_are_counted_in_the_members(make_model, toy):
    optimizer, inner = multi(gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match=r"same number of batches.*\[1, 2\]"):
        updates_per_batch(optimizer)
    optimizer = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(inner[0]))
    assert updates_per_batch(optimizer) == 0.5
    make_model(optimizer).fit(*toy, batch_size=16, epochs=3, verbose=0)
    assert iterations(optimizer) == 6


def test_the_moving_average_is_found_in_the_member(make_model, toy):
    optimizer, _ = multi(use_ema=True)
    model = make_model(optimizer)
    # `fit` ends with the averages, so the two are alike behind it.
    model.fit(*toy, batch_size=16, verbose=0)
    kernel, bias = model.trainable_variables[:2]
    assert moving_average(optimizer, kernel) is None
    average = keras.ops.convert_to_numpy(moving_average(optimizer, bias))
    np.testing.assert_array_equal(average, keras.ops.convert_to_numpy(bias))
    assert np.any(average)


def test_an_optimizer_is_built_once_there_are_weights(make_model):
    model = make_model()
    ensure_built(model, "Pruning")
    assert model.optimizer.built
    bare = keras.Sequential([keras.layers.Dense(3)])
    bare.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"`Pruning`.*Call it on a batch"):
        ensure_built(bare, "Pruning")
