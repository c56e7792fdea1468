"""Real ONNX files on the real runtime."""

import importlib.util
import os

import keras
import numpy as np
import pytest
from exported_layers import FrozenNoise
from exported_nets import augmented_net, conv_net, dict_net, randomize, sample, several_net
from keras import layers

from keras_optkit.compression.export.check import ConversionError
from keras_optkit.compression.export.onnx_file import to_onnx

BACKEND = keras.backend.backend()


@pytest.fixture
def onnxruntime():
    """ONNX Runtime, where all packages that an export needs are installed."""
    converter = {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "torch"}[BACKEND]
    for name in ("onnx", converter):
        pytest.importorskip(name)
    return pytest.importorskip("onnxruntime")


def random_net():
    """Layers that are active unless a call says that it is inference."""
    inputs = keras.Input((4, 4, 2), name="x")
    x = layers.GaussianNoise(0.5)(layers.RandomFlip()(layers.RandomRotation(0.3)(inputs)))
    return randomize(keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x))))


NETS = {
    "conv": conv_net,
    "several": several_net,
    "dict": dict_net,
    "random": random_net,
    "half": lambda: keras.Sequential(
        [keras.Input((4,), name="x"), layers.Dense(8, dtype="mixed_float16"), layers.Dense(2)]
    ),
}


@pytest.mark.parametrize("net", NETS)
def test_file_computes_what_keras_computes(onnxruntime, tmp_path, net):
    model = NETS[net]()
    data = sample(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    # On torch, layers are modules, which the exporter turns to evaluation.
    flags = [getattr(layer, "training", None) for layer in model._flatten_layers()]
    trainable = [layer.trainable for layer in model.layers]
    calls = [len(layer._inbound_nodes) for layer in model._flatten_layers()]

    to_onnx(model, path, representative_data=data)

    assert [getattr(layer, "training", None) for layer in model._flatten_layers()] == flags
    assert os.listdir(tmp_path) == ["model.onnx"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == list(data)
    inputs = data if isinstance(getattr(model, "input", None), dict) else list(data.values())
    want = keras.tree.flatten(model.predict(inputs if len(data) > 1 else inputs[0], verbose=0))
    names = {"several": ["second", "first"], "dict": ["u", "v"]}
    got_names = [o.name for o in session.get_outputs()]
    assert got_names == names.get(net, [model.layers[-1].name])
    tolerance = 5e-3 if net == "half" else 1e-5
    for one in (slice(0, 1), slice(None)):
        got = session.run(None, {name: array[one] for name, array in data.items()})
        for a, b in zip(want, got, strict=True):
            assert np.abs(a[one] - b).max() <= tolerance * np.abs(a).max()
    # Nothing of the model is changed.
    assert [layer.trainable for layer in model.layers] == trainable
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == calls


@pytest.mark.backends("tensorflow")
def test_constants_that_became_inputs_are_told(onnxruntime, tmp_path):
    with pytest.raises(ConversionError, match=r"`Normalization` layer does that.*Received"):
        to_onnx(augmented_net(), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_refusals_leave_the_old_file(onnxruntime, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    noise = keras.Sequential([keras.Input((4,)), FrozenNoise()])
    with pytest.raises(ConversionError, match=r"The converted file does not (agree|run)"):
        to_onnx(noise, path)
    refused = keras.Input((4,))
    refused = keras.Model(refused, keras.ops.erfinv(refused))
    with pytest.raises(ConversionError, match=r"(refused the model|does not run).*Received"):
        to_onnx(refused, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_unchecked_without_the_runtime(onnxruntime, tmp_path, make_model, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.warns(UserWarning, match="unchecked; `pip install onnxruntime`"):
        to_onnx(make_model(), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == ["model.onnx"]


def test_says_what_to_install(tmp_path, make_model, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"`pip install onnx .*Received: backend="):
        to_onnx(make_model(), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []


def test_bad_input(onnxruntime, tmp_path, make_model):
    model = make_model()
    open_sizes = keras.Sequential([keras.Input((None, 3)), layers.GlobalAveragePooling1D()])
    with pytest.raises(ValueError, match=r"representative_data.*Received: input"):
        to_onnx(open_sizes, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match=r"is a folder.*Received"):
        to_onnx(model, tmp_path)
    with pytest.raises(ValueError, match=r"`tolerance` must be.*Received"):
        to_onnx(model, tmp_path / "model.onnx", tolerance=-1)
    with pytest.raises(ValueError, match=r"must have the shape.*Received"):
        to_onnx(model, tmp_path / "model.onnx", np.zeros((3, 5)))
    with pytest.raises(ValueError, match=r"must be a Keras 3 model.*Received"):
        to_onnx(None, tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == []
