import keras
import numpy as np
import pytest
from bridge_helpers import kernels
from keras import layers

import keras_optkit.tfmot as bridge

pytestmark = pytest.mark.filterwarnings("ignore:__array__")


def stored_kernels(content):
    """The int8 kernels in a LiteRT file, as integers."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(content, 0)
    graph = file.Subgraphs(0)
    found = []
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        for index in operator.InputsAsNumpy():
            if index < 0:
                continue
            tensor = graph.Tensors(index)
            buffer = file.Buffers(tensor.Buffer()).DataAsNumpy()
            if tensor.Type() == schema.TensorType.INT8 and not isinstance(buffer, int):
                found.append(buffer.view(np.int8).reshape(tensor.ShapeAsNumpy()))
    return found


@pytest.fixture(scope="module")
def result(trained, images):
    before = trained.get_weights()
    result = bridge.quantize_model(trained, images, epochs=2)
    for old, new in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return result


def test_the_file_is_the_quantized_model(result, images):
    lite = result.model()
    assert lite.float_operations == []
    assert result.before["accuracy"] > 0.6
    assert result.litert["accuracy"] == pytest.approx(result.after["accuracy"], abs=0.01)
    assert result.after["accuracy"] > 0.6
    predicted = lite.predict(images[0])
    accuracy = (predicted.argmax(-1) == images[1]).mean()
    assert accuracy == pytest.approx(result.litert["accuracy"], abs=1e-6)
    assert [spec.name for spec in lite.inputs] == ["image"]
    assert [spec.name for spec in lite.outputs] == ["head"]


def test_the_kernels_are_stored_in_eight_bits(result, trained):
    sizes = sorted(kernel.size for kernel in stored_kernels(result.content))
    assert sizes == sorted(kernel.size for kernel in kernels(trained).values())


def test_saving(result, tmp_path, images):
    lite = result.save(tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == result.content
    assert lite.predict(images[0][:3]).shape == (3, 10)
    with pytest.raises(ValueError, match="a folder that does not exist"):
        result.save(tmp_path / "nowhere" / "model.tflite")


@pytest.mark.backends("tensorflow")
def test_zeros_are_preserved(unchanged, images):
    sparse = bridge.prune_low_magnitude(unchanged, images)
    result = bridge.quantize_model(sparse, images, preserve="sparsity")
    for kernel in stored_kernels(result.content):
        assert (kernel == 0).mean() >= 0.49


@pytest.fixture(scope="module")
def sparse_and_clustered(trained, images):
    sparse = bridge.prune_low_magnitude(trained, images, layers=["classes"])
    return bridge.cluster_weights(sparse, images, 5, layers=["classes"], preserve_sparsity=True)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("preserve", ["clusters", "sparsity_and_clusters"])
def test_clusters_are_preserved(preserve, sparse_and_clustered, images):
    result = bridge.quantize_model(sparse_and_clustered, images, preserve=preserve)
    (dense,) = [kernel for kernel in stored_kernels(result.content) if kernel.ndim == 2]
    assert len(np.unique(dense)) <= 5
    if preserve == "sparsity_and_clusters":
        assert (dense == 0).mean() >= 0.49


def compiled(*parts):
    model = keras.Sequential([keras.Input((8, 8, 1)), *parts])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


@pytest.fixture
def mixed():
    return compiled(
        layers.LayerNormalization(name="norm"),
        layers.Conv2D(4, 3, activation="hard_silu", name="odd"),
        layers.BatchNormalization(name="late"),
        layers.Flatten(name="flat"),
        layers.Dense(10, name="last"),
    )


def test_what_cannot_be_quantized_is_listed(mixed, images):
    with pytest.raises(ValueError) as caught:
        bridge.quantize_model(mixed, images)
    message = str(caught.value)
    assert "The model holds 3 things that TF-MOT's default 8-bit scheme cannot quantize" in message
    assert "norm (LayerNormalization): TF-MOT's 8-bit scheme does not know this type" in message
    assert "odd (Conv2D): TF-MOT's 8-bit scheme does not know the activation 'hard_silu'" in message
    assert "late (BatchNormalization): the layer before it, 'odd', has an activation" in message
    assert "skip_unsupported=True" in message


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("how", [dict(skip_unsupported=True), dict(layers=["last"])])
def test_some_layers_stay_in_float(how, mixed, images):
    result = bridge.quantize_model(mixed, images, **how)
    assert "CONV_2D" in result.model().float_operations
    assert result.litert["accuracy"] == pytest.approx(result.after["accuracy"], abs=0.01)


def test_several_inputs_and_outputs_and_a_shared_layer():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(8, activation="relu", name="shared")
    y = layers.Concatenate()([shared(b), shared(a)])
    results = {
        "one": layers.Dense(3, activation="softmax")(y),
        "two": layers.Dense(1)(y),
    }
    model = keras.Model({"a": a, "b": b}, results)
    model.compile(
        "sgd",
        {"one": "sparse_categorical_crossentropy", "two": "mse"},
        metrics={"one": ["accuracy"], "two": [keras.metrics.MeanAbsoluteError(name="mae")]},
    )
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(64, 4)).astype("float32") for name in "ab"}
    y = {"one": (x["a"][:, 0] > 0).astype("int32"), "two": x["b"][:, :1]}
    result = bridge.quantize_model(model, (x, y), epochs=2)
    assert {"one_accuracy", "two_mae"} <= set(result.after)
    assert set(result.litert) == {"one_accuracy", "two_mae"}
    for name in result.litert:
        assert result.litert[name] == pytest.approx(result.after[name], abs=0.02)
    # The inputs are not mixed up.
    expected = model.predict(x, verbose=0)["two"]
    assert np.corrcoef(expected[:, 0], result.model().predict(x)["two"][:, 0])[0, 1] > 0.9


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(preserve="zeros"), "`preserve` must be one of"),
        (dict(layers=["norm"]), "TF-MOT's default 8-bit scheme cannot quantize"),
        (dict(layers=["nrm"]), "Did you mean 'norm'"),
        (dict(data=(np.zeros((4, 3)), np.zeros(4))), "must have the shapes"),
    ],
)
def test_bad_arguments(arguments, message, mixed, images):
    before = mixed.get_weights()
    with pytest.raises(ValueError, match=message):
        bridge.quantize_model(mixed, **{"data": images, **arguments})
    for old, new in zip(before, mixed.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.backends("tensorflow")
def test_the_blocks_of_mobile_net_v2():
    # Its first blocks hold every kind of layer that it has; all of it takes three times as long.
    net = keras.applications.MobileNetV2(
        weights=None, include_top=False, input_shape=(32, 32, 3), alpha=0.35
    )
    y = layers.GlobalAveragePooling2D()(net.get_layer("block_3_project_BN").output)
    model = keras.Model(net.input, layers.Dense(3, activation="softmax")(y))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    data = rng.uniform(-1, 1, (8, 32, 32, 3)).astype("float32"), rng.integers(0, 3, 8)
    result = bridge.quantize_model(model, data, batch_size=8)
    assert result.model().float_operations == []
    assert result.litert["accuracy"] == pytest.approx(result.after["accuracy"], abs=0.126)
