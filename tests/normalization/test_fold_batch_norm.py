import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.normalization import (
    ConvBNAct,
    DenseBNAct,
    ResidualBNBlock,
    SeparableConvBNAct,
    fold_batch_norm,
)
from keras_optkit.normalization.fold_weights import norm_affine

BN = layers.BatchNormalization


def randomize(model, seed=0):
    """Random weights and statistics, of the size that keeps activations in range."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype != "float32":
            continue
        fan_in = max(1, int(np.prod(weight.shape[:-1])))
        value = rng.normal(size=weight.shape) / np.sqrt(fan_in)
        if weight.name in ("gamma", "moving_variance"):
            value = rng.uniform(0.3, 2.0, weight.shape)
        elif weight.name in ("beta", "moving_mean", "bias"):
            value = rng.normal(size=weight.shape)
        weight.assign(value)
    return model


def batch(model, samples=4, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(samples, *t.shape[1:])).astype("float32") for t in model.inputs]


def predict(model, x):
    y = model(x if len(x) > 1 else x[0], training=False)
    return [ops.convert_to_numpy(part) for part in keras.tree.flatten(y)]


def assert_equal(model, folded, tolerance=1e-5):
    x = batch(model)
    for a, b in zip(predict(model, x), predict(folded, x), strict=True):
        assert np.abs(a).max() > 0.1 and a.std() > 0.01
        np.testing.assert_allclose(b, a, atol=tolerance * np.abs(a).max(), rtol=0)


def norms(model):
    return [layer.name for layer in model._flatten_layers() if isinstance(layer, BN)]


def check(model, left=()):
    """Folds, and tests the predictions, which norms are left, and that both say so."""
    randomize(model)
    before = [w.copy() for w in model.get_weights()]
    config, count = repr(model.get_config()), len(norms(model))
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    folded, report = fold_batch_norm(model, return_report=True)
    assert_equal(model, folded)
    assert sorted(norms(folded)) == sorted(left)
    assert sorted(name.split("/")[-1] for name in report.left) == sorted(left)
    assert len(report.left) + len(report.folded) == count
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert repr(model.get_config()) == config
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == nodes
    assert folded.output_names == model.output_names if hasattr(model, "output_names") else True
    return folded, report


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


LINEAR = {
    "dense": ((5,), lambda **k: layers.Dense(4, **k)),
    "dense on a sequence": ((3, 5), lambda **k: layers.Dense(4, **k)),
    "conv 1d": ((9, 4), lambda **k: layers.Conv1D(6, 3, padding="causal", **k)),
    "conv 2d": ((6, 7, 4), lambda **k: layers.Conv2D(6, (3, 2), strides=2, padding="same", **k)),
    "conv 3d": ((4, 5, 3, 2), lambda **k: layers.Conv3D(3, 2, **k)),
    "groups": ((5, 5, 4), lambda **k: layers.Conv2D(6, 3, groups=2, **k)),
    "dilation": ((7, 7, 2), lambda **k: layers.Conv2D(3, 3, dilation_rate=2, **k)),
    "depthwise 1d": ((9, 3), lambda **k: layers.DepthwiseConv1D(3, depth_multiplier=2, **k)),
    "depthwise 2d": ((6, 6, 3), lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k)),
    "separable 1d": ((9, 3), lambda **k: layers.SeparableConv1D(4, 3, depth_multiplier=2, **k)),
    "separable 2d": ((6, 6, 3), lambda **k: layers.SeparableConv2D(4, 3, depth_multiplier=2, **k)),
    "transposed 1d": ((5, 3), lambda **k: layers.Conv1DTranspose(4, 3, strides=2, **k)),
    "transposed 2d": ((5, 4, 3), lambda **k: layers.Conv2DTranspose(4, 3, strides=2, **k)),
    "transposed 3d": ((3, 2, 3, 2), lambda **k: layers.Conv3DTranspose(3, 2, **k)),
}


# The sums are NumPy's on each backend; what may differ there is the layout of a kernel.
ON_TENSORFLOW = pytest.mark.backends("tensorflow")
ON_TENSORFLOW_AND_TORCH = pytest.mark.backends("tensorflow", "torch")
BIAS = [pytest.param(True, id="bias"), pytest.param(False, id="no bias", marks=ON_TENSORFLOW)]


@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("kind", LINEAR)
def test_a_norm_behind_a_linear_layer(kind, bias):
    shape, make = LINEAR[kind]
    folded, _ = check(sequential(shape, make(use_bias=bias, name="linear"), BN(), layers.ReLU()))
    assert type(folded) is keras.Sequential
    assert [layer.name for layer in folded.layers[:1]] == ["linear"]
    assert len(folded.layers) == 2


@pytest.mark.parametrize("bias", BIAS)
@pytest.mark.parametrize("kind", [k for k in LINEAR if k not in ("conv 1d", "conv 2d")])
def test_a_norm_before_a_linear_layer(kind, bias):
    shape, make = LINEAR[kind]
    model = sequential(shape, layers.ReLU(), BN(name="norm"), make(use_bias=bias))
    # Where the kernel overlaps the edge, a shift is not the same everywhere.
    check(model, left=["norm"] if kind.startswith("transposed") else [])


@ON_TENSORFLOW
@pytest.mark.parametrize("kind", LINEAR)
def test_a_norm_before_a_linear_layer_without_a_shift(kind):
    shape, make = LINEAR[kind]
    model = sequential(shape, BN(center=False, name="norm"), make())
    randomize(model)
    model.get_layer("norm").moving_mean.assign(np.zeros(shape[-1]))
    folded = fold_batch_norm(model)
    assert_equal(model, folded)
    assert norms(folded) == []


def test_the_padding_that_a_norm_before_meets():
    same = sequential((6, 6, 2), BN(name="norm"), layers.Conv2D(3, 3, padding="same", name="conv"))
    _, report = check(same, left=["norm"])
    assert "padding of 'conv' puts zeros beside the norm's shift" in report.left["norm"]
    # A kernel of one point meets no edge.
    check(sequential((6, 6, 2), BN(), layers.Conv2D(3, 1, strides=2, padding="same")))
    check(sequential((6, 6, 2), BN(), layers.Conv2DTranspose(3, 1, padding="same")))


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("center", [True, False])
def test_without_scale_or_center(scale, center):
    norm = {"scale": scale, "center": center, "epsilon": 0.1}
    parts = [layers.Conv2D(3, 3), BN(**norm), layers.ReLU(), BN(**norm), layers.Conv2D(2, 2)]
    folded, _ = check(sequential((7, 7, 2), *parts))
    assert len(folded.layers) == 3


# TensorFlow convolves channels_first on a GPU only, torch and JAX anywhere.
@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize(
    "make",
    [layers.Conv2D, layers.SeparableConv2D, layers.Conv2DTranspose],
    ids=lambda m: m.__name__,
)
def test_channels_first(make, before):
    linear = make(4, 3, data_format="channels_first")
    parts = [layers.ReLU(), BN(axis=1), linear] if before else [linear, BN(axis=1)]
    check(
        sequential((3, 6, 6), *parts),
        left=[parts[1].name] if before and make is layers.Conv2DTranspose else [],
    )


def test_a_norm_along_another_axis_stays():
    norm = BN(axis=1, name="norm")
    _, report = check(sequential((6, 6, 2), layers.Conv2D(3, 3, name="conv"), norm), left=["norm"])
    assert "its axis is not the channels of 'conv'" in report.left["norm"]


def test_what_lets_a_scale_and_a_shift_through():
    check(
        sequential(
            (8, 8, 2),
            layers.Conv2D(3, 3),
            layers.Dropout(0.5),
            layers.AveragePooling2D(2, padding="same"),
            layers.UpSampling2D(2, interpolation="bilinear"),
            BN(),
            layers.Activation("linear"),
            BN(),
            layers.ReLU(),
            BN(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        )
    )
    check(sequential((8, 8, 2), layers.Conv2D(3, 3), layers.GlobalAveragePooling2D(), BN()))
    # A maximum is not kept by a negative scale, and zeros are no part of a norm's output.
    for between in (layers.MaxPooling2D(), layers.ZeroPadding2D(), layers.ReLU()):
        _, report = check(
            sequential((8, 8, 2), layers.Conv2D(3, 3), between, BN(name="norm"), layers.ReLU()),
            left=["norm"],
        )
        assert f"'{between.name}' ({type(between).__name__}) is before it" in report.left["norm"]


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_flatten_between_a_norm_and_a_dense(data_format):
    flatten = layers.Flatten(data_format=data_format)
    axis = 1 if data_format == "channels_first" else -1
    check(sequential((4, 3, 2), layers.ReLU(), BN(axis=axis), flatten, layers.Dense(3)))
    check(sequential((4, 3, 2), layers.ReLU(), BN(axis=2), flatten, layers.Dense(3)))


def test_a_norm_between_two_that_have_to_go_first():
    model = sequential((4,), layers.ReLU(), BN(), BN(), layers.Dropout(0.1), BN(), layers.Dense(3))
    check(model)


def test_an_activation_in_the_convolution():
    model = sequential((6, 6, 2), layers.Conv2D(3, 3, activation="relu", name="conv"), BN(name="n"))
    _, report = check(model, left=["n"])
    assert (
        report.left["n"]
        == "'conv' before it has an activation; an output of its model is behind it"
    )


def test_branches():
    x = keras.Input((6, 6, 2))
    conv = layers.Conv2D(2, 3, padding="same", name="conv")(x)
    a = BN(name="a")(conv)
    b = BN(name="b")(layers.Conv2D(2, 3, padding="same")(a))
    c = BN(name="c")(ops.relu(b))
    # All that c goes into can take it.
    d, e = layers.Conv2D(3, 3)(c), layers.Conv2D(3, 3)(layers.Dropout(0.5)(c))
    model = keras.Model(x, [conv, d + e])
    _, report = check(model, left=["a"])
    assert "the output of 'conv' before it is also used elsewhere" in report.left["a"]
    assert len(report.folded["c"]) == 2

    f = BN(name="f")(ops.relu(b))
    model = keras.Model(x, [layers.Conv2D(3, 3)(f), layers.ReLU(name="relu")(f)])
    _, report = check(model, left=["f"])
    assert "'relu' (ReLU) is behind it" in report.left["f"]


def test_what_is_used_beside_the_norm_too():
    x = keras.Input((6, 6, 2))
    conv = layers.Conv2D(2, 3, name="conv")(x)
    model = keras.Model(x, BN(name="norm")(conv) + ops.tanh(conv))
    _, report = check(model, left=["norm"])
    assert "the output of 'conv' before it is also used elsewhere" in report.left["norm"]


def test_an_output_keeps_the_name_of_its_norm():
    x = keras.Input((4,))
    model = keras.Model(x, {"out": BN(name="last")(layers.Dense(3)(x))})
    folded, _ = check(model)
    assert folded.output_names == ["last"]
    assert list(folded.output) == ["out"]


def test_shared_layers():
    conv, norm = layers.Conv2D(2, 3, padding="same", name="conv"), BN(name="norm")
    x, y = keras.Input((6, 6, 2)), keras.Input((6, 6, 2))
    # The same norm behind each call.
    check(keras.Model([x, y], norm(conv(x)) + norm(conv(y))))
    # Twice in a row.
    check(keras.Model(x, norm(conv(norm(conv(x))))))
    # One norm behind two layers.
    check(keras.Model(x, norm(conv(x)) + norm(layers.Conv2D(2, 1)(x))))
    # Another norm behind the second call, or none.
    one, other = BN(name="one"), BN(name="other")
    _, report = check(keras.Model(x, one(conv(x)) + other(conv(2.0 * x))), left=["one", "other"])
    assert "'conv' is shared, and not each of its calls is followed by" in report.left["one"]
    check(keras.Model(x, one(conv(x)) + conv(2.0 * x)), left=["one"])
    # A shared layer behind a norm and elsewhere.
    dense = layers.Dense(3)
    z = keras.Input((3,))
    check(keras.Model(z, dense(BN(name="n")(ops.relu(z))) + dense(z)), left=["n"])


def test_nested_models():
    inner = sequential((4,), layers.Dense(4), BN(name="inner"), layers.ReLU(), BN(name="edge"))
    x = keras.Input((4,))
    y = BN(name="outer")(layers.Dense(4)(inner(inner(x))))
    folded, report = check(keras.Model(x, y), left=["edge"])
    assert f"{inner.name}/inner" in report.folded and f"{inner.name}/edge" in report.left
    assert folded.get_layer(inner.name).layers[0].name == inner.layers[0].name


def test_batch_statistics_are_not_folded():
    x = keras.Input((4,))
    norm = BN(name="norm")
    model = keras.Model(x, norm(layers.Dense(3)(x), training=True))
    _, report = check(model, left=["norm"])
    assert report.left["norm"] == "it is called with `training=True`"
    inner = sequential((4,), layers.Dense(4), BN(name="inner"))
    _, report = check(keras.Model(x, inner(x, training=True)), left=["inner"])


def test_norms_that_are_out_of_reach():
    class Mine(BN):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training, mask)

    class MyDense(layers.Dense):
        pass

    inside = sequential((4,), layers.Dense(4), BN(name="inside"))
    x = keras.Input((3, 4))
    y = layers.TimeDistributed(inside, name="each")(x)
    y = Mine(name="mine")(layers.Dense(4)(y))
    y = BN(name="behind")(MyDense(4, name="own")(y))
    with keras.saving.custom_object_scope({"Mine": Mine, "MyDense": MyDense}):
        _, report = check(keras.Model(x, ops.relu(y)), left=["inside", "mine", "behind"])
    reasons = " ".join(report.left.values())
    assert "inside 'each' (TimeDistributed), whose calls are not part of the graph" in reasons
    assert "what Mine computes in inference is not known" in reasons
    assert "'own' (MyDense) is before it" in reasons


def test_blocks_become_plain_layers(tmp_path):
    model = sequential(
        (8, 8, 2),
        ConvBNAct(4, 3, activation="hard_silu", name="block"),
        ConvBNAct(4, 3, norm=None, name="no_norm"),
        ConvBNAct(4, 3, norm=layers.GroupNormalization(2), name="other"),
        layers.GlobalAveragePooling2D(),
        DenseBNAct(3, activation=None, name="dense"),
    )
    folded, report = check(model)
    assert {len(v) for v in report.folded.values()} == {1}
    assert type(folded.get_layer("block")) is layers.Conv2D
    assert type(folded.get_layer("dense")) is layers.Dense
    assert [type(folded.get_layer(n)) for n in ("no_norm", "other")] == [ConvBNAct, ConvBNAct]
    folded.save(tmp_path / "folded.keras")
    assert_equal(folded, keras.models.load_model(tmp_path / "folded.keras"), 1e-6)


@pytest.mark.parametrize("norm", ["ghost", "sync"])
def test_other_batch_norms_of_this_package(norm):
    block = SeparableConvBNAct(4, 3, norm=norm, activation=layers.PReLU(), name="block")
    folded, _ = check(sequential((8, 8, 2), block, layers.GlobalAveragePooling2D()))
    assert [layer.name for layer in folded.layers[:2]] == ["block_conv", "block"]


@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("version", [1, 2])
def test_residual_blocks_become_plain_layers(version, bottleneck, tmp_path):
    arguments = {"version": version, "bottleneck": bottleneck, "stochastic_depth": 0.5}
    model = sequential(
        (6, 6, 4),
        ResidualBNBlock(4, strides=2, activation="silu", name="one", **arguments),
        ResidualBNBlock(4, activation=layers.PReLU(), name="two", **arguments),
    )
    left = ["one_pre_norm", "two_pre_norm"] if version == 2 else []
    randomize(model)
    folded, report = fold_batch_norm(model, return_report=True)
    assert_equal(model, folded)
    assert sorted(norms(folded)) == left and len(report.left) == len(left)
    assert folded.output_names == ["two"]
    assert not {type(layer) for layer in folded.layers} & {ResidualBNBlock, ConvBNAct}
    folded.save(tmp_path / "folded.keras")
    assert_equal(folded, keras.models.load_model(tmp_path / "folded.keras"), 1e-6)


def test_a_residual_block_with_another_norm_stays():
    model = sequential((6, 6, 4), ResidualBNBlock(4, norm=layers.LayerNormalization), BN(name="n"))
    check(model, left=["n"])


def test_mixed_precision():
    policy = keras.DTypePolicy("mixed_bfloat16")
    model = sequential((6, 6, 2), layers.Conv2D(3, 3, dtype=policy), BN(dtype=policy))
    randomize(model)
    folded = fold_batch_norm(model)
    x = batch(model)
    a, b = predict(model, x)[0].astype("float32"), predict(folded, x)[0].astype("float32")
    np.testing.assert_allclose(a, b, atol=0.05 * np.abs(a).max())
    assert folded.layers[0].dtype_policy.name == "mixed_bfloat16"
    assert folded.layers[0].kernel.dtype == "float32"


def test_a_trained_model_is_left_as_it_is(toy):
    model = sequential((4,), layers.Dense(8), BN(), layers.ReLU(), layers.Dense(3))
    model.layers[0].trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*toy, verbose=0)
    optimizer = model.optimizer
    variables = [ops.convert_to_numpy(v) for v in optimizer.variables]
    folded = fold_batch_norm(model)
    assert model.optimizer is optimizer and not folded.compiled
    for a, b in zip(variables, optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, ops.convert_to_numpy(b))
    assert [layer.trainable for layer in folded.layers] == [False, True, True]
    model.fit(*toy, verbose=0)


def test_the_report_prints_and_converts():
    model = sequential((4,), layers.Dense(3), BN(name="a"), layers.ReLU(), BN(name="b"))
    _, report = fold_batch_norm(model, return_report=True)
    dense, relu = model.layers[0].name, model.layers[2].name
    reason = f"'{relu}' (ReLU) is before it; an output of its model is behind it"
    assert report.to_dict() == {"folded": {"a": [dense]}, "left": {"b": reason}}
    assert str(report) == f"1 of 2 BatchNorm layers are folded, 1 left\n- b: {reason}"


def test_bad_input():
    with pytest.raises(ValueError, match="no BatchNormalization layer to fold.*Received"):
        fold_batch_norm(sequential((4,), layers.Dense(3)))
    with pytest.raises(ValueError, match="'raw' is not built"):
        fold_batch_norm(keras.Sequential([layers.Dense(3), BN()], name="raw"))
    with pytest.raises(ValueError, match="`model` must be a `keras.Model`"):
        fold_batch_norm(BN())


def test_the_affine_form_of_a_norm():
    rng = np.random.default_rng(0)
    gamma, beta, mean = rng.normal(size=(3, 5))
    variance, x = rng.uniform(0.1, 2, 5), rng.normal(size=(7, 5))
    scale, shift = norm_affine(gamma, beta, mean, variance, 1e-3)
    expected = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
    np.testing.assert_allclose(scale * x + shift, expected, rtol=1e-12)


APPLICATIONS = {
    # The smallest size that the network takes, and how many norms are left: those before a ReLU
    # that follow a sum, a concatenation or a pooling.
    "ResNet50": (32, 0),
    "ResNet50V2": (32, 17),
    "MobileNetV2": (32, 0),
    "MobileNetV3Small": (32, 0),
    "EfficientNetB0": (32, 0),
    "DenseNet121": (32, 62),
    "Xception": (71, 0),
}
# One of them where the others would take too long, and none on JAX, which compiles for a minute.
ON_TORCH = ("MobileNetV3Small",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=ON_TENSORFLOW_AND_TORCH if name in ON_TORCH else ON_TENSORFLOW)
        for name in APPLICATIONS
    ],
)
def test_networks_of_keras_applications(name):
    size, left = APPLICATIONS[name]
    make = getattr(keras.applications, name)
    model = make(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (16, size, size, 3)).astype("float32")
    found = [layer for layer in model._flatten_layers() if isinstance(layer, BN)]
    # Statistics near those of the data, so that no activation vanishes or explodes.
    for norm in found:
        momentum, norm.momentum = norm.momentum, 0.0
        for variable in (norm.gamma, norm.beta):
            if variable is not None:
                variable.assign(variable + rng.normal(0, 0.2, variable.shape))
    model(x, training=True)
    for norm in found:
        norm.momentum = momentum
        variance = ops.convert_to_numpy(norm.moving_variance)
        noise = rng.normal(0, 0.2, variance.shape) * np.sqrt(variance)
        norm.moving_mean.assign(norm.moving_mean + noise)
        variance = variance * rng.uniform(0.7, 1.4, variance.shape)
        # A few images at this size give some channels hardly any variance.
        norm.moving_variance.assign(variance + 0.1 * variance.mean())

    folded, report = fold_batch_norm(model, return_report=True)

    assert (len(report.folded), len(report.left)) == (len(found) - left, left)
    assert len(norms(folded)) == left
    a, b = (ops.convert_to_numpy(m(x, training=False)) for m in (model, folded))
    # The outputs depend on the image.
    assert 0.1 < a.std(axis=0).max() / np.abs(a).max()
    assert np.abs(a - b).max() / np.abs(a).max() < 1e-4
