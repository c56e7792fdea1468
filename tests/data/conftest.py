"""Datasets that several tests read, prepared once, and small folders of images."""

import socketserver
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A folder in which the embedded digits are prepared."""
    from keras_optkit import data

    folder = tmp_path_factory.mktemp("tfds")
    data.info("optkit_digits", data_dir=folder)
    return folder


@pytest.fixture(scope="session")
def shared_dir():
    """The folder beside the checkout that holds a prepared copy of Fashion-MNIST."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "tfds"
    if not (folder / "fashion_mnist").is_dir():
        pytest.skip(f"there is no prepared fashion_mnist in {folder}")
    return folder


@pytest.fixture
def write_images(tmp_path):
    """A function that writes `counts` images for each class and returns the folder."""

    def write(counts, folder="images", suffix=".png", size=(6, 9)):
        rng = np.random.default_rng(0)
        for name, count in counts.items():
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{i:03d}{suffix}")
        return tmp_path / folder

    return write


@pytest.fixture
def make_classifier():
    """A function that returns a small compiled classifier of images in [0, 255]."""

    def make(shape, classes):
        model = keras.Sequential(
            [
                keras.Input(shape),
                keras.layers.Rescaling(1 / 255),
                keras.layers.Flatten(),
                keras.layers.Dense(32, activation="relu"),
                keras.layers.Dense(classes),
            ]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])
        return model

    return make


@pytest.fixture
def no_network(monkeypatch):
    """A proxy that hangs up, as all the way out that there is; it counts who tried."""

    class HangUp(socketserver.BaseRequestHandler):
        def handle(self):
            self.server.attempts += 1

    with socketserver.TCPServer(("127.0.0.1", 0), HangUp) as server:
        server.attempts = 0
        proxy = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        for name in ("http_proxy", "https_proxy"):
            for spelling in (name, name.upper()):
                monkeypatch.setenv(spelling, proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield server
        server.shutdown()
        thread.join()
