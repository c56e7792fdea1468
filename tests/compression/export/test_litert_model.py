"""The face of a file: data in any structure, Keras' metrics, quantized inputs, times."""

import collections

import keras
import numpy as np
import pytest
from exported_nets import converted_nets

from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.measure import Latency


@pytest.fixture(scope="module")
def converted():
    return converted_nets()[0]


@pytest.fixture(scope="module")
def labelled(converted):
    """`pruned`, its inputs, and labels that it gets right for three samples in four."""
    case = converted["pruned"]
    x = next(iter(case.data.values()))
    y = case.files[None].predict(x).argmax(-1)
    y[::4] = (y[::4] + 1) % 10
    return case.files[None], x, y


def test_structures_of_inputs(converted):
    case = converted["several"]
    file, data = case.files[None], case.data
    want = file.predict(data)
    assert list(want) == ["second", "first"]
    values = list(data.values())
    backwards = dict(reversed(data.items()))
    ordered = collections.OrderedDict(sorted(data.items()))
    keras_names = dict(zip(("zeta", "alpha", "mid-x"), values, strict=True))
    tensors = [keras.ops.convert_to_tensor(value) for value in values]
    for x in (values, tuple(values), backwards, ordered, keras_names, tensors):
        got = file.predict(x, batch_size=5)
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_missing_last_axis_is_added_as_keras_adds_it(converted):
    case = converted["conv"]
    x = next(iter(case.data.values()))
    np.testing.assert_array_equal(case.files[None].predict(x[..., 0]), case.files[None].predict(x))


def test_predict_on_a_dataset(labelled):
    import tensorflow as tf

    file, x, y = labelled
    want = file.predict(x)
    for dataset in (
        tf.data.Dataset.from_tensor_slices((x, y)).batch(7),
        tf.data.Dataset.from_tensor_slices(x).batch(7),
        Batches(x, y),
    ):
        np.testing.assert_allclose(file.predict(dataset), want, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"repeats without end.*Received"):
        file.predict(tf.data.Dataset.from_tensors(x).repeat())


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return self.x[8 * i : 8 * i + 8], self.y[8 * i : 8 * i + 8]


def test_evaluate_is_what_numpy_says(labelled):
    file, x, y = labelled
    predicted = file.predict(x).astype("float64")
    loss = -np.log(np.clip(predicted[np.arange(len(y)), y], 1e-7, 1 - 1e-7)).mean()
    got = file.evaluate(x, y, metrics=["accuracy", keras.metrics.SparseCategoricalCrossentropy()])
    assert got["accuracy"] == pytest.approx(0.75)
    assert got["sparse_categorical_crossentropy"] == pytest.approx(loss, rel=1e-5)
    one_hot = np.eye(10, dtype="float32")[y]
    assert file.evaluate(x, one_hot, batch_size=5) == {"accuracy": pytest.approx(0.75)}
    mse = file.evaluate(x, one_hot, metrics=keras.losses.mean_squared_error)
    assert mse["mean_squared_error"] == pytest.approx(np.square(predicted - one_hot).mean())


def test_evaluate_on_a_dataset_with_weights(labelled):
    import tensorflow as tf

    file, x, y = labelled
    weights = np.zeros(len(y), "float32")
    weights[:8] = 1.0
    dataset = tf.data.Dataset.from_tensor_slices((x, y, weights)).batch(5)
    assert file.evaluate(dataset) == {"accuracy": pytest.approx(0.75)}
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    metric = keras.metrics.SparseCategoricalAccuracy()
    for _ in range(2):
        assert file.evaluate(dataset, metrics=metric) == {metric.name: pytest.approx(0.75)}


def test_evaluate_several_outputs(converted):
    case = converted["dict"]
    file = case.files[None]
    want = file.predict(case.data)
    y = {name: value + shift for (name, value), shift in zip(want.items(), (1, 2), strict=True)}
    metrics = {"u": "mae", "v": ["mae", "mse"]}
    got = file.evaluate(case.data, y, metrics=metrics)
    shift = dict(zip(want, (1.0, 2.0), strict=True))
    assert got["u_mean_absolute_error"] == pytest.approx(shift["u"], rel=1e-5)
    assert got["v_mean_absolute_error"] == pytest.approx(shift["v"], rel=1e-5)
    assert got["v_mean_squared_error"] == pytest.approx(shift["v"] ** 2, rel=1e-5)
    with pytest.raises(ValueError, match=r"`metrics` must be a dictionary by output.*Received"):
        file.evaluate(case.data, y, metrics="mae")
    with pytest.raises(ValueError, match=r"`y` must have one entry for each output.*Received"):
        file.evaluate(case.data, {"u": y["u"]}, metrics=metrics)


def test_binary_accuracy_by_shape(tmp_path):
    # No conversion: a file that returns its one input column.
    file = LiteRTModel.from_bytes(quantized_file(None))
    x = np.array([[0.2], [0.7], [0.9], [0.4]], "float32")
    assert file.evaluate(x, np.array([[0], [1], [0], [0]])) == {"accuracy": 0.75}


def quantized_file(dtype, batch=None):
    """A file that returns its input times one, made by the converter alone."""
    import tensorflow as tf

    from keras_optkit.compression.export.quiet import quiet

    class Identity(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((batch, 1), tf.float32, name="x")])
        def serve(self, x):
            return {"y": tf.nn.relu(x)}

    module = Identity()
    with quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.serve.get_concrete_function()], module
        )
        if dtype is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = dtype
            grid = np.linspace(0, 1, 64, dtype="float32")
            converter.representative_dataset = lambda: ([v.reshape(1, 1)] for v in grid)
        return converter.convert()


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantized_inputs_and_outputs_are_floats_outside(dtype):
    import tensorflow as tf

    file = LiteRTModel.from_bytes(quantized_file(getattr(tf, dtype)))
    assert {spec.dtype for spec in (*file.inputs, *file.outputs)} == {"float32"}
    x = np.linspace(0, 1, 33, dtype="float32")[:, None]
    np.testing.assert_allclose(file.predict(x), x, atol=1 / 255)
    # Beyond the calibrated range it saturates instead of wrapping around.
    np.testing.assert_allclose(file.predict(x[-1:] + 5), [[1.0]], atol=1 / 255)


def test_fixed_batch_size():
    file = LiteRTModel.from_bytes(quantized_file(None, batch=4))
    assert file.fixed_batch == 4
    x = np.arange(10, dtype="float32")[:, None]
    np.testing.assert_array_equal(file.predict(x), x)
    assert file.benchmark(runs=2, warmup=0).batch_size == 4


def test_benchmark(converted):
    latency = converted["conv"].files["int8"].benchmark(runs=7, warmup=1, threads=2, batch_size=3)
    assert isinstance(latency, Latency)
    assert 0 < latency.median_ms <= latency.p95_ms
    assert (latency.runs, latency.threads, latency.batch_size) == (7, 2, 3)
    with pytest.raises(AttributeError):
        latency.median_ms = 0.0


def test_benchmark_leaves_predict_as_it_was(converted):
    case = converted["conv"]
    want = case.files[None].predict(case.data)
    case.files[None].benchmark(runs=1, warmup=0, batch_size=5)
    np.testing.assert_array_equal(case.files[None].predict(case.data), want)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runs": 0}, "`runs` must be an integer of at least 1"),
        ({"runs": "9"}, "`runs` must be an integer"),
        ({"warmup": -1}, "`warmup` must be an integer of at least 0"),
        ({"threads": 0}, "`threads` must be"),
        ({"batch_size": 2.5}, "`batch_size` must be"),
        ({"batch_size": 9, "x": np.zeros((8, 8, 8, 1))}, "at least 9 sample"),
    ],
)
def test_benchmark_arguments(converted, arguments, message):
    with pytest.raises(ValueError, match=rf"{message}.*Received"):
        converted["conv"].files[None].benchmark(**arguments)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"zeta": np.zeros((2, 4)), "alpha": np.zeros((2, 4))}, "no array for the input 'mid_x'"),
        ({"alfa": 0, "zeta": 0, "mid_x": 0}, "Did you mean 'alpha'"),
        ([np.zeros((2, 4))] * 2, "3 input"),
        ([np.zeros((2, 4)), np.zeros((3, 4)), np.zeros((2, 4))], "same number of samples"),
        ([np.zeros((2, 5))] * 3, r"must have the shape \(None, 4\)"),
    ],
)
def test_data_that_do_not_fit(converted, x, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*Received"):
        converted["several"].files[None].predict(x)


def test_labels_that_do_not_fit(labelled):
    file, x, y = labelled
    with pytest.raises(ValueError, match=r"needs labels.*Received"):
        file.evaluate(x)
    with pytest.raises(ValueError, match=r"one label for each sample.*Received"):
        file.evaluate(x, y[:5])


def test_not_a_file(tmp_path):
    with pytest.raises(ValueError, match=r"must be an existing .*Received"):
        LiteRTModel(tmp_path / "no.tflite")
    with pytest.raises(ValueError, match=r"must be an existing .*Received"):
        LiteRTModel(None)
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(ValueError, match=r"cannot run this file.*Received"):
        LiteRTModel(tmp_path / "text.tflite")
