"""One real comparison, its numbers against the files and models that they are of."""

import gzip
import json
import os

import keras
import numpy as np
import pytest
from exported_layers import Doubled
from keras import layers

from keras_optkit import export
from keras_optkit.compression.export.compare import compare


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A trained net, a pruned one, and one that int8 cannot hold; their report and files."""
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(0)
    data = load_digits()
    x, y = (data.images[..., None] / 16).astype("float32"), data.target.astype("int32")
    net = [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(64, "relu"), layers.Dense(10)]
    original = keras.Sequential(net)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    original.compile(keras.optimizers.Adam(0.01), loss)
    original.fit(x[:1200], y[:1200], epochs=4, batch_size=64, verbose=0)
    pruned, crushed = (keras.models.clone_model(original) for _ in range(2))
    kernel, *others = original.get_weights()
    keep = np.abs(kernel) >= np.quantile(np.abs(kernel), 0.7)
    pruned.set_weights([kernel * keep, *others])
    # The offset of 1e4 on all logits takes all of int8's 255 levels.
    crushed.set_weights([kernel, *others[:-1], others[-1] + np.float32(1e4)])
    models = {"original": original, "pruned": pruned, "crushed": crushed}
    folder = tmp_path_factory.mktemp("files")
    x, y = x[1200:1500], y[1200:1500]
    optimizer = original.optimizer
    report = compare(models, (x, y), runs=3, warmup=1, directory=folder)
    assert original.optimizer is optimizer
    return models, x, y, report, folder


def test_numbers_are_those_of_the_models(compared):
    models, x, y, report, _ = compared
    for name, model in models.items():
        stats = report.models[name]
        assert stats.parameters == model.count_params()
        assert stats.nonzero == sum(np.count_nonzero(w) for w in model.get_weights())
        answers = model.predict(x, verbose=0).argmax(-1)
        assert stats.accuracy.value == pytest.approx((answers == y).mean())
        assert stats.accuracy.samples == 300
    assert report.models["original"].accuracy.value > 0.8
    assert report.models["pruned"].nonzero < 0.5 * report.models["pruned"].parameters


def test_numbers_are_those_of_the_files(compared):
    _, x, y, report, folder = compared
    kept = ["crushed_float32", "original_float32", "original_int8", "pruned_float32", "pruned_int8"]
    assert sorted(os.listdir(folder)) == [f"{name}.tflite" for name in kept]
    for file in kept:
        name, kind = file.split("_")
        stats = report.models[name].files[kind]
        content = (folder / f"{file}.tflite").read_bytes()
        assert stats.bytes == len(content)
        assert stats.gzip_bytes == len(gzip.compress(content, 9))
        lite = export.LiteRTModel(folder / f"{file}.tflite")
        assert stats.accuracy.value == pytest.approx(lite.evaluate(x, y)["accuracy"])
        assert 0 < stats.latency.median_ms <= stats.latency.p95_ms
        assert (stats.latency.runs, stats.latency.batch_size) == (3, 1)


def test_keras_bytes_are_those_of_an_uncompiled_model(compared, tmp_path):
    models, _, _, report, _ = compared
    stats = report.models["original"]
    bare = keras.Sequential.from_config(models["original"].get_config())
    bare.set_weights(models["original"].get_weights())
    bare.save(tmp_path / "bare.keras")
    models["original"].save(tmp_path / "whole.keras")
    assert stats.keras_bytes == pytest.approx(os.path.getsize(tmp_path / "bare.keras"), rel=0.05)
    assert stats.keras_bytes < 0.6 * os.path.getsize(tmp_path / "whole.keras")


def test_says_only_what_the_numbers_say(compared):
    _, _, _, report, _ = compared
    notes = "\n".join(report.notes)
    original, pruned = (report.models[n].files["float32"] for n in ("original", "pruned"))
    assert original.bytes == pytest.approx(pruned.bytes, rel=0.02)
    assert pruned.gzip_bytes < 0.7 * original.gzip_bytes
    assert "'pruned' is " in notes
    assert "zeros, and in a dense file they save nothing by themselves" in notes
    assert f"({pruned.gzip_bytes:,} bytes against {original.gzip_bytes:,})" in notes
    assert "'crushed' is" not in notes
    assert "Accuracy of 'crushed'" in notes
    assert "exact McNemar test on 300 samples" in notes
    assert "first 300 inputs of the evaluation data" in notes


def test_flops_of_each_model(compared):
    _, _, _, report, _ = compared
    assert {stats.flops for stats in report.models.values()} == {2 * (64 * 64 + 64 * 10)}


def test_latencies_are_told_from_noise(compared):
    # Three rounds cannot bear out any difference.
    _, _, _, report, _ = compared
    (models,) = [n for n in report.notes if n.startswith("Latency of the float32 files against")]
    assert "'pruned' within noise (" in models
    assert "'crushed' within noise (" in models
    (kinds,) = [n for n in report.notes if n.startswith("Latency of the files of 'pruned' against")]
    assert "its float32 one" in kinds
    assert "int8 within noise (" in kinds
    assert not any("files of 'crushed'" in note for note in report.notes)


def test_a_model_whose_flops_cannot_be_counted(compared):
    models, x, y, _, _ = compared
    loop = keras.Sequential([keras.Input((8, 8, 1)), Doubled(), models["original"]])
    report = compare({"loop": loop}, (x[:20], y[:20]), quantizations=[], runs=1)
    assert report.models["loop"].flops is None
    (note,) = [note for note in report.notes if note.startswith("No FLOPs of 'loop': ")]
    assert "(Doubled)" in note


def test_a_refused_file_leaves_empty_cells_and_its_reason(compared):
    _, _, _, report, _ = compared
    refused = report.models["crushed"].files["int8"]
    assert refused.bytes is refused.latency is refused.accuracy is None
    assert "does not agree" in refused.error
    assert any(note.startswith("No int8 .tflite of 'crushed'") for note in report.notes)
    row = next(line for line in str(report).splitlines() if "int8 .tflite bytes, gzip" in line)
    assert row.split()[-1] == "-"


def test_json_of_a_real_report(compared, tmp_path):
    _, _, _, report, _ = compared
    report.save(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report.to_dict()


def classifier(classes=3, inputs=4):
    return keras.Sequential([keras.Input((inputs,)), layers.Dense(classes)])


X, Y = np.zeros((6, 4), "float32"), np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("models", "data", "message"),
    [
        ({}, (X, Y), "`models` must be a dictionary"),
        ([None], (X, Y), "`models` must be a dictionary"),
        ({"a": None}, (X, Y), "'a' cannot be compared. .* must be a Keras 3 model"),
        ({"a": keras.Sequential([layers.Dense(3)])}, (X, Y), "inputs are not known"),
        ({"a": classifier(), "b": classifier(4)}, (X, Y), "outputs of one shape"),
        ({"a": classifier(), "b": classifier(inputs=5)}, (X, Y), "do not fit the model 'b'"),
        ({"a": classifier()}, X, "must have labels"),
        ({"a": classifier()}, (X, None), "must have labels"),
        ({"a": classifier()}, (X, Y[:3]), "Labels must be"),
        ({"a": classifier()}, (X, Y + 1), r"in \[0, 2\]"),
        ({"a": classifier()}, (X, Y + 0.5), "must be whole"),
        ({"a": classifier()}, (X, np.eye(4)[Y]), r"one-hot labels of shape \(6, 3\)"),
        ({"a": classifier()}, (X[:0], Y[:0]), "is empty"),
    ],
)
def test_unusable_models_and_data(models, data, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*Received"):
        compare(models, data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quantizations": ["int9"]}, "Did you mean 'int8'"),
        ({"runs": 0}, "`runs` must be"),
        ({"threads": 1.5}, "`threads` must be"),
        ({"directory": "no/such/folder"}, "`directory` must be a folder"),
        ({"representative_data": np.zeros((5, 9))}, r"must have the shape \(None, 4\)"),
    ],
)
def test_unusable_settings(arguments, message):
    with pytest.raises(ValueError, match=rf"(?s){message}.*Received"):
        compare({"a": classifier()}, (X, Y), **arguments)


def test_files_that_would_have_one_name(tmp_path):
    models = {"a-b": classifier(), "a b": classifier()}
    with pytest.raises(ValueError, match="would have one name.*Received: models 'a-b' and 'a b'"):
        compare(models, (X, Y), directory=tmp_path)


def test_datasets_without_labels():
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"must have labels.*Received"):
        compare({"a": classifier()}, tf.data.Dataset.from_tensor_slices(X).batch(2))
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2).repeat()
    with pytest.raises(ValueError, match=r"repeats without end.*Received"):
        compare({"a": classifier()}, endless)


def test_more_than_one_output():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, [layers.Dense(3)(inputs), layers.Dense(3)(inputs)])
    with pytest.raises(ValueError, match=r"one output of shape.*Received"):
        compare({"a": model}, (X, Y))
