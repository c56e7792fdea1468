"""Statistics recomputed from data, against float64 of all of the data at once."""

import keras
import numpy as np
import pytest

from keras_optkit.layers import ConvBNAct, DenseBNAct
from keras_optkit.normalization import recalibrate_batch_norm
from keras_optkit.normalization.moments import RunningMoments, shifted_moments

L = keras.layers


def statistics(layer):
    names = ("moving_mean", "moving_variance")
    return [keras.ops.convert_to_numpy(getattr(layer, name)) for name in names]


def assert_statistics(layer, values, rtol=1e-5):
    """Compares with the float64 moments of `values`, channels last."""
    axes = tuple(range(values.ndim - 1))
    mean, variance = statistics(layer)
    expected = values.astype("float64")
    scale = expected.std(axes).max()
    np.testing.assert_allclose(mean, expected.mean(axes), rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(variance, expected.var(axes), rtol=rtol)


def norm_model(shape=(3,), **kwargs):
    return keras.Sequential([keras.Input(shape), L.BatchNormalization(**kwargs)])


def weights(model):
    return [keras.ops.convert_to_numpy(v) for v in model.variables]


def assert_unchanged(model, before):
    for after, value in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(after, value)


@pytest.fixture
def data():
    # Batches of 32 leave a ragged one of 5. Samples drift, so no batch is like the whole.
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 20, 101)[:, None]
    return (rng.normal(size=(101, 3)) * [1, 5, 0.1] + [0, 3, 1000] + drift).astype("float32")


@pytest.mark.parametrize("shape", [(7, 3), (4, 6, 5, 3), (2, 5, 4, 3, 2)])
def test_shifted_moments_far_from_zero(shape):
    x = np.random.default_rng(0).normal(1000.0, 1.0, size=shape).astype("float32")
    axes = tuple(range(len(shape) - 1))
    mean, squares, count = (
        keras.ops.convert_to_numpy(m) for m in shifted_moments(keras.ops.convert_to_tensor(x), axes)
    )
    exact = x.astype("float64")
    np.testing.assert_allclose(mean, exact.mean(axes, keepdims=True), rtol=1e-7)
    np.testing.assert_allclose(squares / count, exact.var(axes, keepdims=True), rtol=1e-6)


def test_running_moments_of_ragged_parts():
    x = np.random.default_rng(0).normal(1e6, 1.0, size=(100, 3))
    moments = RunningMoments()
    for part in np.split(x, [1, 1, 40, 99]):
        moments.update(part, np.zeros_like(part), np.ones_like(part))
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, x.var(0), rtol=1e-8)
    np.testing.assert_array_equal(moments.count, 100)


@pytest.mark.parametrize("batch_size", [1, 32, 200])
def test_arrays(data, batch_size):
    model = norm_model(momentum=0.7)
    (layer,) = recalibrate_batch_norm(model, data, batch_size=batch_size)
    assert layer is model.layers[0] and layer.momentum == 0.7
    assert_statistics(layer, data)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // 32)

    def __getitem__(self, index):
        part = slice(32 * index, 32 * index + 32)
        return self.x[part], self.y[part]


def sources(x, y):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices
    yield "tuple", (x, y)
    yield "weighted tuple", (x, y, np.zeros(len(x)))
    yield "dataset of x", dataset(x).batch(32)
    yield "dataset of pairs", dataset((x, y)).batch(32)
    yield "dataset of triples", dataset((x, y, np.zeros(len(x)))).batch(32)
    yield "PyDataset", Batches(x, y)
    yield "generator", ((x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32))


def test_every_kind_of_data(data):
    for name, source in sources(data, np.zeros(len(data), "int32")):
        model = norm_model()
        recalibrate_batch_norm(model, source)
        mean, variance = statistics(model.layers[0])
        np.testing.assert_allclose(mean, data.astype("float64").mean(0), rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(variance, data.astype("float64").var(0), rtol=1e-5, err_msg=name)


def test_steps_cut_endless_data(data):
    import tensorflow as tf

    endless = tf.data.Dataset.from_tensor_slices(data).batch(32).repeat()
    model = norm_model()
    with pytest.raises(ValueError, match=r"repeats without end.*steps="):
        recalibrate_batch_norm(model, endless)
    recalibrate_batch_norm(model, endless, steps=2)
    assert_statistics(model.layers[0], data[:64])


def test_dictionary_of_inputs_by_name(data):
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((3,), name="a")}
    norms = {name: L.BatchNormalization(name=f"norm_{name}") for name in inputs}
    model = keras.Model(inputs, [norms[name](inputs[name]) for name in inputs])
    recalibrate_batch_norm(model, {"a": data, "b": data * 2 + 1})
    assert_statistics(norms["a"], data)
    assert_statistics(norms["b"], data * 2 + 1)


def test_channels_and_axis(data):
    images = np.random.default_rng(0).normal(50.0, 2.0, size=(37, 4, 5, 3)).astype("float32")
    first = keras.Sequential([keras.Input((3, 4, 5)), L.BatchNormalization(axis=1)])
    recalibrate_batch_norm(first, images.transpose(0, 3, 1, 2))
    assert_statistics(first.layers[0], images)
    last = norm_model((4, 5, 3), scale=False, center=False)
    recalibrate_batch_norm(last, images)
    assert_statistics(last.layers[0], images)


def test_masked_steps_do_not_count():
    x = np.random.default_rng(0).normal(5.0, size=(40, 6, 3)).astype("float32")
    lengths = np.arange(40) % 7
    x[np.arange(6) >= lengths[:, None]] = 0.0
    model = keras.Sequential([keras.Input((6, 3)), L.Masking(), L.BatchNormalization()])
    recalibrate_batch_norm(model, x)
    assert_statistics(model.layers[1], x[np.arange(6) < lengths[:, None]])


def test_a_norm_in_every_place(data):
    """Nested, shared, in blocks: each sees the outputs of what comes before it."""
    shared = L.BatchNormalization(name="shared")
    inner = keras.Sequential([keras.Input((3,)), L.Dense(4), DenseBNAct(5)], name="inner")
    inputs = keras.Input((3,))
    a, b = shared(inputs), shared(inputs * 3 + 1)
    model = keras.Model(inputs, inner(L.Dropout(0.5)(a + b)))
    layers = recalibrate_batch_norm(model, data, batch_size=200)
    assert len(layers) == 2
    # Called at two places: the samples of both.
    assert_statistics(shared, np.concatenate([data, data * 3 + 1]))
    # In one batch of all of the data, the deep norm sees what training would give it.
    x = data.astype("float64")
    outputs = sum((v - v.mean(0)) / np.sqrt(v.var(0) + shared.epsilon) for v in (x, data * 3.0 + 1))
    kernel, bias = (w.astype("float64") for w in inner.layers[0].get_weights())
    block = inner.layers[1]
    hidden = (outputs @ kernel + bias) @ block.get_weights()[0].astype("float64")
    assert_statistics(block._norm_layer, hidden, rtol=1e-3)


def deep_model(**kwargs):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((3,)),
            L.BatchNormalization(**kwargs),
            DenseBNAct(6, momentum=0.5),
            L.Dropout(0.5),
            DenseBNAct(4),
        ]
    )


def test_moving_gives_the_statistics_of_inference(data):
    model = deep_model()
    first, second, _, third = model.layers
    recalibrate_batch_norm(model, data, normalize_with="moving")
    seen = data
    for layer in (first, second, third):
        if layer is not first:
            kernel = layer.get_weights()[0]
            assert_statistics(layer._norm_layer, seen @ kernel, rtol=1e-4)
        seen = keras.ops.convert_to_numpy(layer(seen, training=False))
    # By batches of 32 that drift, "batch" does not.
    other = deep_model()
    recalibrate_batch_norm(other, data)
    ours, theirs = statistics(third._norm_layer), statistics(other.layers[3]._norm_layer)
    assert not np.allclose(ours[1], theirs[1], rtol=0.05)


def test_nothing_else_changes(data):
    model = deep_model()
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(data, np.zeros((101, 4)), epochs=2, verbose=0)
    norms = [model.layers[0], model.layers[1]._norm_layer, model.layers[3]._norm_layer]
    new = {id(v) for norm in norms for v in (norm.moving_mean, norm.moving_variance)}
    kept = [v for v in [*model.variables, *model.optimizer.variables] if id(v) not in new]
    kept += model.metrics_variables
    before = [keras.ops.convert_to_numpy(v) for v in kept]
    recalibrate_batch_norm(model, data)
    for variable, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert [norm.momentum for norm in norms] == [0.99, 0.5, 0.99]
    assert all(layer.trainable and "call" not in vars(layer) for layer in model._flatten_layers())
    # The step that was compiled before still trains and moves the statistics.
    moved = statistics(norms[0])[0]
    model.fit(data, np.zeros((101, 4)), epochs=1, verbose=0)
    assert not np.array_equal(moved, statistics(norms[0])[0])


def test_seeds_of_a_layer_that_always_draws(data):
    inputs = keras.Input((3,))
    model = keras.Model(inputs, L.BatchNormalization()(L.Dropout(0.5)(inputs, training=True)))
    before = weights(model)
    (layer,) = recalibrate_batch_norm(model, data)
    layer.set_weights([*layer.get_weights()[:2], np.zeros(3), np.ones(3)])
    assert_unchanged(model, before)


def test_after_weight_averaging_on_ema(data):
    """`use_ema` may leave weights and averages in one buffer on JAX."""
    model = deep_model()
    model.compile(keras.optimizers.Adam(use_ema=True), "mse")
    model.fit(data, np.zeros((101, 4)), epochs=1, verbose=0)
    recalibrate_batch_norm(model, data)
    for variable in [*model.variables, *model.optimizer.variables]:
        assert np.isfinite(keras.ops.convert_to_numpy(variable)).all()


def test_frozen_norms_keep_their_statistics_unless_asked(data):
    model = deep_model()
    model.layers[0].trainable = False
    before = statistics(model.layers[0])
    layers = recalibrate_batch_norm(model, data, batch_size=200)
    assert model.layers[0] not in layers and len(layers) == 2
    np.testing.assert_array_equal(statistics(model.layers[0]), before)
    # And what comes behind sees what they give in training: their inputs, hardly changed.
    seen = data.astype("float64") / np.sqrt(1 + model.layers[0].epsilon)
    assert_statistics(layers[0], seen @ model.layers[1].get_weights()[0], rtol=1e-4)
    assert len(recalibrate_batch_norm(model, data, include_frozen=True)) == 3
    assert not model.layers[0].trainable
    assert_statistics(model.layers[0], data)


def test_mixed_precision():
    images = np.random.default_rng(0).normal(30.0, 1.0, size=(37, 6, 6, 2)).astype("float16")
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2), dtype="float16"),
            L.BatchNormalization(dtype="mixed_float16"),
            ConvBNAct(3, 3, dtype="mixed_float16"),
        ]
    )
    recalibrate_batch_norm(model, images)
    assert_statistics(model.layers[0], images)
    assert np.isfinite(statistics(model.layers[1]._norm_layer)).all()


def test_global_mixed_precision_does_not_round_the_data():
    data = np.random.default_rng(0).normal(1000.0, 1.0, size=(50, 3)).astype("float32")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = norm_model(dtype="float32")
        recalibrate_batch_norm(model, data)
    finally:
        keras.config.set_dtype_policy("float32")
    assert_statistics(model.layers[0], data)


def test_renorm(data):
    model = norm_model(renorm=True)
    (layer,) = recalibrate_batch_norm(model, data)
    assert_statistics(layer, data)
    expected = np.sqrt(data.astype("float64").var(0) + layer.epsilon)
    for variable in (layer.moving_stddev, layer.renorm_stddev):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=1e-5)


# Keras' own word on the layer that is never called.
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'net'")
def test_subclassed_model(data):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.norm = L.Dense(4), L.BatchNormalization()
            self.unused = L.BatchNormalization()

        def call(self, x, training=None):
            return self.norm(self.dense(x), training=training)

    model = Net()
    with pytest.raises(ValueError, match="is not built.*Call it"):
        recalibrate_batch_norm(model, data)
    model(data)
    assert recalibrate_batch_norm(model, data) == [model.norm]
    assert_statistics(model.norm, data @ model.dense.get_weights()[0], rtol=1e-4)


def test_an_interrupt_leaves_the_old_statistics(data):
    model = deep_model()
    before = weights(model)

    def broken_off():
        yield data
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recalibrate_batch_norm(model, broken_off())
    assert_unchanged(model, before)
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_an_interrupt_in_a_later_pass_leaves_the_old_statistics(data, monkeypatch):
    from keras_optkit.normalization import recalibrate

    model = deep_model()
    before = weights(model)
    monkeypatch.setattr(
        recalibrate, "_agree", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt())
    )
    with pytest.raises(KeyboardInterrupt):
        recalibrate_batch_norm(model, data, normalize_with="moving")
    assert_unchanged(model, before)


def empty_dataset():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(np.zeros((8, 3), "float32")).batch(32).take(0)


@pytest.mark.parametrize(
    ("make_model", "source", "kwargs", "message"),
    [
        (deep_model, lambda: np.zeros((8, 4)), {}, r"\(None, 3\).*Received: .*\(8, 4\)"),
        (deep_model, empty_dataset, {}, "`data` is empty"),
        (deep_model, lambda: (x for x in ()), {}, "empty generator"),
        (deep_model, lambda: Batches(np.zeros((0, 3)), np.zeros(0)), {}, "`data` is empty"),
        (deep_model, lambda: np.zeros((0, 3)), {}, "`data` is empty"),
        (deep_model, lambda: np.full((8, 3), np.nan), {}, "/batch_norm.*not finite"),
        (deep_model, lambda: np.zeros((8, 3)), {"normalize_with": "all"}, "normalize_with='all'"),
        (deep_model, lambda: np.zeros((8, 3)), {"batch_size": 0}, "batch_size=0"),
        (deep_model, lambda: np.zeros((8, 3)), {"steps": 0}, "steps=0"),
        (
            deep_model,
            lambda: (x for x in ()),
            {"normalize_with": "moving"},
            "generator can be read once",
        ),
        (
            lambda: keras.Sequential([keras.Input((3,)), L.Dense(2)]),
            lambda: np.zeros((8, 3)),
            {},
            "no BatchNorm layer",
        ),
        (lambda: keras.Sequential([L.Dense(2)]), lambda: np.zeros((8, 3)), {}, "is not built"),
        (lambda: norm_model(trainable=False), lambda: np.zeros((8, 3)), {}, "include_frozen=True"),
        (lambda: L.BatchNormalization(), lambda: np.zeros((8, 3)), {}, "must be a `keras.Model`"),
    ],
)
def test_bad_input(make_model, source, kwargs, message):
    model = make_model()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        recalibrate_batch_norm(model, source(), **kwargs)
    assert_unchanged(model, before)
