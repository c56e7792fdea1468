"""Frozen norms stay as they are while the model trains, and move again afterwards."""

import keras
import numpy as np
import pytest

from keras_optkit.normalization import (
    ConvBNAct,
    GhostBatchNormalization,
    freeze_batch_norm,
    unfreeze_batch_norm,
)

L = keras.layers
N = keras.ops.convert_to_numpy


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.normal(3.0, 2.0, size=(32, 6, 6, 2)).astype("float32"), rng.normal(size=(32, 1))


@pytest.fixture
def model():
    """Norms on their own, shared, nested and in a block."""
    shared = L.BatchNormalization(name="shared")
    inner = keras.Sequential(
        [keras.Input((6, 6, 2)), ConvBNAct(4, 3, name="block"), GhostBatchNormalization(4)],
        name="inner",
    )
    inputs = keras.Input((6, 6, 2))
    x = inner(shared(inputs) + shared(inputs * 2))
    x = L.BatchNormalization(center=False, renorm=True)(x)
    return keras.Model(inputs, L.Dense(1)(L.Flatten()(x)))


def compile_model(model, **kwargs):
    # Weight decay moves whatever an optimizer holds, gradient or not.
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1, **kwargs), "mse")


def split(layers):
    """The values of the norms' gammas and betas, and of their statistics."""
    weights = [w for layer in layers for w in layer.weights]
    trained = [N(w) for w in weights if w.name in ("gamma", "beta")]
    return trained, [N(w) for w in weights if w.name not in ("gamma", "beta")]


def same(before, after):
    return [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]


@pytest.mark.parametrize("scale_and_center", [True, False])
@pytest.mark.parametrize("trained_before", [True, False])
def test_freeze_and_unfreeze(model, data, scale_and_center, trained_before):
    compile_model(model)
    if trained_before:
        model.fit(*data, batch_size=16, verbose=0)
    frozen = freeze_batch_norm(model, scale_and_center=scale_and_center)
    assert len(frozen) == 4
    dense = N(model.layers[-1].kernel)
    before = split(frozen)
    model.fit(*data, batch_size=16, verbose=0)
    after = split(frozen)
    assert all(same(before[1], after[1]))
    held = same(before[0], after[0])
    assert all(held) if scale_and_center else not any(held)
    assert not np.array_equal(dense, N(model.layers[-1].kernel))

    if scale_and_center and not trained_before:
        with pytest.raises(ValueError, match=r"built while '.*gamma' was frozen.*compile"):
            unfreeze_batch_norm(model, frozen)
        assert not any(layer.trainable for layer in frozen)
        compile_model(model)
    unfreeze_batch_norm(model, frozen)
    model.fit(*data, batch_size=16, verbose=0)
    final = split(frozen)
    assert not any(same(after[0], final[0])) and not any(same(after[1], final[1]))
    assert all(w.constraint is None for layer in frozen for w in layer.weights)


def test_frozen_in_training_is_inference(model, data):
    compile_model(model)
    model.fit(*data, batch_size=16, verbose=0)
    freeze_batch_norm(model)
    outputs = N(model(data[0], training=True))
    np.testing.assert_allclose(outputs, N(model(data[0], training=False)), rtol=1e-5, atol=1e-6)


def test_the_optimizer_keeps_its_state(model, data):
    compile_model(model)
    model.fit(*data, batch_size=16, verbose=0)
    before = [N(v) for v in model.optimizer.variables]
    freeze_batch_norm(model)
    assert all(same(before, [N(v) for v in model.optimizer.variables]))
    model.fit(*data, batch_size=16, verbose=0)
    assert int(N(model.optimizer.iterations)) == 4


def test_before_compile(model, data):
    frozen = freeze_batch_norm(model)
    compile_model(model)
    before = split(frozen)
    model.fit(*data, batch_size=16, verbose=0)
    for values, others in zip(before, split(frozen), strict=True):
        assert all(same(values, others))


def test_what_was_frozen_before_stays_so(model):
    (shared,) = [layer for layer in model.layers if layer.name == "shared"]
    shared.trainable = False
    frozen = freeze_batch_norm(model)
    assert shared not in frozen and len(frozen) == 3
    assert freeze_batch_norm(model) == []
    unfreeze_batch_norm(model, frozen)
    assert not shared.trainable and all(layer.trainable for layer in frozen)
    unfreeze_batch_norm(model)
    assert shared.trainable


def test_a_constraint_of_the_users_comes_back(data):
    norm = L.BatchNormalization(gamma_constraint="non_neg")
    model = keras.Sequential([keras.Input((6, 6, 2)), norm, L.Flatten(), L.Dense(1)])
    compile_model(model)
    model.fit(*data, verbose=0)
    own = norm.gamma.constraint
    frozen = freeze_batch_norm(model)
    unfreeze_batch_norm(model, frozen)
    assert norm.gamma.constraint is own


def test_averages_of_an_optimizer_that_has_trained(model, data):
    compile_model(model, use_ema=True)
    model.fit(*data, batch_size=16, verbose=0)
    with pytest.raises(ValueError, match="use_ema=True.*scale_and_center=True"):
        freeze_batch_norm(model)
    assert len(freeze_batch_norm(model, scale_and_center=False)) == 4


def test_bad_input(model):
    other = L.BatchNormalization()
    with pytest.raises(ValueError, match="must be BatchNorm layers of the model"):
        unfreeze_batch_norm(model, [other])
    with pytest.raises(ValueError, match="has no BatchNorm layer"):
        freeze_batch_norm(keras.Sequential([keras.Input((3,)), L.Dense(1)]))
    with pytest.raises(ValueError, match="is not built"):
        freeze_batch_norm(keras.Sequential([L.BatchNormalization()]))
    with pytest.raises(ValueError, match=r"must be a `keras.Model`"):
        freeze_batch_norm(other)
