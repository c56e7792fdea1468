"""The cache: right under every order, computed once, and anew when it has to be."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from distillation_nets import assert_same, conv_net, images, net, vectors, weights

from keras_optkit.compression.distillation.teacher_cache import INPUTS, OUTPUTS
from keras_optkit.distillation import Distiller, FeatureHint, SoftTargets, TeacherCache


@pytest.fixture
def teacher():
    return net(width=16, seed=7)


def read(dataset):
    """All inputs, labels and outputs of one epoch."""
    parts = [(x[INPUTS], y, x[OUTPUTS][0]["head"]) for x, y in dataset.as_numpy_iterator()]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def runs_of(teacher, monkeypatch):
    """A list that grows by the size of each batch that the teacher sees."""
    seen, run = [], teacher.predict_on_batch
    monkeypatch.setattr(teacher, "predict_on_batch", lambda x: seen.append(len(x)) or run(x))
    return seen


@pytest.mark.parametrize("source", ["arrays", "dataset"])
def test_each_sample_has_its_own_outputs_in_every_order(teacher, tmp_path, source):
    x, y = vectors(40)
    data = (x, y) if source == "arrays" else tf.data.Dataset.from_tensor_slices((x, y))
    dataset = TeacherCache(tmp_path, teacher, data, batch_size=16).build(verbose=0).dataset(12)
    assert int(dataset.cardinality()) == 4
    expected = {
        row.tobytes(): value for row, value in zip(x, teacher.predict(x, verbose=0), strict=True)
    }
    orders = []
    for _ in range(2):
        inputs, labels, outputs = read(dataset)
        for row, value in zip(inputs, outputs, strict=True):
            np.testing.assert_allclose(value, expected[row.tobytes()], rtol=1e-5, atol=1e-6)
        number = [int(np.flatnonzero((x == row).all(-1))[0]) for row in inputs]
        np.testing.assert_array_equal(labels, y[number])
        assert sorted(number) == list(range(40))
        orders.append(number)
    assert orders[0] != orders[1] != list(range(40))


def test_training_on_the_cache_is_training_with_the_teacher(teacher, tmp_path):
    """And so for sample weights and for images of another size."""
    x, y = images(24)
    weight = np.linspace(0, 2, 24).astype("float32")
    teacher, found = conv_net(8, size=12, seed=7), []
    cache = TeacherCache(tmp_path, teacher, (x, y, weight))
    plain = tf.data.Dataset.from_tensor_slices((x, y, weight)).batch(8)
    for source, data in [(teacher, plain), (cache, cache.dataset(8, shuffle=False))]:
        distiller = Distiller(conv_net(), source, SoftTargets())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss=loss, metrics=["accuracy"])
        distiller.fit(data, epochs=2, validation_data=(x, y), verbose=0)
        found.append(weights(distiller.student))
    assert_same(*found, rtol=1e-4, atol=1e-6)


def flip(x, seed):
    return x * tf.cast(tf.random.stateless_uniform((), seed, 0, 2, "int32") * 2 - 1, "float32")


@pytest.mark.parametrize("source", ["arrays", "dataset"])
def test_views_are_replayed(teacher, tmp_path, source):
    x, y = vectors(24)
    data = (x, y) if source == "arrays" else tf.data.Dataset.from_tensor_slices((x, y))
    cache = TeacherCache(tmp_path, teacher, data, augment=flip, views=6, seed=5)
    dataset = cache.dataset(12)
    epochs = [read(dataset) for _ in range(2)]
    for inputs, _, outputs in epochs:
        np.testing.assert_allclose(
            outputs, teacher.predict(inputs, verbose=0), rtol=1e-4, atol=1e-5
        )
    # Both signs of most samples are there, and an epoch has one view of each.
    signed = {row.tobytes() for inputs, *_ in epochs for row in inputs}
    assert len(signed) > 26
    assert all(len({np.abs(r).tobytes() for r in inputs}) == 24 for inputs, *_ in epochs)
    head = json.loads((tmp_path / "cache.json").read_text())
    assert head["done"] == 24 * 6 and head["fingerprint"]["views"][:2] == [6, 5]


def test_it_is_computed_once(teacher, tmp_path, monkeypatch):
    data = vectors(40)
    TeacherCache(tmp_path, teacher, data).build(verbose=0)
    seen = runs_of(teacher, monkeypatch)
    # Labels may change, names of layers too.
    TeacherCache(tmp_path, teacher, (data[0], data[1] + 1)).build(verbose=0)
    assert seen == []


@pytest.mark.parametrize("ensemble", ["logits", "probabilities"])
def test_several_teachers(tmp_path, ensemble):
    """Against a `Distiller` that runs them, each with images of its own size."""
    data = images(24)
    teachers = [conv_net(8, size, seed=size) for size in (12, 10)]
    found = []
    for cached in (False, True):
        source = TeacherCache(tmp_path, teachers, data) if cached else teachers
        fitted = (source.dataset(8, shuffle=False),) if cached else data
        distiller = Distiller(conv_net(), source, SoftTargets(), ensemble=ensemble)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller.compile(keras.optimizers.SGD(0.1), loss=loss)
        distiller.fit(*fitted, batch_size=None if cached else 8, shuffle=False, verbose=0)
        found.append(weights(distiller.student))
    assert_same(*found, rtol=1e-4, atol=1e-6)
    # One of them trained on: all are computed anew.
    teachers[1].layers[-1].bias.assign(np.arange(5.0))
    (x, _), *_ = TeacherCache(tmp_path, teachers, data).dataset(24).as_numpy_iterator()
    resized = keras.ops.image.resize(x[INPUTS], (10, 10), antialias=True)
    expected = teachers[1].predict(keras.ops.convert_to_numpy(resized), verbose=0)
    np.testing.assert_allclose(x[OUTPUTS][1]["head"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "changed",
    ["teacher", "activation", "teacher_preprocessor", "data", "views", "augment", "dtype"],
)
def test_what_has_changed_is_computed_anew(teacher, tmp_path, changed, capsys):
    x, y = vectors(16)
    arguments = {"data": (x, y), "augment": flip, "views": 2}
    TeacherCache(tmp_path, teacher, **arguments).build(verbose=0)
    if changed == "teacher":
        teacher.layers[-1].bias.assign(np.arange(5.0))
    elif changed == "activation":
        teacher = net(width=16, seed=7, activation="tanh")
    elif changed == "teacher_preprocessor":
        arguments["teacher_preprocessor"] = lambda x: x * 2
    elif changed == "augment":
        arguments["augment"] = lambda x, seed: flip(x, seed) * 3
    elif changed == "data":
        arguments["data"] = (x + 1, y)
    elif changed == "views":
        arguments["seed"] = 1
    else:
        arguments["dtype"] = "float16"
    cache = TeacherCache(tmp_path, teacher, **arguments).build()
    said = {"dtype": "outputs", "activation": "teacher", "augment": "views"}
    what = said.get(changed, changed)
    assert f"TeacherCache: the {what} changed, so" in capsys.readouterr().out
    inputs, _, outputs = read(cache.dataset(8))
    tolerance = 1e-2 if changed == "dtype" else 1e-5
    stored = np.load(tmp_path / "output_0.npy", mmap_mode="r").dtype
    assert (stored, outputs.dtype) == (arguments.get("dtype", "float32"), "float32")
    if changed == "teacher_preprocessor":
        inputs = inputs * 2
    np.testing.assert_allclose(outputs, teacher.predict(inputs, verbose=0), atol=tolerance)


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    here = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[2])])
    process = subprocess.run(
        [sys.executable, str(here / "killed_worker.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        timeout=200,
    )
    assert process.returncode == -9
    teacher = net(width=16, seed=7)
    seen = runs_of(teacher, monkeypatch)
    cache = TeacherCache(tmp_path, teacher, vectors(40), batch_size=8)
    inputs, _, outputs = read(cache.dataset(8))
    assert seen == [8, 8, 8]  # Two of five batches were there.
    np.testing.assert_allclose(outputs, teacher.predict(inputs, verbose=0), rtol=1e-4, atol=1e-5)


def test_a_file_of_something_else_is_written_anew(teacher, tmp_path):
    (tmp_path / "cache.json").write_text("{ half a fi")
    TeacherCache(tmp_path, teacher, vectors(16)).build(verbose=0)
    assert json.loads((tmp_path / "cache.json").read_text())["done"] == 16


# What is refused.


def test_data_that_is_random(teacher, tmp_path):
    x, y = vectors(16)
    samples = tf.data.Dataset.from_tensor_slices((x, y))
    noisy = samples.map(lambda x, y: (x + tf.random.normal((6,)), y))
    for data in (noisy, samples.shuffle(16)):
        with pytest.raises(ValueError, match="Two passes over the data gave different samples"):
            TeacherCache(tmp_path, teacher, data).build(verbose=0)
    with pytest.raises(ValueError, match="Received: augment that is random"):
        augment = lambda x, seed: x + tf.random.normal((6,))  # noqa: E731
        TeacherCache(tmp_path, teacher, (x, y), augment=augment).build(verbose=0)
    assert not list(tmp_path.iterdir())


def test_data_that_changes_behind_its_first_batch(teacher, tmp_path):
    x, y = vectors(16)
    late = tf.Variable(0.0)
    data = tf.data.Dataset.from_tensor_slices((x, y)).enumerate()
    data = data.map(lambda i, e: (e[0] + late * tf.cast(i > 7, "float32"), e[1]))
    cache = TeacherCache(tmp_path, teacher, data, batch_size=4)
    dataset = cache.dataset(4)
    read(dataset)
    late.assign(1.0)
    with pytest.raises(tf.errors.OpError, match="not the one that the teacher has seen under its"):
        read(dataset)


def test_data_without_the_outputs(teacher, tmp_path):
    distiller = Distiller(net(), TeacherCache(tmp_path, teacher, vectors()), alpha=1)
    distiller.compile("adam", run_eagerly=True)
    with pytest.raises(ValueError, match=r"Fit on `cache.dataset\(batch_size\)`"):
        distiller.fit(*vectors(), verbose=0)


def test_features(teacher, tmp_path):
    cache = TeacherCache(tmp_path, teacher, vectors())
    with pytest.raises(ValueError, match="leave the losses of features out. Received: losses of "):
        Distiller(net(), cache, FeatureHint("features"))


def test_bad_arguments(teacher, tmp_path):
    data = vectors()
    with pytest.raises(ValueError, match="Several views of a sample need `augment`"):
        TeacherCache(tmp_path, teacher, data, views=2)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        TeacherCache(tmp_path, teacher, data, batch_size=0)
    with pytest.raises(ValueError, match="`dtype` must be"):
        TeacherCache(tmp_path, teacher, data, dtype="int8")
    with pytest.raises(ValueError, match="Small probabilities are lost in float16"):
        TeacherCache(tmp_path, net(activation="softmax"), data, dtype="float16")
    with pytest.raises(ValueError, match="`teacher_preprocessor` must be a function"):
        TeacherCache(tmp_path, teacher, data, teacher_preprocessor="resize")
    with pytest.raises(ValueError, match="`teacher` must be at least one model"):
        TeacherCache(tmp_path, [], data)
    with pytest.raises(ValueError, match=r"arrays of lengths \[32, 31\]"):
        TeacherCache(tmp_path, teacher, (data[0], data[1][1:]))
    with pytest.raises(ValueError, match="`data` must have an end"):
        endless = tf.data.Dataset.from_tensor_slices(data).repeat()
        TeacherCache(tmp_path, teacher, endless)
    with pytest.raises(ValueError, match="The teacher takes other inputs than the student"):
        batched = tf.data.Dataset.from_tensor_slices(data).batch(8)
        TeacherCache(tmp_path, teacher, batched)
