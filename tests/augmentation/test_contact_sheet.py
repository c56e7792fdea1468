import sys

import cv2
import keras
import numpy as np
import pytest

from keras_optkit import augmentation
from keras_optkit.augmentation import AugmentationPipeline, MixUp, RandomAffine, RandomErasing


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3)).astype("uint8")


def test_saves_a_picture_and_returns_what_was_drawn(images, tmp_path):
    layer = AugmentationPipeline([RandomAffine(rotation=20), MixUp(num_classes=4)], seed=0)
    tables = augmentation.show(layer, images, tmp_path / "a.png", labels=np.arange(4), samples=2)
    picture = cv2.imread(str(tmp_path / "a.png"))
    height, width = picture.shape[:2]
    assert width == 4 * 2.2 * 120
    assert height == 3 * (2.2 * 12 / 16 + 1.1) * 120
    assert picture.std() > 20
    assert len(tables) == 2
    assert tables[0]["0"]["matrices"].shape == (4, 2, 3)
    # They are the draws of the layer's stream.
    layer = AugmentationPipeline([RandomAffine(rotation=20), MixUp(num_classes=4)], seed=0)
    _, table = layer._on_host(images, np.arange(4), True)
    np.testing.assert_array_equal(table["0"]["matrices"], tables[0]["0"]["matrices"])


def test_takes_what_the_layer_takes(images, tmp_path):
    grey = images[..., :1].astype("float32") / 255
    layer = RandomErasing(value_range=(0, 1))
    augmentation.show(layer, grey, tmp_path / "grey.svg", samples=1, parameters=False)
    assert (tmp_path / "grey.svg").read_text().startswith("<?xml")
    first = RandomErasing(data_format="channels_first")
    tensor = keras.ops.convert_to_tensor(images.transpose(0, 3, 1, 2))
    augmentation.show(first, tensor, tmp_path / "first.png", samples=1, columns=2)
    assert cv2.imread(str(tmp_path / "first.png")).shape[1] == 2 * 2.2 * 120


def test_leaves_matplotlib_alone(images, tmp_path):
    import matplotlib

    before = matplotlib.get_backend(auto_select=False)
    pyplot = "matplotlib.pyplot" in sys.modules
    augmentation.show(RandomAffine(), images, tmp_path / "a.png", samples=1)
    assert matplotlib.get_backend(auto_select=False) == before
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


def test_words_say_what_was_done():
    images = np.zeros((1, 20, 40, 3), "uint8")
    cases = {
        "turn +30\N{DEGREE SIGN}": RandomAffine(rotation=(30, 30)),
        "zoom 1.50": RandomAffine(zoom=(1.5, 1.5)),
        "shift +10, +5 px": RandomAffine(translation=((0.25, 0.25), (0.25, 0.25))),
        "as it was": RandomAffine(),
        "erase 20 x 10 px": RandomErasing(1.0, scale=(0.25, 0.25), ratio=(0.5, 0.5)),
    }
    from keras_optkit.augmentation.contact_sheet import _words

    for words, layer in cases.items():
        _, table = layer._on_host(images, None, True)
        assert _words(layer, table, (20, 40), 1) == [words]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": keras.layers.RandomFlip()}, "must be an augmentation layer"),
        ({"samples": 0}, "`samples` must be an integer of at least 1. Received: samples=0"),
        ({"columns": 1.5}, "Received: columns=1.5"),
        ({"images": np.zeros((2, 4, 4, 2), "uint8")}, r"1 or 3 channels.*\(2, 4, 4, 2\)"),
        ({"images": np.zeros((4, 4, 3), "uint8")}, r"a batch of images.*\(4, 4, 3\)"),
    ],
)
def test_bad_arguments(images, tmp_path, change, message):
    arguments = {"layer": RandomAffine(), "images": images, "path": tmp_path / "a.png", **change}
    with pytest.raises(ValueError, match=message):
        augmentation.show(**arguments)
    assert not list(tmp_path.iterdir())
