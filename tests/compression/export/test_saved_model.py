"""Real SavedModels, loaded again by TensorFlow."""

import os

import keras
import numpy as np
import pytest
from exported_layers import FrozenNoise
from exported_nets import augmented_net, conv_net, dict_net, sample, several_net

from keras_optkit.compression.export import saved_model
from keras_optkit.compression.export.check import ConversionError
from keras_optkit.compression.export.saved_model import to_saved_model

NETS = {
    "conv": conv_net,
    "several": several_net,
    "dict": dict_net,
    "augmented": augmented_net,
}
if keras.backend.backend() == "jax":
    # A conversion there takes seconds.
    NETS = {"several": several_net}


@pytest.mark.backends("tensorflow", "jax")
@pytest.mark.parametrize("net", NETS)
def test_it_computes_what_keras_computes(tmp_path, net):
    import tensorflow as tf

    model = NETS[net]()
    data = sample(model)
    calls = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    to_saved_model(model, tmp_path / "served", representative_data=data)
    assert os.listdir(tmp_path) == ["served"]
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == calls

    as_dict = isinstance(getattr(model, "input", None), dict)
    inputs = data if as_dict else list(data.values())
    inputs = inputs if len(data) > 1 else inputs[0]
    want = model.predict(inputs, verbose=0)
    served = tf.saved_model.load(str(tmp_path / "served"))
    got = served.serve(keras.tree.map_structure(tf.constant, inputs))
    if net == "several":
        want = dict(zip(("second", "first"), want, strict=True))
    if isinstance(want, dict):
        assert sorted(got) == sorted(want)
    for a, b in zip(keras.tree.flatten(want), keras.tree.flatten(got), strict=True):
        tolerance = 5e-3 if net == "augmented" else 1e-5
        assert np.abs(a - b.numpy()).max() <= tolerance * np.abs(a).max()


def serve(path, x):
    import tensorflow as tf

    served = tf.saved_model.load(str(path))
    return served.serve(x).numpy()


@pytest.mark.backends("tensorflow")
def test_an_old_one_is_replaced_only_on_success(tmp_path, make_model, monkeypatch):
    path, model = tmp_path / "served", make_model()
    to_saved_model(model, path)
    x = np.ones((2, 4), "float32")
    first = serve(path, x)

    noise = keras.Sequential([keras.Input((4,)), FrozenNoise()])
    with pytest.raises(ConversionError, match="does not agree with the Keras model"):
        to_saved_model(noise, path)
    rename = os.rename

    def fail(source, target):
        if os.path.basename(source) == "new":
            raise OSError("no space left")
        rename(source, target)

    monkeypatch.setattr(saved_model.os, "rename", fail)
    with pytest.raises(OSError, match="no space left"):
        to_saved_model(make_model(), path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["served"]
    np.testing.assert_array_equal(serve(path, x), first)

    other = make_model()
    to_saved_model(other, path)
    np.testing.assert_allclose(serve(path, x), other.predict(x, verbose=0), rtol=1e-5)
    assert os.listdir(tmp_path) == ["served"]


def test_bad_places(tmp_path, make_model):
    model = make_model()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    for path, message in (
        (tmp_path / "mine", "holds something else than a SavedModel"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "no" / "served", "folder that does not exist"),
        (3, "must be the path of a folder"),
    ):
        with pytest.raises(ValueError, match=rf"{message}.*Received"):
            to_saved_model(model, path)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    assert sorted(os.listdir(tmp_path)) == ["file", "mine"]


@pytest.mark.backends("torch")
def test_torch_is_told_the_way(tmp_path, make_model):
    with pytest.raises(ValueError, match=r"TensorFlow and JAX.*Received: backend='torch'"):
        to_saved_model(make_model(), tmp_path / "served")
    assert os.listdir(tmp_path) == []
