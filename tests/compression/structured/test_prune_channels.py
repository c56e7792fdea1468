import keras
import numpy as np
import pytest
from channel_reference import randomize, set_to_zero
from keras import layers

from keras_optkit.compression.structured.prune_channels import prune_channels
from keras_optkit.core.graph import rebuild
from keras_optkit.normalization import ConvBNAct, DenseBNAct, ResidualBNBlock, SeparableConvBNAct


def plain():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 3, name="first")(x)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    y = layers.Dropout(0.3)(layers.MaxPooling2D()(y))
    y = layers.Conv2D(16, 3, activation="relu", name="second")(y)
    y = layers.Dense(20, activation="relu", name="hidden")(layers.Flatten()(y))
    return keras.Model(x, layers.Dense(5, name="head")(y))


def residual():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 3, padding="same", activation="relu")(x)
    for _ in range(2):
        z = layers.Conv2D(20, 1, activation="relu")(y)
        z = layers.BatchNormalization()(z)
        z = layers.Conv2D(12, 3, padding="same")(z)
        y = layers.Add()([y, z])
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))


def dense_block():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(3):
        z = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Concatenate()([y, layers.Conv2D(6, 3, padding="same")(z)])
    y = layers.GlobalMaxPooling2D()(layers.ReLU()(y))
    return keras.Model(x, layers.Dense(5)(y))


def inverted():
    """Depthwise convolutions, and squeeze-and-excite as layers and as operations."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 1, use_bias=False)(x)
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(y)
    s = layers.GlobalAveragePooling2D()(y)
    s = layers.Reshape((1, 1, 16))(s)
    s = layers.Conv2D(4, 1, activation="relu")(s)
    s = layers.Conv2D(16, 1)(s)
    s = layers.ReLU(6.0)(s + 3.0) * (1.0 / 6.0)
    y = layers.Multiply()([y, s])
    y = layers.ZeroPadding2D(1)(layers.UpSampling2D()(y))
    y = layers.SeparableConv2D(12, 3, depth_multiplier=2, activation="silu")(y)
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D(keepdims=True)(y)))


def grouped():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 1, activation="relu")(x)
    y = layers.Conv2D(18, 3, groups=3, activation="relu")(y)
    y = layers.Conv2D(18, 3, groups=18)(y)
    y = layers.Conv2DTranspose(10, 3, strides=2, activation="relu")(y)
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))


def shared_and_nested():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    tower = keras.Sequential(
        [keras.Input((6,)), layers.Dense(16, "relu"), layers.Dense(12, "relu")], name="tower"
    )
    joint = layers.Dense(14, "relu", name="joint")
    p, q = joint(tower(a)), joint(tower(b))
    y = layers.Concatenate()([p, q, layers.Subtract()([p, q])])
    outputs = {"y": layers.Dense(5, name="y")(y), "z": layers.Dense(2, name="z")(p)}
    return keras.Model({"a": a, "b": b}, outputs)


def nested_behind_channels():
    """A model within one, called twice, that takes channels which may leave."""
    inner = keras.Input((8, 8, 10))
    z = layers.Conv2D(12, 3, padding="same", activation="relu", name="inner")(inner)
    tail = keras.Model(inner, layers.Concatenate()([inner, layers.MaxPooling2D(1)(z)]))
    x = keras.Input((8, 8, 3))
    a = layers.Conv2D(10, 1, activation="relu")(x)
    b = layers.Conv2D(10, 3, padding="same", activation="relu")(x)
    y = layers.Add()([tail(a), tail(b)])
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))


def blocks():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            ConvBNAct(12, 3),
            SeparableConvBNAct(16, 3),
            layers.GlobalAveragePooling2D(),
            DenseBNAct(12),
            layers.Dense(5),
        ]
    )


def residual_blocks():
    """Blocks of both versions, with and without a shortcut of their own, one called twice."""
    x = keras.Input((8, 8, 3))
    y = ConvBNAct(12, 3, padding="same", norm=layers.BatchNormalization())(x)
    y = ResidualBNBlock(12, name="plain")(y)
    y = ResidualBNBlock(16, strides=2, stochastic_depth=0.2, name="wider")(y)
    again = ResidualBNBlock(4, version=2, bottleneck=True, name="again")
    y = again(again(y))
    y = ResidualBNBlock(20, version=2, activation="silu", norm=None, name="normless")(y)
    return keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))


def sequence():
    x = keras.Input((10, 4))
    y = layers.Conv1D(8, 3, activation="relu")(x)
    y = layers.Dense(12, "relu")(layers.AveragePooling1D(2)(y))
    y = layers.Permute((2, 1))(y)
    return keras.Model(x, layers.Dense(5)(layers.Flatten()(y)))


MODELS = [
    plain,
    residual,
    dense_block,
    inverted,
    grouped,
    shared_and_nested,
    nested_behind_channels,
    blocks,
    residual_blocks,
    sequence,
]


if keras.backend.backend() == "jax":
    # What is followed does not depend on the backend, and JAX compiles each of them for seconds.
    MODELS = [plain, shared_and_nested, blocks]


def batch(model, samples=6, seed=1):
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(samples, *t.shape[1:])).astype("float32") for t in model.inputs]
    names = [tensor.name for tensor in model.inputs]
    return dict(zip(names, x, strict=True)) if len(x) > 1 else x[0]


def assert_equal(small, big, x):
    got, expected = small.predict(x, verbose=0), big.predict(x, verbose=0)
    for a, b in zip(keras.tree.flatten(got), keras.tree.flatten(expected), strict=True):
        assert np.ptp(b, axis=0).max() > 0.03 * np.abs(b).max()  # It depends on the input.
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize("make", MODELS)
def test_the_smaller_model_is_the_old_one_with_channels_of_zero(make):
    model = make()
    x = batch(model)
    randomize(model, x)
    before = [v.copy() for v in model.get_weights()]
    small, report = prune_channels(model, 0.5, criterion="random", seed=3, return_report=True)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert report.parameters == (model.count_params(), small.count_params())
    assert 0.25 < small.count_params() / model.count_params() <= 0.5
    assert report.whole == {}
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert type(small) is type(model)
    set_to_zero(model, report.stayed)
    assert_equal(small, model, x)


@pytest.mark.backends("tensorflow")
def test_a_network_of_the_field():
    model = keras.applications.MobileNetV3Small(
        weights=None, input_shape=(32, 32, 3), classes=7, classifier_activation=None
    )
    x = batch(model)
    randomize(model, x)
    small, report = prune_channels(model, 0.5, return_report=True)
    assert 0.6 < np.median([after / before for before, after in report.widths.values()]) < 0.8
    set_to_zero(model, report.stayed)
    assert_equal(small, model, x)


def test_shifts_and_statistics_of_norms_go_with_their_channels():
    model = plain()
    rng = np.random.default_rng(0)
    norm = model.layers[2]
    norm.set_weights([rng.uniform(0.5, 1.5, 12) for _ in range(4)])
    small, report = prune_channels(model, 0.5, return_report=True)
    stayed = report.stayed["first"]
    assert 1 < len(stayed) < 12
    for old, new in zip(norm.get_weights(), small.layers[2].get_weights(), strict=True):
        np.testing.assert_array_equal(new, old[stayed])


def test_channels_that_are_added_leave_together():
    model = residual()
    _, report = prune_channels(model, 0.5, return_report=True)
    convolutions = [name for name, widths in report.widths.items() if widths[0] == 12]
    assert len(convolutions) == 3
    assert len({tuple(report.stayed[name]) for name in convolutions}) == 1


@pytest.mark.parametrize("allocation", ["uniform", "global"])
@pytest.mark.parametrize("of", ["parameters", "flops"])
@pytest.mark.parametrize("target", [0.3, 0.8])
def test_the_target_is_reached_and_not_by_much(allocation, of, target):
    model = residual()
    arguments = {"of": of, "allocation": allocation, "return_report": True}
    small, report = prune_channels(model, target, **arguments)
    before, after = getattr(report, of)
    assert 0.7 * target < after / before <= target
    assert small.count_params() == report.parameters[1]


def test_groups_of_one_size_do_not_all_lose_a_channel_at_once():
    x = y = keras.Input((8,))
    for _ in range(12):
        y = layers.Dense(8, "relu")(y)
    model = keras.Model(x, layers.Dense(3)(y))
    _, report = prune_channels(model, 0.5, return_report=True)
    before, after = report.parameters
    assert 0.47 < after / before <= 0.5
    widths = [after for before, after in report.widths.values() if before == 8]
    assert set(widths) == {5, 6}


def test_a_share_of_channels():
    model = plain()
    _, report = prune_channels(model, 0.5, of="channels", return_report=True)
    after = {name: pair[1] for name, pair in report.widths.items()}
    assert after == {"first": 6, "second": 8, "hidden": 10, "head": 5}


def known_flops(make):
    """By hand: two for each multiplication of a kernel, at each place of the output."""
    return {
        plain: 2 * (6 * 6 * 27 * 12 + 9 * 12 * 16 + 16 * 20 + 20 * 5),
        # A transposed convolution is counted at each place of its input.
        grouped: 2
        * (64 * 3 * 12 + 6 * 6 * 9 * 4 * 18 + 4 * 4 * 9 * 18 + 4 * 4 * 9 * 18 * 10 + 10 * 5),
        inverted: 2
        * (64 * 3 * 16 + 64 * 9 * 16 + 2 * 16 * 4 + 256 * 9 * 32 + 256 * 32 * 12 + 12 * 5),
        sequence: 2 * (8 * 12 * 8 + 4 * 8 * 12 + 48 * 5),
        shared_and_nested: 2 * (2 * (6 * 16 + 16 * 12 + 12 * 14) + 42 * 5 + 14 * 2),
    }[make]


@pytest.mark.parametrize("make", [plain, sequence, shared_and_nested, grouped, inverted])
def test_operations_are_counted_right(make):
    _, report = prune_channels(make(), 0.6, return_report=True)
    assert report.flops[0] == known_flops(make)


@pytest.mark.backends("tensorflow")
def test_operations_are_those_that_tensorflow_counts():
    import tensorflow as tf
    from tensorflow.python.profiler import model_analyzer, option_builder

    model = residual()
    _, report = prune_channels(model, 0.6, return_report=True)
    function = tf.function(model).get_concrete_function(
        tf.TensorSpec((1, *model.inputs[0].shape[1:]))
    )
    options = option_builder.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    profile = model_analyzer.profile(function.graph, options=options)

    def count(node):
        is_kernel = any(kind in node.name for kind in ("Conv2D", "convolution", "MatMul"))
        return is_kernel * node.float_ops + sum(map(count, node.children))

    counted = count(profile)
    assert report.flops[0] == counted


def test_a_global_choice_takes_what_matters_least():
    model = residual()
    wide = model.layers[2]
    kernel, bias = wide.get_weights()
    # Within a variable scores are relative, so some of its channels have to matter much more.
    kernel[..., :15] *= 1e-3
    wide.set_weights([kernel, bias])
    _, report = prune_channels(model, 0.7, allocation="global", return_report=True)
    assert set(report.stayed[wide.name]) <= set(range(15, 20)) | set(range(20))
    assert len(set(report.stayed[wide.name]) & set(range(15))) <= 1
    assert report.widths[wide.name][1] >= 2


def test_multiples():
    model = plain()
    _, report = prune_channels(model, 0.6, multiple_of=8, return_report=True)
    after = {name: pair[1] for name, pair in report.widths.items()}
    assert after.pop("head") == 5
    assert all(width % 8 == 0 for width in after.values())
    assert any(pair[1] < pair[0] for pair in report.widths.values())


def test_what_is_asked_for_stays():
    model = plain()
    _, report = prune_channels(
        model, 0.5, keep=["first", model.get_layer("hidden")], return_report=True
    )
    assert report.widths["first"] == (12, 12)
    assert report.widths["hidden"] == (20, 20)
    assert report.widths["second"][1] < 16


def test_what_is_not_followed_is_kept_and_told():
    @keras.saving.register_keras_serializable("tests")
    class Mixes(layers.Layer):
        def call(self, x):
            return keras.ops.flip(x, axis=-1)

    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 3, name="before")(x)
    y = Mixes(name="mixes")(y)
    y = layers.Conv2D(16, 3, name="behind")(y)
    y = layers.LayerNormalization(name="norm")(y)
    y = layers.Conv2D(20, 1, name="free", activation="softmax")(y)
    y = layers.Conv2D(20, 1, name="last")(y)
    model = keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))
    randomize(model, batch(model))
    small, report = prune_channels(model, 0.85, return_report=True)
    assert {name: pair[0] - pair[1] for name, pair in report.widths.items() if name != "last"} == {
        **dict.fromkeys(("before", "behind", "free"), 0),
        model.layers[-1].name: 0,
    }
    assert set(report.whole) == {"mixes", "norm", "free"}
    assert "Mixes is not followed" in str(report)
    set_to_zero(model, report.stayed)
    assert_equal(small, model, batch(model))


@pytest.mark.backends("tensorflow", "torch")
@pytest.mark.parametrize(
    "layer, reason",
    [
        (lambda: layers.GroupNormalization(4, name="it"), "several channels"),
        (lambda: layers.LayerNormalization(name="it"), "several channels"),
        (lambda: layers.Dropout(0.5, noise_shape=(None, 1, 1, 8), name="it"), "noise_shape"),
        (lambda: ResidualBNBlock(8, norm=layers.GroupNormalization(4), name="it"), "GroupNorm"),
        (lambda: ResidualBNBlock(8, activation="softmax", name="it"), "softmax may mix"),
        (lambda: ConvBNAct(8, 3, norm=layers.LayerNormalization(), name="it"), "LayerNorm"),
    ],
)
def test_what_mixes_channels_is_kept_whole_with_its_reason(layer, reason):
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(8, 1, name="before")(x)
    y = layers.Conv2D(12, 1, name="behind")(layer()(y))
    model = keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))
    _, report = prune_channels(model, 0.9, return_report=True)
    assert list(report.whole) == ["it"]
    assert reason in report.whole["it"]
    assert report.widths["before"] == (8, 8)
    assert report.widths["behind"][1] < 12


@pytest.mark.backends("tensorflow", "torch")
def test_a_residual_block_becomes_plain_layers_of_its_name(tmp_path):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(12, 3),
            ResidualBNBlock(12, stochastic_depth=0.5, seed=1, name="first"),
            ResidualBNBlock(12, version=2, name="kept"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )
    small, report = prune_channels(model, 0.6, keep="kept", return_report=True)
    assert type(small) is keras.Sequential
    block = small.get_layer("first")
    assert all(type(layer).__module__.startswith("keras.src") for layer in block.layers)
    # What is added to the kept block stays with it.
    assert report.widths["kept/conv_1/conv"] == report.widths["kept/conv_2"] == (12, 12)
    assert report.widths["first/conv_2/conv"] == (12, 12)
    assert report.widths["first/conv_1/conv"][1] < 12
    images = np.ones((64, 8, 8, 3), "float32")
    drawn = keras.ops.convert_to_numpy(block(np.ones((64, 6, 6, 12), "float32"), training=True))
    alone = drawn.reshape(64, -1).std(axis=0).max()
    assert alone > 0  # Some samples skip the branch, so equal samples differ.
    small.compile("adam", "mse")
    small.fit(images, np.zeros((64, 5)), verbose=0)
    small.save(tmp_path / "small.keras")
    assert prune_channels(small, 0.5).count_params() <= 0.5 * small.count_params()


def two_inputs_of_any_size():
    a, b = keras.Input((None, None, 3), name="a"), keras.Input((None, 4), name="b")
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, name="image")(a))
    z = layers.GlobalAveragePooling1D()(layers.Conv1D(6, 3, name="sound")(b))
    return keras.Model([a, b], layers.Dense(5)(layers.Concatenate()([y, z])))


@pytest.mark.parametrize("of", ["flops", "latency"])
def test_inputs_of_unknown_size_need_an_example(of):
    model = two_inputs_of_any_size()
    with pytest.raises(ValueError) as error:
        prune_channels(model, 0.5, of=of)
    for part in ("Pass `example=`", "dictionary by name", "'a': (None, None, None, 3)"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="`example` has no array for the input 'b'"):
        prune_channels(model, 0.5, of=of, example={"a": np.zeros((1, 8, 8, 3))})


def test_operations_are_counted_at_the_size_of_the_example():
    model = two_inputs_of_any_size()
    example = {"b": np.zeros((2, 20, 4)), "a": np.zeros((2, 8, 6, 3))}
    small, report = prune_channels(
        model, 0.5, of="flops", example=example, seed=1, return_report=True
    )
    assert report.flops[0] == 2 * (6 * 4 * 27 * 8 + 18 * 12 * 6 + 14 * 5)
    assert report.flops[1] / report.flops[0] <= 0.5
    assert small.inputs[0].shape == (None, None, None, 3)
    outputs = small.predict([np.ones((2, 9, 9, 3)), np.ones((2, 5, 4))], verbose=0)
    assert outputs.shape == (2, 5)


def test_criteria_choose_what_they_say():
    def left(criterion, **kwargs):
        model = keras.Sequential(
            [keras.Input((6,)), layers.Dense(4, name="hidden"), layers.BatchNormalization()]
        )
        model.add(layers.Dense(2))
        model.compile("sgd", "mse")
        kernel = np.array([[1.0, 2, 3, 4]] * 6)
        kernel[0] = [5, 0, 0, 0]
        model.layers[0].set_weights([kernel, np.zeros(4)])
        model.layers[1].gamma.assign([1.0, -3.0, 2.0, 0.5])
        _, report = prune_channels(model, 0.7, criterion, return_report=True, **kwargs)
        return report.stayed["hidden"]

    assert left("l1") == [2, 3]
    assert left(lambda kernel: -np.abs(kernel).max(axis=1) + 6) == [1, 2]
    assert left("gamma") == [1, 2]
    assert len(left("random", seed=0)) == 2
    assert left("random", seed=0) == left("random", seed=0)


def test_channels_that_leave_together_have_the_mean_of_their_scores():
    x = keras.Input((1,))
    first, second = layers.Dense(3, name="first"), layers.Dense(3, name="second")
    y = layers.Add()([first(x), second(x)])
    model = keras.Model(x, layers.Dense(2)(y))
    # Alone, the first would lose channel 0, the second channel 2.
    first.kernel.assign([[1.0, 2.0, 6.0]])
    second.kernel.assign([[6.0, 2.0, 1.0]])
    _, report = prune_channels(model, 0.67, "l1", of="channels", return_report=True)
    assert report.stayed["first"] == report.stayed["second"] == [0, 2]


def test_taylor_scores_are_those_of_torch():
    torch = pytest.importorskip("torch")
    from keras_optkit.compression.structured.gradients import squared_products

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 6)).astype("float32"), rng.normal(size=(12, 2)).astype("float32")
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(4, "relu"), layers.Dropout(0.0), layers.Dense(2)]
    )
    model.compile("adam", "mse")
    state = [v.copy() for v in model.get_weights()]
    first, second = model.layers[0].kernel, model.layers[2].kernel
    found = squared_products(
        model,
        (
            x,
            y,
        ),
        {id(first): 1, id(second): 0},
    )
    data = squared_products(model, _dataset(x, y), {id(first): 1})
    a, b, c, d = (torch.tensor(v, requires_grad=True) for v in state)
    loss = ((torch.relu(torch.tensor(x) @ a + b) @ c + d - torch.tensor(y)) ** 2).mean()
    loss.backward()
    expected = [
        (a.grad * a).sum(0).detach().numpy() ** 2,
        (c.grad * c).sum(1).detach().numpy() ** 2,
    ]
    np.testing.assert_allclose(found[id(first)], expected[0], rtol=1e-4)
    np.testing.assert_allclose(found[id(second)], expected[1], rtol=1e-4)
    np.testing.assert_allclose(data[id(first)], expected[0], rtol=1e-4)
    for old, new in zip(state, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.iterations) == 0
    _, report = prune_channels(model, 0.6, "taylor", data=(x, y), return_report=True)
    assert set(report.stayed[model.layers[0].name]) == set(np.argsort(expected[0])[-2:].tolist())


def _dataset(x, y):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((x, y)).batch(len(x))


def test_the_new_model_trains_and_its_file_needs_nothing_of_ours(tmp_path):
    model = residual()
    small = prune_channels(model, 0.5)
    small.compile("adam", "mse")
    x = batch(model)
    history = small.fit(x, np.zeros((6, 5)), epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
    small.save(tmp_path / "small.keras")
    loaded = keras.models.load_model(tmp_path / "small.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), small.predict(x, verbose=0), rtol=1e-6)
    again = prune_channels(small, 0.5)
    assert again.count_params() <= 0.5 * small.count_params()


def test_policies_and_flags_stay():
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(12, 3, dtype="mixed_bfloat16", name="half")(x)
    y = layers.Conv2D(12, 3, trainable=False, name="frozen")(y)
    model = keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))
    small = prune_channels(model, 0.5)
    assert small.get_layer("half").compute_dtype == "bfloat16"
    assert not small.get_layer("frozen").trainable


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"target": 0}, "must be in (0, 1)"),
        ({"target": 1.5}, "must be in (0, 1)"),
        ({"target": 0.001}, "below what can be reached: 0.0"),
        ({"target": 0.5, "criterion": "l3"}, "Available: 'l1', 'l2'"),
        ({"target": 0.5, "criterion": "taylor"}, "needs `data`"),
        ({"target": 0.5, "of": "flop"}, "Did you mean 'flops'"),
        ({"target": 0.5, "allocation": "unifrom"}, "Did you mean 'uniform'"),
        ({"target": 0.5, "multiple_of": 0}, "integer of at least 1"),
        ({"target": 0.5, "keep": ["secnd"]}, "Did you mean 'second'"),
        ({"target": 0.5, "keep": 5}, "a list of layers or of their names"),
        ({"target": 0.5, "criterion": "random", "seed": "a"}, "`seed` must be None or an integer"),
        ({"target": 0.5, "criterion": lambda kernel: 1.0}, "one finite score for each channel"),
        ({"target": 0.5, "criterion": lambda kernel: kernel}, "(12, 27) for 12 channels"),
        ({"target": 0.5, "criterion": lambda kernel: kernel[:, 0] * np.nan}, "'first' are not"),
        *(
            ({"target": 0.5, "criterion": "taylor", "data": data}, message)
            for data, message in [
                ((np.zeros((2, 8, 8, 3)),), "Received: tuple of 1"),
                ((*[np.zeros((2, 8, 8, 3))] * 3,), "Received: tuple of 3"),
                (np.zeros((2, 8, 8, 3)), "Received: ndarray"),
                ([np.zeros((2, 8, 8, 3)), np.zeros((2, 5))], "Received: list"),
                ((np.full((2, 8, 8, 3), np.nan), np.zeros((2, 5))), "of them not finite"),
            ]
        ),
    ],
)
def test_bad_arguments(arguments, message):
    model = plain()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError) as error:
        prune_channels(model, **arguments)
    assert message in str(error.value)
    assert "Received: " in str(error.value)


def test_taylor_takes_no_dataset_without_targets_or_batches():
    import tensorflow as tf

    model = plain()
    model.compile("sgd", "mse")
    x, y = np.zeros((2, 8, 8, 3), "float32"), np.zeros((2, 5), "float32")
    without = tf.data.Dataset.from_tensor_slices(x).batch(2)
    with pytest.raises(ValueError, match=r"Received: \w+ without targets"):
        prune_channels(model, 0.5, "taylor", data=without)
    for data in (_dataset(x, y).take(0), (x[:0], y[:0])):
        with pytest.raises(ValueError, match=r"`data` has no sample\. Received"):
            prune_channels(model, 0.5, "taylor", data=data)


@pytest.mark.parametrize("model", [None, "model.keras"])
def test_what_is_no_model(model):
    with pytest.raises(ValueError, match=r"must be a `keras.Model`. Received"):
        prune_channels(model, 0.5)


def test_models_of_which_nothing_can_leave():
    single = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="No channel of this model may leave"):
        prune_channels(single, 0.5)
    with pytest.raises(ValueError, match="not compiled"):
        prune_channels(plain(), 0.5, "taylor", data=(np.zeros((2, 8, 8, 3)), np.zeros((2, 5))))
    open_size = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(8, 3), layers.Conv2D(4, 3)]
    )
    with pytest.raises(ValueError, match="Pass `example=`"):
        prune_channels(open_size, 0.5, of="flops")
    assert prune_channels(open_size, 0.6).count_params() < 0.6 * open_size.count_params()
    with pytest.raises(ValueError, match="not built"):
        prune_channels(keras.Sequential([layers.Dense(3)]), 0.5)


def test_a_model_can_be_rebuilt_around_it():
    small = prune_channels(inverted(), 0.5)
    x = batch(small)
    np.testing.assert_allclose(
        rebuild(small).predict(x, verbose=0), small.predict(x, verbose=0), rtol=1e-6
    )
