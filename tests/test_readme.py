"""The README's code runs as it stands there."""

import pathlib
import re

import keras
import numpy as np
import pytest

import keras_optkit

# All that it shows has tests of its own on JAX, which takes two minutes to compile it.
pytestmark = pytest.mark.backends("tensorflow", "torch")
README = pathlib.Path(__file__).parents[1] / "README.md"


def test_before_and_after(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    images, y = digits[0][:300], digits[1][:300]
    x = np.pad(255 * np.kron(images, np.ones((1, 3, 3, 1))), ((0, 0), (2, 2), (2, 2), (0, 0)))
    for block in blocks:
        names = {"keras": keras, "x": x, "y": y}
        exec(block.replace("epochs=30", "epochs=20, verbose=0"), names)
        assert names["model"].count_params() > 0
    assert (tmp_path / "model.tflite").stat().st_size > 10_000


def _compiled(model):
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def test_snippets(digits, tmp_path, monkeypatch):
    import tensorflow as tf

    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)
    images, y = 255 * np.repeat(digits[0][:64], 3, axis=-1), digits[1][:64]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    _compiled(model)
    names = {"keras": keras, "optkit": keras_optkit, "model": model, "teacher": model}
    names.update(x=images, y=y, x_val=images, y_val=y, images=images[:4])
    names["student"] = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    names["build"] = lambda: _compiled(keras.models.clone_model(model))
    names["dataset"] = tf.data.Dataset.from_tensor_slices((images, y)).batch(16)
    blocks = re.findall(r"```py\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 10
    for block in blocks:
        # The bridge trains on TensorFlow, whatever the backend.
        if "tfmot" not in block or keras.backend.backend() == "tensorflow":
            exec(re.sub("epochs=\\d+", "epochs=1, verbose=0", block), names)
    assert next(iter(names["mixed"]))[1].shape == (16, 10)
    assert len(names["folded"].layers) == len(model.layers) - 1
    assert names["small"].count_params() < model.count_params()
    files = ("augmented.png", "range_test.png", "report/training.png", "student.keras")
    for file in (*files, "report.png", "smaller.tflite", "tuned/best.keras"):
        assert (tmp_path / file).stat().st_size > 1000
