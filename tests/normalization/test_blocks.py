"""The blocks of three layers against the same Keras layers, one after the other."""

import keras
import numpy as np
import pytest

from keras_optkit.normalization import (
    ConvBNAct,
    DenseBNAct,
    GhostBatchNormalization,
    SeparableConvBNAct,
    SyncBatchNormalization,
)

L = keras.layers


def reference(block, linear, norm, inputs, training):
    """Copies the block's weights into plain layers and calls these."""
    linear.build(inputs.shape)
    linear.set_weights(block.get_weights()[:-4])
    outputs = linear(inputs)
    norm.build(outputs.shape)
    norm.set_weights(block.get_weights()[-4:])
    return keras.activations.relu(norm(outputs, training=training))


CASES = [
    (lambda: DenseBNAct(6), lambda: L.Dense(6, use_bias=False), (5, 7)),
    (lambda: ConvBNAct(6, 3), lambda: L.Conv2D(6, 3, use_bias=False), (2, 5, 9, 4)),
    (
        lambda: ConvBNAct(6, 3, strides=2, padding="same", groups=2),
        lambda: L.Conv2D(6, 3, strides=2, padding="same", groups=2, use_bias=False),
        (2, 5, 9, 4),
    ),
    (
        lambda: ConvBNAct(6, 2, dilation_rate=2),
        lambda: L.Conv1D(6, 2, dilation_rate=2, use_bias=False),
        (2, 9, 4),
    ),
    (
        lambda: ConvBNAct(3, (1, 2, 2)),
        lambda: L.Conv3D(3, (1, 2, 2), use_bias=False),
        (2, 3, 4, 5, 2),
    ),
    (
        lambda: SeparableConvBNAct(6, 3, strides=2, padding="same", depth_multiplier=2),
        lambda: L.SeparableConv2D(
            6, 3, strides=2, padding="same", depth_multiplier=2, use_bias=False
        ),
        (2, 5, 9, 4),
    ),
    (
        lambda: SeparableConvBNAct(6, (3,), dilation_rate=2),
        lambda: L.SeparableConv1D(6, 3, dilation_rate=2, use_bias=False),
        (2, 9, 4),
    ),
]


@pytest.mark.parametrize(("make", "make_linear", "shape"), CASES)
@pytest.mark.parametrize("training", [False, True])
def test_equal_to_the_three_layers(make, make_linear, shape, training):
    inputs = np.random.default_rng(0).normal(size=shape).astype("float32")
    block = make()
    block.build(shape)
    block.set_weights([np.random.default_rng(1).random(w.shape) for w in block.get_weights()])
    expected = reference(block, make_linear(), L.BatchNormalization(), inputs, training)
    outputs = block(inputs, training=training)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(outputs),
        keras.ops.convert_to_numpy(expected),
        rtol=1e-4,
        atol=1e-5,
    )
    assert block.compute_output_shape(shape) == tuple(outputs.shape)


@pytest.mark.parametrize(("make", "_", "shape"), CASES)
def test_no_bias_under_the_norm_and_one_without_it(make, _, shape):
    block = make()
    block.build(shape)
    kernels = [v.name for v in block.variables if "kernel" in v.name]
    assert [v.name for v in block.trainable_variables] == [*kernels, "gamma", "beta"]
    config = {**block.get_config(), "norm": None}
    bare = type(block).from_config(config)
    bare.build(shape)
    assert [v.name for v in bare.variables] == [*kernels, "bias"]


@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize("block", [ConvBNAct, SeparableConvBNAct])
def test_channels_first_is_the_transpose(block):
    inputs = np.random.default_rng(0).normal(size=(2, 4, 5, 9)).astype("float32")
    first, last = block(6, 3, data_format="channels_first"), block(6, 3)
    first.build(inputs.shape)
    last.build((2, 5, 9, 4))
    last.set_weights(first.get_weights())
    ours = keras.ops.convert_to_numpy(first(inputs, training=True))
    expected = keras.ops.convert_to_numpy(last(inputs.transpose(0, 2, 3, 1), training=True))
    np.testing.assert_allclose(ours, expected.transpose(0, 3, 1, 2), rtol=1e-4, atol=1e-5)


def test_the_norms_axis_follows_the_data_format():
    block = ConvBNAct(6, 3, data_format="channels_first")
    assert block._channel_axis == 1
    assert block.compute_output_shape((2, 4, 5, 9)) == (2, 6, 3, 7)


def test_statistics_move_in_training_only():
    inputs = np.random.default_rng(0).normal(3.0, size=(64, 4)).astype("float32")
    block = DenseBNAct(5)
    block(inputs, training=False)
    before = block.get_weights()
    block(inputs, training=False)
    np.testing.assert_array_equal(before[3], block.get_weights()[3])
    block(inputs, training=True)
    assert not np.array_equal(before[3], block.get_weights()[3])


def test_momentum():
    inputs = np.random.default_rng(0).normal(3.0, size=(64, 4)).astype("float32")
    block = DenseBNAct.from_config(DenseBNAct(5, momentum=0.5).get_config())
    block(inputs, training=True)
    # Half of the way from 0 to the mean of the batch.
    mean = (inputs @ block.get_weights()[0]).mean(axis=0)
    np.testing.assert_allclose(block.get_weights()[3], mean / 2, rtol=1e-4)


def test_another_norm_and_activation(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            ConvBNAct(8, 3, norm=L.GroupNormalization(4), activation=L.LeakyReLU(0.3)),
            L.Flatten(),
            DenseBNAct(3, norm=L.LayerNormalization(), activation=None),
        ]
    )
    inputs = np.random.default_rng(0).normal(size=(2, 6, 6, 4)).astype("float32")
    expected = model.predict(inputs, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.predict(inputs, verbose=0), expected, rtol=1e-6)
    assert isinstance(again.layers[0]._norm_layer, L.GroupNormalization)


@pytest.mark.parametrize(
    ("norm", "layer"),
    [
        ("ghost", GhostBatchNormalization),
        ("sync", SyncBatchNormalization),
        (lambda: GhostBatchNormalization(4), GhostBatchNormalization),
        (L.LayerNormalization, L.LayerNormalization),
    ],
)
def test_norm_by_name_and_by_factory(norm, layer):
    block = SeparableConvBNAct(4, 3, norm=norm, momentum=0.5)
    block = SeparableConvBNAct.from_config(block.get_config())
    block.build((None, 5, 5, 2))
    assert type(block._norm_layer) is layer
    if isinstance(norm, str):
        assert block._norm_layer.momentum == 0.5
    assert not any("bias" in w.name for w in block.weights)


@pytest.mark.parametrize("norm", ["batch", "ghost", "sync"])
@pytest.mark.parametrize("make", [ConvBNAct, SeparableConvBNAct])
def test_the_norms_axis(norm, make):
    block = make(4, 3, data_format="channels_first", norm=norm)
    assert block._channel_axis == 1
    last = make(4, 3, norm=norm)
    last.build((None, 5, 5, 2))
    assert last._norm_layer.axis == -1


def test_an_activation_with_weights_survives_saving(tmp_path):
    block = ConvBNAct(4, 3, activation=L.PReLU(alpha_initializer="ones"))
    model = keras.Sequential([keras.Input((5, 5, 2)), block])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 2)).astype("float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))
    assert again.predict(x, verbose=0).min() < 0


def test_mixed_precision():
    block = ConvBNAct(4, 3, dtype="mixed_float16")
    outputs = block(np.ones((2, 5, 5, 1), "float32"), training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    assert {v.dtype for v in block.variables} == {"float32"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConvBNAct(0, 3), "filters"),
        (lambda: ConvBNAct(8, 0), "kernel_size"),
        (lambda: ConvBNAct(8, 3, padding="full"), "padding"),
        (lambda: ConvBNAct(7, 3, groups=2), "groups"),
        (lambda: ConvBNAct(8, 3, norm="layer"), "Received: norm='layer'"),
        (lambda: ConvBNAct(8, 3, momentum=1.0), "Received: momentum=1.0"),
        (lambda: ConvBNAct(8, 3, norm=lambda: "layer"), "Received: norm=<function"),
        (lambda: SeparableConvBNAct(0, 3), "filters"),
        (lambda: SeparableConvBNAct(4, (3, 3, 3)), r"rank 3 \(sequences\) or 4 \(images\). Rec"),
        (lambda: DenseBNAct(0), "units"),
        (lambda: DenseBNAct(3, activation="reluu"), "activation"),
        (lambda: ConvBNAct(8, 3)(np.ones((2, 4))), "Received: input_shape=.2, 4."),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
