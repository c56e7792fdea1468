import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_optkit.tfmot as bridge

BACKEND = keras.backend.backend()
SHAPES = {
    "vector": (6,),
    "sequence": (5, 6),
    "image": (8, 8, 4),
    "volume": (4, 4, 4, 3),
}


def randomise(model):
    """Weights under which no layer is the identity, or symmetric."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            variable.assign(rng.uniform(0.1, 0.9, variable.shape))
    for layer in model._flatten_layers():
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def outputs(model, x, **kwargs):
    return [
        np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(model(x, **kwargs))
    ]


def tf_outputs(model, x):
    return [y.numpy() for y in keras.tree.flatten(model(x, training=False))]


def check_both_ways(model, x):
    """The model, its tf_keras counterpart, and that one's Keras 3 counterpart agree."""
    expected = outputs(model, x, training=False)
    old = bridge.to_tf_keras(model)
    new = bridge.from_tf_keras(old)
    for found in (tf_outputs(old, x), outputs(new, x, training=False)):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return old, new


def data(shape, dtype="float32"):
    rng = np.random.default_rng(1)
    if dtype == "float32":
        return rng.normal(size=(3, *shape)).astype(dtype)
    return rng.integers(0, 7, (3, *shape)).astype(dtype)


LAYERS = {
    "vector": [
        lambda: layers.Dense(3, activation="hard_sigmoid", kernel_regularizer="l2"),
        lambda: layers.PReLU(),
        lambda: layers.LeakyReLU(0.1),
        lambda: layers.ELU(0.5),
        lambda: layers.ReLU(0.7, negative_slope=0.1, threshold=0.2),
        lambda: layers.Softmax(),
        lambda: layers.Activation(layers.ReLU(0.5)),
        lambda: layers.RepeatVector(3),
        lambda: layers.Dropout(0.5, seed=3),
        lambda: layers.GaussianNoise(0.1),
        lambda: layers.ActivityRegularization(0.1),
        lambda: layers.Identity(),
        lambda: layers.Normalization(mean=[1.0] * 6, variance=[2.0] * 6),
    ],
    "sequence": [
        lambda: layers.Conv1D(3, 2, dilation_rate=2, padding="causal"),
        lambda: layers.Conv1DTranspose(3, 2),
        lambda: layers.SeparableConv1D(3, 2),
        lambda: layers.DepthwiseConv1D(2),
        lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, 3), bias_axes="d"),
        lambda: layers.LayerNormalization(),
        lambda: layers.LSTM(3, recurrent_activation="hard_sigmoid"),
        lambda: layers.GRU(3, return_sequences=True),
        lambda: layers.GRU(3, reset_after=False, go_backwards=True),
        lambda: layers.SimpleRNN(3),
        lambda: layers.Bidirectional(layers.LSTM(3), merge_mode="sum"),
        lambda: layers.TimeDistributed(layers.Dense(3)),
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
        lambda: layers.Masking(),
        lambda: layers.Permute((2, 1)),
        lambda: layers.UpSampling1D(2),
        lambda: layers.ZeroPadding1D(1),
        lambda: layers.GlobalMaxPooling1D(),
    ],
    "image": [
        lambda: layers.Conv2D(3, 2, padding="same", strides=2, activation="hard_silu"),
        lambda: layers.Conv2D(4, 2, groups=2, kernel_constraint="max_norm"),
        lambda: layers.Conv2DTranspose(3, 2, strides=2),
        lambda: layers.SeparableConv2D(3, 2, depth_multiplier=2),
        lambda: layers.DepthwiseConv2D(2),
        lambda: layers.BatchNormalization(epsilon=0.01),
        lambda: layers.BatchNormalization(axis=1, scale=False, center=False),
        lambda: layers.GroupNormalization(2),
        lambda: layers.UnitNormalization(),
        lambda: layers.Normalization(),
        lambda: layers.Rescaling([1.0, 2, 3, 4], offset=1.0),
        lambda: layers.Resizing(4, 4),
        lambda: layers.CenterCrop(4, 4),
        lambda: layers.UpSampling2D(2, interpolation="bilinear"),
        # Keras on torch counts the padding in, the others and tf_keras do not.
        lambda: layers.AveragePooling2D(3, padding="same" if BACKEND != "torch" else "valid"),
        lambda: layers.GlobalAveragePooling2D(keepdims=True),
        lambda: layers.ZeroPadding2D(((1, 0), (0, 1))),
        lambda: layers.Cropping2D(1),
        lambda: layers.Reshape((-1, 4)),
        lambda: layers.SpatialDropout2D(0.5),
        lambda: layers.RandomFlip(),
        lambda: layers.RandomRotation(0.1),
    ],
    "volume": [
        lambda: layers.Conv3D(2, 2),
        lambda: layers.Conv3DTranspose(2, 2),
        lambda: layers.MaxPooling3D(2),
    ],
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind):
    x = keras.Input(SHAPES[kind])
    model = keras.Model(x, [make()(x) for make in LAYERS[kind]])
    randomise(model)
    check_both_ways(model, data(SHAPES[kind]))


def test_activations():
    names = "elu exponential gelu linear mish relu selu sigmoid softmax softplus softsign tanh silu"
    own = "relu6 hard_sigmoid hard_silu hard_tanh leaky_relu log_softmax log_sigmoid celu glu"
    names = [*names.split(), *own.split(), "tanh_shrink", "squareplus"]
    x = keras.Input((6,))
    model = keras.Model(x, [layers.Activation(name)(x) for name in names])
    # On both sides of every bend.
    check_both_ways(model, np.linspace(-8, 8, 30).reshape(5, 6).astype("float32"))


def test_operations():
    a, b = keras.Input((5, 6), name="a"), keras.Input((5, 6), name="b")
    results = [
        a + b,
        1 - a,
        ops.mean(a * 2.5 + b, axis=1, keepdims=True) / 3,
        a[:, 1:, 0],
        a[..., None] * 2,
        ops.concatenate([a, b], axis=1),
        ops.stack([a, b], axis=1),
        ops.matmul(a, ops.transpose(b, (0, 2, 1))),
        ops.squeeze(ops.expand_dims(a, 1), 1),
        ops.reshape(a, (-1, 30)),
        ops.abs(a) ** 0.5 + a**2,
        ops.max(a, axis=(1, 2)) + ops.min(b),
        ops.hard_silu(a) + ops.hard_sigmoid(b) + ops.relu6(a) * ops.silu(b),
        ops.gelu(a) + ops.softmax(a) + ops.leaky_relu(b) + ops.log_softmax(b),
        ops.clip(a, -0.5, 0.5) * ops.maximum(b, 0.1) * np.arange(6, dtype="float32"),
        ops.cast(a > 0, "float32") - ops.floor_divide(b, 0.5) - (-a),
        ops.relu(ops.multiply(a, b)) - ops.sigmoid(a) * ops.tanh(b),
        a * ops.mean(b, axis=(1, 2))[:, None, None],
    ]
    model = keras.Model([a, b], results)
    old, _ = check_both_ways(model, [data((5, 6)), data((5, 6)) + 1])
    # TF-MOT copies models by their layers, and stumbles over bare calls of TensorFlow.
    assert not any("OpLambda" in type(layer).__name__ for layer in old.layers)


def test_merging_layers_and_attention():
    a, b = keras.Input((5, 6), name="a"), keras.Input((5, 6), name="b")
    kinds = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
    results = [getattr(layers, kind)()([a, b]) for kind in kinds]
    results += [layers.Dot(2)([a, b]), layers.Attention()([a, b])]
    results += [layers.MultiHeadAttention(2, 3)(a, b, use_causal_mask=True)]
    model = keras.Model([a, b], results)
    randomise(model)
    check_both_ways(model, [data((5, 6)), data((5, 6)) + 1])


def test_embedding_and_its_mask():
    x = keras.Input((5,), dtype="int32")
    y = layers.LSTM(3)(layers.Embedding(7, 3, mask_zero=True)(x))
    model = keras.Model(x, y)
    randomise(model)
    check_both_ways(model, data((5,), "int32"))


def test_nested_shared_and_dictionaries():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(4, activation="relu", name="shared")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="inside")], name="inner")
    results = {"sum": inner(shared(a)) + inner(b), "other": shared(shared(b))}
    model = keras.Model({"b": b, "a": a}, results, name="outer")
    randomise(model)
    x = {"a": data((4,)), "b": data((4,)) + 1}
    old, new = check_both_ways(model, x)
    assert old.count_params() == new.count_params() == model.count_params()
    assert set(old(x)) == set(new(x)) == {"sum", "other"}
    assert old.get_layer("inner").get_layer("inside") is not None
    assert new.get_layer("inner").get_layer("inside") is not None


def test_names_and_flags():
    model = keras.Sequential(
        [
            keras.Input((4,), name="the input"),
            layers.Dense(3, name="with space", trainable=False),
            layers.BatchNormalization(name="norm"),
        ],
        name="net",
    )
    old, new = check_both_ways(model, data((4,)))
    assert [layer.name for layer in old.layers] == ["with_space", "norm"]
    assert [layer.trainable for layer in old.layers] == [False, True]
    assert [layer.trainable for layer in new.layers] == [False, True]
    assert isinstance(new, keras.Sequential) and old.name == new.name == "net"


def test_training_uses_batch_statistics():
    import tf_keras

    x = keras.Input((4,))
    model = keras.Model(x, layers.BatchNormalization()(x))
    old = bridge.to_tf_keras(model)
    batch = data((4,)) + 5
    assert isinstance(old, tf_keras.Model)
    np.testing.assert_allclose(old(batch, training=True).numpy().mean(0), 0, atol=1e-4)
    assert old(batch, training=False).numpy().mean() > 3


def test_a_half_precision_model():
    policy = keras.dtype_policies.DTypePolicy("mixed_bfloat16")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(3, dtype=policy, name="half")(x))
    old = bridge.to_tf_keras(model)
    assert old.get_layer("half").dtype_policy.name == "mixed_bfloat16"
    assert old.get_layer("half").kernel.dtype == "float32"


def test_the_model_is_not_shared(trained, unchanged, images):
    old = bridge.to_tf_keras(trained)
    old.set_weights([weight * 0 for weight in old.get_weights()])
    assert np.abs(trained.predict(images[0][:4], verbose=0)).max() > 0.1


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize(
    "name, size",
    [
        ("MobileNetV2", 32),
        ("MobileNetV3Small", 32),
        ("ResNet50", 32),
        ("EfficientNetB0", 32),
        ("DenseNet121", 32),
        ("Xception", 71),
    ],
)
def test_applications(name, size):
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        # Fresh ones would hide a norm whose statistics are lost or mixed up.
        if variable.name in ("moving_mean", "beta"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.name in ("moving_variance", "gamma"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    x = rng.uniform(0, 255, (2, size, size, 3)).astype("float32")
    (expected,) = outputs(model, x, training=False)
    assert expected.std() > 1e-3
    (found,) = tf_outputs(bridge.to_tf_keras(model), x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()), rtol=0)


@keras.saving.register_keras_serializable("tests")
class Own(layers.Layer):
    def call(self, x):
        return x * 2


def test_everything_without_a_counterpart_is_listed():
    x = keras.Input((4,), name="x")
    y = Own(name="mine")(x)
    y = layers.Lambda(lambda x: x, name="written")(y)
    y = layers.RMSNormalization(name="rms")(y)
    y = layers.Dense(3, activation="sparsemax", name="odd")(y)
    y = ops.cumsum(y, axis=1)
    model = keras.Model(x, y, name="rich")
    with pytest.raises(ValueError) as caught:
        bridge.to_tf_keras(model)
    message = str(caught.value)
    assert "The model holds 5 things without a counterpart in tf_keras" in message
    for part in (
        "mine (Own): it is no layer of Keras' own",
        "written (Lambda): its function is written in Python",
        "rms (RMSNormalization): tf_keras has no layers.RMSNormalization",
        "odd (Dense): the activation 'sparsemax' has none",
        "(Cumsum): this operation is not known",
        "Received: model=",
    ):
        assert part in message, message


def test_a_constant_among_the_tensors_is_not_dropped():
    x = keras.Input((4,), batch_size=2)
    y = ops.concatenate([x, np.ones((2, 3), "float32")], axis=1)
    with pytest.raises(ValueError, match="takes a tensor inside of another argument"):
        bridge.to_tf_keras(keras.Model(x, y))


def test_a_setting_without_a_counterpart():
    x = keras.Input((4,))
    model = keras.Model(x, layers.LayerNormalization(name="norm")(x))
    quantized = layers.Dense(3, name="int8")
    model = keras.Model(x, quantized(model(x)))
    quantized.quantize("int8")
    with pytest.raises(ValueError, match=r"int8 \(Dense\): .*[Qq]uantiz"):
        bridge.to_tf_keras(model)


def test_models_that_are_no_graphs():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="written in Python .*Received: model="):
        bridge.to_tf_keras(Subclassed())
    with pytest.raises(ValueError, match="is not built"):
        bridge.to_tf_keras(keras.Sequential([layers.Dense(3)]))
    with pytest.raises(ValueError, match=r"must be a `keras\.Model`"):
        bridge.to_tf_keras("model.h5")
