import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.normalization import (
    fold_batch_norm,
    insert_batch_norm,
    recalibrate_batch_norm,
)

BN = layers.BatchNormalization


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype == "float32":
            fan_in = max(1, int(np.prod(weight.shape[:-1])))
            weight.assign(rng.normal(size=weight.shape) / np.sqrt(fan_in))
    return model


def batch(model, samples=16, seed=1):
    rng = np.random.default_rng(seed)
    x = [rng.normal(1, 2, (samples, *t.shape[1:])).astype("float32") for t in model.inputs]
    return x if len(x) > 1 else x[0]


def predict(model, x, training=False):
    return [ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=training))]


def assert_close(ys, expected, tolerance=1e-5):
    for y, e in zip(ys, expected, strict=True):
        np.testing.assert_allclose(y, e, atol=tolerance * np.abs(e).max(), rtol=0)


def conv_net():
    return sequential(
        (8, 8, 3),
        layers.Conv2D(4, 3, activation="relu", name="conv"),
        layers.SeparableConv2D(5, 3, padding="same", name="separable"),
        layers.ReLU(name="relu"),
        layers.DepthwiseConv2D(3, use_bias=False, name="depthwise"),
        layers.Flatten(name="flatten"),
        layers.Dense(6, activation="silu", name="dense"),
        layers.Dense(2, activation="softmax", name="head"),
    )


def branches():
    x, y = keras.Input((6,), name="x"), keras.Input((6,), name="y")
    shared = layers.Dense(6, activation="tanh", name="shared")
    relu = layers.ReLU(name="relu")
    a, b = shared(x), relu(layers.Dense(6, name="own")(y))
    c = ops.sigmoid(layers.Dense(6, name="third")(relu(a + b)))
    inner = sequential((6,), layers.Dense(6, activation="relu", name="inside"))
    d = inner(layers.Concatenate()([c, shared(y)])[:, :6])
    out = layers.Dense(2, name="out")(d)
    return keras.Model({"x": x, "y": y}, {"out": out, "other": layers.Dense(1, name="other")(c)})


def names(model):
    return [layer.name for layer in model.layers]


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
@pytest.mark.parametrize("make", [conv_net, branches])
@pytest.mark.parametrize("with_data", [False, True])
def test_the_new_model_predicts_what_the_old_one_did(make, position, with_data):
    model = randomize(make())
    x = batch(model)
    x = dict(zip(("x", "y"), x, strict=True)) if len(model.inputs) > 1 else x
    expected, weights = predict(model, x), [w.copy() for w in model.get_weights()]
    config = repr(model.get_config())

    new = insert_batch_norm(model, position=position, data=x if with_data else None)

    assert_close(predict(new, x), expected)
    if with_data:
        assert_close(predict(new, x, training=True), expected)
        new = insert_batch_norm(model, position=position, data=x)
        recalibrate_batch_norm(new, x)
        assert_close(predict(new, x), expected)
    assert repr(model.get_config()) == config
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert type(new) is type(model)


def test_statistics_over_several_batches_are_those_of_the_data():
    model = randomize(sequential((4,), layers.Dense(3, name="a"), layers.Dense(2)))
    x = batch(model, 50)
    new = insert_batch_norm(model, data=(x, np.zeros(50)), batch_size=16)
    kernel = ops.convert_to_numpy(model.layers[0].kernel).astype("float64")
    norm = new.get_layer("a_bn")
    np.testing.assert_allclose(norm.moving_mean, (x @ kernel).mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, (x @ kernel).var(0), rtol=1e-5)
    recalibrate_batch_norm(new, x, batch_size=16)
    assert_close(predict(new, x), predict(model, x))


def test_where_the_norms_are_and_what_becomes_of_activation_and_bias():
    new = insert_batch_norm(conv_net(), momentum=0.9, epsilon=1e-4)
    assert names(new) == [
        "conv",
        "conv_bn",
        "conv_activation",
        "separable",
        "separable_bn",
        "relu",
        "depthwise",
        "depthwise_bn",
        "flatten",
        "dense",
        "dense_bn",
        "dense_activation",
        "head",
    ]
    for name in ("conv", "separable", "depthwise", "dense"):
        assert not new.get_layer(name).use_bias
        assert new.get_layer(name).activation is keras.activations.linear
        assert new.get_layer(f"{name}_bn").momentum == 0.9
        assert new.get_layer(f"{name}_bn").epsilon == 1e-4
    assert new.get_layer("head").use_bias
    assert new.get_layer("dense_activation").activation is keras.activations.silu

    new = insert_batch_norm(conv_net(), position="after_activation")
    assert names(new) == [
        "conv",
        "conv_bn",
        "separable",
        "relu",
        "separable_bn",
        "depthwise",
        "depthwise_bn",
        "flatten",
        "dense",
        "dense_bn",
        "head",
    ]
    assert new.get_layer("conv").use_bias and new.get_layer("separable").use_bias
    assert new.get_layer("conv").activation is keras.activations.relu


def test_a_shared_layer_gets_a_norm_for_each_call():
    new = insert_batch_norm(branches())
    assert {"shared_bn", "shared_bn_1", "own_bn", "third_bn"} <= set(names(new))
    assert names(new).count("shared") == 1
    assert "inside_bn" in [layer.name for layer in new._flatten_layers()]
    assert "out_bn" not in names(new) and "other_bn" not in names(new)
    # A shared activation is followed by a norm only where it belongs to a chosen layer.
    new = insert_batch_norm(branches(), "own", "after_activation")
    assert [n for n in names(new) if n.endswith("_bn")] == ["own_bn"]
    (node,) = new.get_layer("own_bn")._inbound_nodes
    assert node.input_tensors[0]._keras_history.operation.name == "relu"


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("dense", ["dense_bn"]),
        (["conv", "dense"], ["conv_bn", "dense_bn"]),
        (layers.Conv2D, ["conv_bn"]),
        (re.compile("^(conv|sep)"), ["conv_bn", "separable_bn"]),
        (lambda layer: "s" in layer.name, ["separable_bn", "depthwise_bn", "dense_bn"]),
        ([layers.DepthwiseConv2D, "conv"], ["conv_bn", "depthwise_bn"]),
    ],
)
def test_where(where, found):
    new = insert_batch_norm(conv_net(), where)
    assert [layer.name for layer in new.layers if isinstance(layer, BN)] == found


@pytest.mark.parametrize("position", ["before_activation", "after_activation"])
def test_an_output_that_is_chosen_keeps_its_name(position):
    x = keras.Input((4,))
    relu = layers.ReLU(name="relu")(layers.Dense(3, name="c")(x))
    outputs = [
        layers.Dense(3, name="a")(x),
        layers.Dense(3, activation="tanh", name="b")(x),
        relu,
    ]
    model = randomize(keras.Model(x, outputs))
    x = batch(model)
    new = insert_batch_norm(model, ["a", "b", "c"], position, data=x)
    assert new.output_names == ["a", "b", "relu"]
    assert sum(isinstance(layer, BN) for layer in new.layers) == 3
    assert_close(predict(new, x), predict(model, x))


def test_layers_that_have_a_norm_are_passed_over():
    model = sequential(
        (4,),
        layers.Dense(3, name="a"),
        BN(),
        layers.Dense(3, name="b"),
        layers.ReLU(),
        layers.LayerNormalization(),
        layers.Dense(3, name="c"),
        layers.Dense(3, name="d"),
    )
    new = insert_batch_norm(model)
    assert [n for n in names(new) if n.endswith("_bn")] == ["c_bn"]
    with pytest.raises(ValueError, match="nothing to insert: a norm follows 'a' already.*Received"):
        insert_batch_norm(model, "a")


# TensorFlow convolves channels_first on a GPU only.
@pytest.mark.backends("jax", "torch")
def test_the_axis_follows_the_data_format():
    conv = layers.Conv2D(4, 3, data_format="channels_first", name="conv")
    model = randomize(sequential((3, 8, 8), conv, layers.Flatten(), layers.Dense(2)))
    x = batch(model)
    new = insert_batch_norm(model, data=x)
    assert new.get_layer("conv_bn").axis == 1
    assert_close(predict(new, x), predict(model, x))


def test_an_activation_with_weights_is_carried_over():
    model = sequential((4,), layers.Dense(3, activation=layers.PReLU(), name="a"), layers.Dense(2))
    x = batch(model)
    model(x)
    model.layers[0].activation.alpha.assign([0.1, 0.2, 0.3])
    new = insert_batch_norm(model)
    assert_close(predict(new, x), predict(model, x))
    assert new.get_layer("a_activation").alpha is not model.layers[0].activation.alpha


def test_it_trains_can_be_saved_and_folded_again(tmp_path, toy):
    x, y = toy
    model = sequential((4,), layers.Dense(8, activation="relu"), layers.Dense(3))
    new = insert_batch_norm(model, data=x)
    new.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    new.fit(x, y, epochs=2, verbose=0)
    new.save(tmp_path / "new.keras")
    assert_close(predict(keras.models.load_model(tmp_path / "new.keras"), x), predict(new, x), 1e-6)
    folded, report = fold_batch_norm(new, return_report=True)
    assert not report.left
    assert_close(predict(folded, x), predict(new, x))


def test_mixed_precision_and_frozen_layers():
    policy = keras.DTypePolicy("mixed_bfloat16")
    dense = layers.Dense(3, dtype=policy, trainable=False, name="a")
    new = insert_batch_norm(sequential((4,), dense, layers.Dense(2)))
    assert new.get_layer("a_bn").dtype_policy.name == "mixed_bfloat16"
    assert not new.get_layer("a").trainable and new.get_layer("a_bn").trainable


def test_bad_input():
    model = conv_net()
    cases = [
        ({"where": "cnov"}, r"no layer 'cnov'. Did you mean 'conv'\?.*Received: where='cnov'"),
        ({"where": "relu"}, "'relu' is a ReLU; a norm can be inserted behind Dense, Conv1D"),
        ({"where": layers.Conv3D}, "matches no layer .* Available: 'conv', 'separable'.*Received"),
        ({"where": re.compile("^x")}, "matches no layer"),
        ({"where": lambda layer: False}, "matches no layer"),
        ({"where": 3}, "`where` must be None, a layer's name.*Received: where=3"),
        ({"position": "before"}, "must be one of.*Did you mean 'before_activation'"),
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\). Received: momentum=1.0"),
        ({"epsilon": 0}, "`epsilon` must be positive. Received: epsilon=0"),
        ({"data": np.zeros((4, 5, 5, 3), "float32")}, "does not fit the model"),
        ({"data": np.zeros((0, 8, 8, 3), "float32")}, "is empty"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            insert_batch_norm(model, **arguments)
    with pytest.raises(ValueError, match="is not built"):
        insert_batch_norm(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match="matches no layer"):
        insert_batch_norm(sequential((4,), layers.Dense(2)))
