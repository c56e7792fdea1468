"""Real conversions on the real interpreter: what the file computes, holds and refuses."""

import os

import keras
import numpy as np
import pytest
from exported_nets import MODES, converted_nets
from keras import layers

from keras_optkit.compression.export.check import ConversionError
from keras_optkit.compression.export.litert import to_litert
from keras_optkit.compression.export.litert_model import LiteRTModel

BACKEND = keras.backend.backend()

# What a sound file may differ by, as a share of the largest output.
LARGEST = {
    None: 1e-5,
    "sparse": 1e-5,
    "float16": 5e-3,
    "dynamic": 0.05,
    "int8": 0.1,
    "int8_full": 0.1,
}


CASES = [
    *(("pruned", mode) for mode in MODES),
    *((net, mode) for net in ("conv", "several", "dict", "augmented") for mode in (None, "int8")),
    ("conv", "int8_full"),
    ("dict", "int8_full"),
    ("before", None),
    ("before", "int8"),
    ("adapted", None),
    ("half", None),
]


@pytest.fixture(scope="module")
def converted():
    return converted_nets()[0]


def keras_outputs(model, data):
    """What Keras itself computes, as a list in the order of the model's outputs."""
    struct = data if isinstance(getattr(model, "input", None), dict) else list(data.values())
    outputs = model.predict(struct if len(data) > 1 else struct[0], verbose=0)
    return keras.tree.flatten(outputs)


def litert_outputs(file, data, **kwargs):
    outputs = file.predict(data, **kwargs)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]


@pytest.mark.parametrize(("net", "mode"), CASES)
def test_file_computes_what_keras_computes(converted, net, mode):
    case = converted[net]
    mixed = net in ("augmented", "adapted", "half")
    for want, got in zip(
        keras_outputs(case.model, case.data),
        litert_outputs(case.files[mode], case.data),
        strict=True,
    ):
        want = want.astype("float64")
        tolerance = max(LARGEST[mode], 5e-3 if mixed else 0.0)
        assert got.shape == want.shape
        assert got.dtype == "float32"
        assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


def test_mixed_precision_is_written_in_float32(converted):
    # 2^-11 apart from the model's own rounding, but equal to the same weights in float32.
    case = converted["adapted"]
    norm, dense = case.model.layers[-2:]
    mean, variance = (keras.ops.convert_to_numpy(v).astype("float64") for v in norm.weights[:2])
    kernel, bias = (keras.ops.convert_to_numpy(v).astype("float64") for v in dense.weights)
    (x,) = case.data.values()
    want = (x - mean) / np.sqrt(variance) @ kernel + bias
    np.testing.assert_allclose(case.files[None].predict(case.data), want, rtol=1e-5, atol=1e-5)
    assert {layer.dtype_policy.name for layer in (norm, dense)} == {"mixed_float16"}


@pytest.mark.parametrize("mode", [None, "int8"])
@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_any_batch_size(converted, mode, batch_size):
    case = converted["conv"]
    want = case.files[mode].predict(case.data, batch_size=16)
    got = case.files[mode].predict(case.data, batch_size=batch_size)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_inputs_and_outputs_keep_names_and_order(converted):
    several, dicts = converted["several"], converted["dict"]
    for file in several.files.values():
        assert [spec.name for spec in file.inputs] == ["zeta", "alpha", "mid_x"]
        assert [spec.name for spec in file.outputs] == ["second", "first"]
    for file in dicts.files.values():
        assert sorted(spec.name for spec in file.inputs) == ["a", "b"]
        assert {spec.name for spec in file.outputs} == {"u", "v"}


def test_the_files_own_order_is_the_models(converted):
    # A program that binds by position reads these lists.
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=converted["several"].files[None]._content)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    for details, by_name, names in (
        (interpreter.get_input_details(), runner.get_input_details(), ["zeta", "alpha", "mid_x"]),
        (interpreter.get_output_details(), runner.get_output_details(), ["second", "first"]),
    ):
        assert [d["index"] for d in details] == [by_name[name]["index"] for name in names]


def constants(file):
    """The kernels in a file by their number of elements, as the interpreter reads them."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=file._content,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    content = schema.Model.GetRootAs(file._content, 0)
    graph = content.Subgraphs(0)
    found = {}
    for i in range(graph.TensorsLength()):
        is_constant = content.Buffers(graph.Tensors(i).Buffer()).DataLength() > 0
        if is_constant and graph.Tensors(i).ShapeLength() > 1:
            assert not np.any(interpreter.get_tensor_details()[i]["quantization"][1])
            values = interpreter.get_tensor(i)
            assert values.size not in found
            found[values.size] = values
    return found


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "sparse"])
def test_zeros_stay_zero(converted, mode):
    case = converted["pruned"]
    want = {}
    for weight in case.model.weights:
        if "kernel" in weight.path:
            values = keras.ops.convert_to_numpy(weight)
            want[values.size] = int((values == 0).sum())
    assert set(want) == {72, 200, 128, 2560}
    found = constants(case.files[mode])
    assert set(found) == set(want)
    for size, zeros in want.items():
        count = int((found[size] == 0).sum())
        # Rounding may add zeros; it may take none away.
        assert count >= zeros if mode else count == zeros


def test_sparse_leaves_zeros_out(converted):
    sparse, full = (len(converted["pruned"].files[mode]._content) for mode in ("sparse", None))
    assert sparse < 0.75 * full


def test_sparse_says_where_it_saves_nothing(refusals):
    assert "so many zeros that the converter would leave them out" in str(refusals["dense"])


def test_norms_are_folded_where_the_converter_does_not(converted):
    # It would leave them as a multiplication and an addition.
    case = converted["before"]
    assert case.files[None].float_operations == ["CONV_2D", "FULLY_CONNECTED", "RESHAPE"]
    names = [type(layer).__name__ for layer in case.model.layers]
    assert names == ["BatchNormalization", "Conv2D"] * 2 + ["Flatten", "Dense"]


def test_int8_is_integer_inside_and_float_outside(converted):
    file = converted["conv"].files["int8"]
    assert file.float_operations == []
    assert [spec.dtype for spec in (*file.inputs, *file.outputs)] == ["float32", "float32"]
    assert "CONV_2D" in converted["conv"].files[None].float_operations


def test_int8_full_is_integer_outside_too(converted):
    from ai_edge_litert.interpreter import Interpreter

    for net in ("conv", "dict"):
        file = converted[net].files["int8_full"]
        assert file.float_operations == []
        interpreter = Interpreter(model_content=file._content)
        details = [*interpreter.get_input_details(), *interpreter.get_output_details()]
        kinds = {np.dtype(detail["dtype"]).name for detail in details}
        assert kinds == ({"int8"} if net == "conv" else {"int8", "int32"})
        # The face hides that: what goes in and comes out are floats, and an embedding's integers.
        assert {spec.dtype for spec in file.outputs} == {"float32"}
    x = next(iter(converted["conv"].data.values()))
    y = converted["conv"].model.predict(x, verbose=0).argmax(-1)
    assert converted["conv"].files["int8_full"].evaluate(x, y)["accuracy"] > 0.85


def test_int8_full_names_what_stays_in_float(refusals):
    message = str(refusals["float"])
    assert "no int8 kernel for: ELU (in the layer 'mine'), so" in message
    assert "use `quantization='int8'`" in message


def test_writes_one_file_and_leaves_all_as_it_was(tmp_path, make_model, toy, monkeypatch):
    x, y = toy
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    model = make_model()
    model.fit(x, y, epochs=1, verbose=0)
    model.layers[0].trainable = False
    environment, policy = dict(os.environ), keras.config.dtype_policy().name
    weights = [keras.ops.convert_to_numpy(w).copy() for w in model.weights]
    optimizer, trainable = model.optimizer, [layer.trainable for layer in model.layers]
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    lite = to_litert(model, path, "int8", representative_data=x)

    assert os.listdir(tmp_path) == ["model.tflite"]
    assert isinstance(lite, LiteRTModel)
    assert lite.path == str(path)
    assert path.read_bytes() == lite._content
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    assert dict(os.environ) == environment
    assert keras.config.dtype_policy().name == policy
    assert keras.backend.backend() == BACKEND
    assert model.optimizer is optimizer
    assert model.compiled
    assert [layer.trainable for layer in model.layers] == trainable
    for before, after in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, keras.ops.convert_to_numpy(after))
    model.layers[0].trainable = True
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=1, verbose=0)


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.fixture(scope="module")
def refusals():
    return converted_nets()[1]


def test_names_the_operation_that_cannot_be_converted(refusals):
    assert isinstance(refusals["operation"], ConversionError)
    assert "no kernel for: Erfinv" in str(refusals["operation"])
    assert "Received: model=<Functional" in str(refusals["operation"])


def test_names_the_layer_of_an_operation_that_cannot_be_converted(refusals):
    assert "no kernel for: Erfinv (in the layer 'odd')." in str(refusals["layer"])


def test_advises_on_recurrent_layers(refusals):
    assert "unroll=True" in str(refusals["loop"])


def test_refuses_a_layer_that_converts_to_another_one(refusals):
    message = str(refusals["noise"])
    assert "does not agree with the Keras model on random inputs" in message
    assert "tolerance 0.0001" in message
    assert float(message.split("relative error ")[1].split(",")[0]) > 0.01


def test_refuses_a_model_that_depends_on_the_batch_size(refusals):
    assert "does not agree with the Keras model" in str(refusals["batch"])


def test_refuses_an_int8_file_that_rounds_the_signal_away(refusals):
    # One scale from 0 to 100 leaves steps of 0.4 for a signal of +-0.02.
    message = str(refusals["offset"])
    assert "on representative data" in message
    assert "tolerance 0.3" in message


def test_own_layers(refusals):
    if BACKEND == "tensorflow":
        assert isinstance(refusals["own"], bytes)
    else:
        assert "could not be loaded there" in str(refusals["own"])
        assert "KERAS_BACKEND=tensorflow" in str(refusals["own"])
        assert "Local" in str(refusals["own"])


# Writing is the same on all backends, and a child process costs ten seconds.
@pytest.mark.backends("tensorflow")
def test_a_refusal_leaves_the_old_file(tmp_path, make_model, toy):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    with pytest.raises(ConversionError, match=r"relative error .*, tolerance 0; no file was"):
        to_litert(make_model(), path, "int8", representative_data=toy[0], tolerance=0.0)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


@pytest.mark.parametrize("quantization", ["int", "fp16", "float32", "", 8, ["int8"]])
def test_unknown_quantization(tmp_path, make_model, quantization):
    with pytest.raises(ValueError, match=r"`quantization` must be None .*Received"):
        to_litert(make_model(), tmp_path / "m.tflite", quantization)


def test_nearest_quantization(tmp_path, make_model):
    with pytest.raises(ValueError, match="Did you mean 'int8'"):
        to_litert(make_model(), tmp_path / "m.tflite", "int-8")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([layers.Dense(2)]), "inputs are not known"),
        ("model.keras", "must be a Keras 3 model"),
        (None, "must be a Keras 3 model"),
        (layers.Dense(2), "must be a Keras 3 model"),
    ],
)
def test_unusable_models(tmp_path, model, message):
    with pytest.raises(ValueError, match=rf"{message}.*Received"):
        to_litert(model, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


def test_subclassed_model_is_told_the_way(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(ValueError, match=r"keras.Model\(inputs, model\(inputs\)\)"):
        to_litert(model, tmp_path / "m.tflite")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "needs `representative_data`"),
        (np.zeros((0, 4)), "is empty"),
        (np.zeros((8, 5)), r"must have the shape \(None, 4\)"),
        (np.zeros(4), r"must have the shape \(None, 4\)"),
        ((np.zeros((8, 4)), np.zeros(8)), "without labels"),
        ({"nothing": np.zeros((8, 4))}, "'nothing', which is no input"),
        (np.array([["a"] * 4]), "must hold numbers"),
        (np.array([[1, np.nan, 1, np.inf]]), "must be finite"),
    ],
)
def test_unusable_representative_data(tmp_path, make_model, data, message):
    with pytest.raises(ValueError, match=rf"{message}.*Received"):
        to_litert(make_model(), tmp_path / "m.tflite", "int8", data)
    assert os.listdir(tmp_path) == []


def test_int8_full_needs_data(tmp_path, make_model):
    with pytest.raises(ValueError, match=r"'int8_full'` needs `representative_data`.*Received"):
        to_litert(make_model(), tmp_path / "m.tflite", "int8_full")


def test_several_inputs_of_unknown_size(tmp_path):
    inputs = [keras.Input((None, 3), name="a"), keras.Input((4,), name="b")]
    pooled = layers.GlobalAveragePooling1D()(inputs[0])
    model = keras.Model(inputs, layers.Concatenate()([pooled, inputs[1]]))
    with pytest.raises(ValueError, match=r"representative_data.*Received: input 'a' of shape"):
        to_litert(model, tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("tolerance", [-1, "0.1", True, float("nan")])
def test_unusable_tolerance(tmp_path, make_model, tolerance):
    with pytest.raises(ValueError, match=r"`tolerance` must be None or .*Received"):
        to_litert(make_model(), tmp_path / "m.tflite", tolerance=tolerance)


def test_unusable_paths(tmp_path, make_model):
    model = make_model()
    with pytest.raises(ValueError, match=r"is a folder.*Received"):
        to_litert(model, tmp_path)
    with pytest.raises(ValueError, match=r"folder that does not exist.*Received"):
        to_litert(model, tmp_path / "no" / "m.tflite")
    with pytest.raises(ValueError, match=r"must be the path of a file.*Received"):
        to_litert(model, 3)
    assert os.listdir(tmp_path) == []


def test_size_that_random_data_cannot_have(tmp_path):
    model = keras.Sequential([keras.Input((None, 3)), layers.GlobalAveragePooling1D()])
    with pytest.raises(ValueError, match=r"representative_data.*Received: input .*None, None, 3"):
        to_litert(model, tmp_path / "m.tflite")
