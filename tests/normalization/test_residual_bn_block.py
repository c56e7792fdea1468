"""ResidualBNBlock against the same Keras layers put together by hand from the papers' figures."""

import json

import keras
import numpy as np
import pytest

from keras_optkit.layers import ConvBNAct
from keras_optkit.normalization import GhostBatchNormalization, ResidualBNBlock

L = keras.layers
N = keras.ops.convert_to_numpy


def reference(block, shape):
    """The block as a functional model of Keras' own layers, with the block's weights."""
    f, out = block.filters, block._output_channels
    windows = [(f, 3, block.strides), (f, 3, 1)]
    if block.bottleneck:
        windows = [(f, 1, 1), (f, 3, block.strides), (out, 1, 1)]
    layers = []

    def norm(x):
        layers.append(L.BatchNormalization())
        return layers[-1](x)

    def conv(x, filters, size, strides):
        layers.append(L.Conv2D(filters, size, strides, padding="same", use_bias=False))
        return layers[-1](x)

    inputs = x = keras.Input(shape)
    if block.version == 2:
        x = L.ReLU()(norm(x))
    shortcut = x
    for i, window in enumerate(windows):
        x = conv(x, *window)
        is_last = i == len(windows) - 1
        x = x if block.version == 2 and is_last else norm(x)
        x = x if is_last else L.ReLU()(x)
    if block.strides != 1 or shape[-1] != out:
        shortcut = conv(shortcut, out, 1, block.strides)
        shortcut = norm(shortcut) if block.version == 1 else shortcut
    else:
        shortcut = inputs
    outputs = x + shortcut
    model = keras.Model(inputs, L.ReLU()(outputs) if block.version == 1 else outputs)

    parts = [block._pre_norm]
    for part in [*block._branch, block._shortcut]:
        parts += [part._linear, part._norm_layer] if isinstance(part, ConvBNAct) else [part]
    for ours, theirs in zip([part for part in parts if part], layers, strict=True):
        theirs.set_weights(ours.get_weights())
    return model


def randomize(block):
    rng = np.random.default_rng(1)
    block.set_weights([rng.uniform(0.2, 1.0, size=w.shape) / 3 for w in block.get_weights()])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize(("channels", "strides"), [(8, 1), (8, 2)])
def test_equal_to_the_figures(version, bottleneck, channels, strides):
    filters = 2 if bottleneck else 8
    block = ResidualBNBlock(filters, strides=strides, version=version, bottleneck=bottleneck)
    shape = (7, 9, channels)
    block.build((None, *shape))
    randomize(block)
    model = reference(block, shape)
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    for training in (False, True):
        ours, theirs = block(x, training=training), model(x, training=training)
        np.testing.assert_allclose(N(ours), N(theirs), rtol=1e-4, atol=1e-5)
    assert block.compute_output_shape((4, *shape)) == tuple(ours.shape)
    assert not any(w.name == "bias" for w in block.weights)
    kernels = [w for w in block.weights if w.name == "kernel"]
    assert len(kernels) == 2 + bottleneck + (strides != 1)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "ghost", lambda: GhostBatchNormalization(4)])
def test_zero_gamma_starts_as_the_shortcut_and_learns(version, norm):
    block = ResidualBNBlock(4, version=version, zero_gamma=True, norm=norm)
    x = np.random.default_rng(0).normal(size=(8, 5, 5, 4)).astype("float32")
    expected = np.maximum(x, 0) if version == 1 else x
    np.testing.assert_allclose(N(block(x, training=True)), expected, atol=1e-6)
    model = keras.Sequential([keras.Input((5, 5, 4)), block, L.Flatten(), L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    before = [N(w) for w in block.trainable_weights]
    model.fit(x, np.arange(8.0), epochs=3, verbose=0)
    assert all(np.any(N(w) != b) for w, b in zip(block.trainable_weights, before, strict=True))


def test_stochastic_depth_drops_samples_and_keeps_the_mean():
    block = ResidualBNBlock(4, version=2, stochastic_depth=0.3, seed=1)
    x = np.random.default_rng(0).normal(size=(400, 3, 3, 4)).astype("float32")
    whole = ResidualBNBlock.from_config({**block.get_config(), "stochastic_depth": 0.0})
    block.build(x.shape)
    whole.build(x.shape)
    whole.set_weights(block.get_weights())
    branch = N(whole(x, training=True)) - x
    dropped = N(block(x, training=True)) - x
    kept = np.abs(dropped).max((1, 2, 3)) > 0
    assert 0.62 < kept.mean() < 0.78
    np.testing.assert_allclose(dropped[kept], branch[kept] / 0.7, rtol=1e-3, atol=1e-4)
    # Drawn anew for each batch, from the seed, and not in inference.
    again = ResidualBNBlock.from_config(block.get_config())
    again.build(x.shape)
    again.set_weights(whole.get_weights())
    first = np.abs(N(again(x, training=True)) - x).max((1, 2, 3)) > 0
    second = np.abs(N(again(x, training=True)) - x).max((1, 2, 3)) > 0
    np.testing.assert_array_equal(first, kept)
    assert np.any(second != first)
    whole.set_weights(again.get_weights())
    np.testing.assert_array_equal(N(again(x)), N(whole(x)))


@pytest.mark.parametrize("version", [1, 2])
def test_survives_saving(version, tmp_path):
    block = ResidualBNBlock(
        6,
        3,
        strides=2,
        version=version,
        activation=L.PReLU(),
        norm=lambda: L.GroupNormalization(2),
        stochastic_depth=0.2,
        seed=3,
        kernel_regularizer=keras.regularizers.L2(1e-4),
    )
    model = keras.Sequential([keras.Input((6, 6, 4)), block, L.Flatten(), L.Dense(2)])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(8, 6, 6, 4)).astype("float32")
    model.fit(x, np.zeros((8, 2)), verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert json.dumps(again.get_config()) == json.dumps(model.get_config())
    norms = [m for m in again._flatten_layers() if isinstance(m, L.GroupNormalization)]
    assert len({id(norm) for norm in norms}) == (3 if version == 1 else 2)


def test_each_kernel_has_its_own_values():
    block = ResidualBNBlock(4)
    block.build((None, 5, 5, 4))
    first, second = (layer._linear.get_weights()[0] for layer in block._branch)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("version", [1, 2])
def test_without_a_norm_there_are_biases(version):
    block = ResidualBNBlock(4, strides=2, version=version, norm=None)
    block.build((None, 5, 5, 4))
    assert [w.name for w in block.weights] == ["kernel", "bias"] * 3


@pytest.mark.parametrize("version", [1, 2])
def test_other_ranks_and_mixed_precision(version):
    block = ResidualBNBlock(4, strides=2, version=version, dtype="mixed_float16")
    outputs = block(np.ones((2, 6, 3), "float32"), training=True)
    assert tuple(outputs.shape) == (2, 3, 4)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert {v.dtype for v in block.variables} == {"float32"}
    volume = ResidualBNBlock(2, (1, 3, 3), version=version)
    assert tuple(volume(np.ones((1, 2, 3, 4, 1))).shape) == (1, 2, 3, 4, 2)


@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize("version", [1, 2])
def test_channels_first_is_the_transpose(version):
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 6)).astype("float32")
    first = ResidualBNBlock(6, strides=2, version=version, data_format="channels_first")
    last = ResidualBNBlock(6, strides=2, version=version)
    first.build(x.shape)
    last.build((2, 5, 6, 4))
    last.set_weights(first.get_weights())
    ours = N(first(x, training=True))
    theirs = N(last(x.transpose(0, 2, 3, 1), training=True))
    np.testing.assert_allclose(ours, theirs.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_the_norms_axes_follow_the_data_format():
    block = ResidualBNBlock(6, data_format="channels_first", version=2)
    assert block._make_norm().axis == 1
    assert block.compute_output_shape((2, 4, 5, 9)) == (2, 6, 5, 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResidualBNBlock(0), "filters"),
        (lambda: ResidualBNBlock(4, 0), "kernel_size"),
        (lambda: ResidualBNBlock(4, strides=0), "strides"),
        (lambda: ResidualBNBlock(4, version=3), "Received: version=3"),
        (lambda: ResidualBNBlock(4, norm="layer"), "Received: norm='layer'"),
        (lambda: ResidualBNBlock(4, norm=lambda: 3), "Received: norm=<function"),
        (lambda: ResidualBNBlock(4, momentum=1.0), "Received: momentum=1.0"),
        (lambda: ResidualBNBlock(4, stochastic_depth=1.0), "Received: stochastic_depth=1.0"),
        (lambda: ResidualBNBlock(4, norm=None, zero_gamma=True), "norm=None, zero_gamma=True"),
        (
            lambda: ResidualBNBlock(4, norm=L.BatchNormalization(scale=False), zero_gamma=True),
            "needs a norm with a `gamma`",
        ),
        (lambda: ResidualBNBlock(4, activation="reluu"), "activation"),
        (lambda: ResidualBNBlock(4)(np.ones((2, 4))), "Received: input_shape=.2, 4."),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
