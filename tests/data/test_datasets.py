import contextlib
import io
import logging
import random
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_optkit import data


def _images(dataset):
    return np.concatenate([np.asarray(x) for x, *_ in dataset])


def _labels(dataset):
    return np.concatenate([np.asarray(y) for _, y in dataset])


def _stored(data_dir, name, split):
    """The examples in stored order, as TFDS itself gives them."""
    import tensorflow_datasets as tfds

    dataset = tfds.load(
        name, split=split, data_dir=data_dir, download=False, batch_size=-1, as_supervised=True
    )
    return tfds.as_numpy(dataset)


def test_a_test_split_keeps_its_order_and_its_pixels(data_dir):
    test = data.load("optkit_digits", split="test", data_dir=data_dir)
    images, labels = _stored(data_dir, "optkit_digits", "test")
    np.testing.assert_array_equal(_images(test), images)
    np.testing.assert_array_equal(_labels(test), labels)
    for _ in range(2):
        np.testing.assert_array_equal(_labels(test), labels)


def test_dtypes_shapes_and_length(data_dir):
    dataset = data.load("optkit_digits", batch_size=100, data_dir=data_dir)
    x, y = next(iter(dataset))
    assert (x.dtype, y.dtype) == ("float32", "int32")
    assert (tuple(x.shape), tuple(y.shape)) == ((100, 8, 8, 1), (100,))
    assert dataset.element_spec[0].shape[1:] == (8, 8, 1)
    assert (float(np.min(x)), float(np.max(x))) == (0.0, 255.0)
    assert len(dataset) == 15  # 1433 images
    assert [len(y) for _, y in dataset][-1] == 33
    assert dataset.class_names == [str(i) for i in range(10)]


def test_a_training_split_is_shuffled_anew_each_epoch(data_dir):
    train = data.load("optkit_digits", data_dir=data_dir)
    _, stored = _stored(data_dir, "optkit_digits", "train")
    first, second = _labels(train), _labels(train)
    assert not np.array_equal(first, stored)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first), np.sort(stored))
    # Over all of the data: what comes first may come from the end.
    images, _ = _stored(data_dir, "optkit_digits", "train")
    start = {image.tobytes() for image in images[:700].astype("float32")}
    assert any(image.tobytes() not in start for image in _images(train)[:32])


@pytest.mark.parametrize("cache", [True, False])
def test_a_seed_repeats_every_epoch(data_dir, cache):
    def epochs(seed, **kwargs):
        kwargs.update(data_dir=data_dir, split="train[:300]", cache=cache)
        train = data.load("optkit_digits", seed=seed, **kwargs)
        return [_images(train) for _ in range(2)]

    noise = keras.layers.RandomTranslation(0.2, 0.2, seed=1)
    again = keras.layers.RandomTranslation(0.2, 0.2, seed=1)
    one, two = epochs(3, augment=noise), epochs(3, augment=again)
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(epochs(3)[0], epochs(4)[0])


def test_shuffle_is_decided_by_the_split_and_can_be_said(data_dir):
    def ordered(split, **kwargs):
        _, labels = _stored(data_dir, "optkit_digits", split)
        return np.array_equal(_labels(data.load(split=split, data_dir=data_dir, **kwargs)), labels)

    assert not ordered("train[:5%]")
    assert not ordered("test[:50]+train[:20]")
    assert ordered("train[:100]", shuffle=False)
    assert not ordered("test[:100]", shuffle=True)
    assert ordered("test[:100]", seed=0)


def test_of_several_splits_the_first_from_train_is_for_training(data_dir):
    def darker(images):
        return images * 0.0

    train, validation, test = data.load(
        split=("train[:80%]", "train[80%:]", "test"), data_dir=data_dir, augment=darker
    )
    assert [sum(len(y) for _, y in part) for part in (train, validation, test)] == [1146, 287, 364]
    assert _images(train).max() == 0
    assert _images(validation).max() == _images(test).max() == 255
    _, labels = _stored(data_dir, "optkit_digits", "train[80%:]")
    np.testing.assert_array_equal(_labels(validation), labels)
    reversed_order = data.load(split=["test", "train"], data_dir=data_dir, augment=darker)
    assert [_images(part).max() for part in reversed_order] == [255, 0]


def test_tfds_split_objects(data_dir):
    import tensorflow_datasets as tfds

    thirds = tfds.even_splits("test", 3)
    parts = data.load(split=thirds, data_dir=data_dir)
    whole = _labels(data.load(split="test", data_dir=data_dir))
    np.testing.assert_array_equal(np.concatenate([_labels(part) for part in parts]), whole)


def test_resize_agrees_with_pillow(shared_dir):
    from PIL import Image

    kwargs = {"split": "test[:20]", "data_dir": shared_dir}
    originals = _images(data.load("fashion_mnist", **kwargs))[..., 0].astype("uint8")
    for height, width in ((13, 20), (40, 31)):
        ours = _images(data.load("fashion_mnist", image_size=(height, width), **kwargs))
        # In Pillow's mode F, which computes in floats as TensorFlow does.
        theirs = [
            np.asarray(
                Image.fromarray(image.astype("float32")).resize(
                    (width, height), Image.Resampling.BILINEAR
                )
            )
            for image in originals
        ]
        assert ours.shape == (20, height, width, 1)
        np.testing.assert_array_equal(ours, np.round(ours))
        np.testing.assert_allclose(ours[..., 0], theirs, atol=0.5 + 1e-3)


def test_the_prepared_copy_of_a_tfds_dataset(shared_dir):
    split = "test[:10%]"
    dataset = data.load("fashion_mnist", split=split, batch_size=50, data_dir=str(shared_dir))
    images, labels = _stored(shared_dir, "fashion_mnist", split)
    assert len(dataset) == 20
    np.testing.assert_array_equal(_images(dataset), images)
    np.testing.assert_array_equal(_labels(dataset), labels)
    assert dataset.class_names[0] == "T-shirt/top"


@pytest.mark.parametrize(("limit", "fits"), [(364 * 64, True), (364 * 64 - 1, False)])
def test_it_caches_what_fits(tmp_path, data_dir, monkeypatch, limit, fits):
    monkeypatch.setattr("keras_optkit.data.input_pipeline.MEMORY_LIMIT", limit)
    shutil.copytree(data_dir / "optkit_digits", tmp_path / "optkit_digits")
    test = data.load(split="test", data_dir=tmp_path)
    _images(test)
    for path in tmp_path.rglob("*.tfrecord*"):
        path.write_bytes(b"")
    with contextlib.nullcontext() if fits else pytest.raises(Exception, match="364 elements"):
        _images(test)


@pytest.mark.parametrize("cache", [True, False])
def test_caching_changes_nothing_but_the_reading(tmp_path, data_dir, cache):
    shutil.copytree(data_dir / "optkit_digits", tmp_path / "optkit_digits")
    test = data.load(split="test", data_dir=tmp_path, image_size=5, cache=cache)
    first = _images(test)
    for path in tmp_path.rglob("*.tfrecord*"):
        path.write_bytes(b"")
    if cache:
        np.testing.assert_array_equal(_images(test), first)
    else:
        with pytest.raises(Exception, match="expected to contain 364 elements"):
            _images(test)


def test_a_keras_layer_augments_in_every_batch(data_dir):
    flip = keras.layers.Pipeline(
        [keras.layers.RandomFlip("horizontal", seed=0), keras.layers.RandomBrightness(0.2, seed=0)]
    )
    train = data.load(data_dir=data_dir, augment=flip, seed=0, shuffle=None)
    plain = data.load(data_dir=data_dir, seed=0)
    assert not np.array_equal(_images(train), _images(plain))
    np.testing.assert_array_equal(_labels(train), _labels(plain))
    assert len(train) == len(plain)


def test_fit_trains_on_it(data_dir, make_classifier):
    train, test = data.load(
        split=["train", "test"],
        batch_size=128,
        data_dir=data_dir,
        augment=keras.layers.RandomTranslation(0.1, 0.1, fill_mode="constant", seed=0),
        seed=0,
    )
    model = make_classifier((8, 8, 1), 10)
    history = model.fit(train, validation_data=test, epochs=4, verbose=0, shuffle=False).history
    assert history["val_accuracy"][-1] > 0.7
    assert model.optimizer.iterations == 4 * 12


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A TFDS dataset of images that differ in size, each with a mask that cannot be decoded."""
    import tensorflow_datasets as tfds

    class OptkitTestPets(tfds.core.GeneratorBasedBuilder):
        """Grey images of 16 bits, and PNG masks."""

        VERSION = tfds.core.Version("1.0.0")
        MASK = b"not a picture"

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        "image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16),
                        "mask": tfds.features.Image(shape=(None, None, 1)),
                        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                    }
                ),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                image = np.full((4 + i, 9 - i, 1), 1000 * i, np.uint16)
                yield i, {"image": image, "mask": io.BytesIO(self.MASK), "label": i % 2}

    folder = tmp_path_factory.mktemp("pets")
    builder = OptkitTestPets(data_dir=folder)
    tfds.display_progress_bar(False)
    builder.download_and_prepare()
    tfds.display_progress_bar(True)
    return folder


def test_images_that_differ_in_size(pets):
    name = "optkit_test_pets"
    with pytest.raises(ValueError, match=r"differ in size.*image_size=.*Received: image_size=None"):
        data.load(name, data_dir=pets)
    assert data.info(name, data_dir=pets).image_shape == (None, None, 1)
    # Nothing but the image is decoded, and 16 bits keep their range.
    images = _images(data.load(name, data_dir=pets, image_size=(3, 2), shuffle=False))
    assert images.shape == (6, 3, 2, 1)
    np.testing.assert_allclose(np.sort(images.max((1, 2, 3))), 1000 * np.arange(6), rtol=1e-4)


def test_info(data_dir, shared_dir):
    assert data.info(data_dir=data_dir) == data.DatasetInfo(
        name="optkit_digits:1.0.0",
        num_classes=10,
        image_shape=(8, 8, 1),
        class_names=tuple("0123456789"),
        num_examples={"train": 1433, "test": 364},
    )
    fashion = data.info("fashion_mnist", data_dir=shared_dir)
    assert (fashion.num_classes, fashion.image_shape) == (10, (28, 28, 1))
    assert fashion.num_examples == {"train": 60000, "test": 10000}


@pytest.mark.parametrize("call", [data.load, data.info])
def test_nothing_prepared_offline(tmp_path, call, no_network):
    message = r"'fashion_mnist' is not prepared in .*download=True.*data_dir=.*Received: name="
    with pytest.raises(FileNotFoundError, match=message) as caught:
        call("fashion_mnist", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert no_network.attempts == 0


def test_another_version_is_pointed_at(tmp_path, shared_dir):
    shutil.copytree(shared_dir / "fashion_mnist" / "3.0.1", tmp_path / "fashion_mnist" / "3.0.0")
    with pytest.raises(FileNotFoundError, match=r"'fashion_mnist:3\.0\.0' as the name"):
        data.load("fashion_mnist", data_dir=tmp_path)


def test_download_without_a_network(tmp_path, no_network):
    message = "cannot be reached.*Received: name='fashion_mnist', download=True"
    with pytest.raises(ConnectionError, match=message):
        data.load("fashion_mnist", data_dir=tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []
    assert no_network.attempts == 1  # one, and no series of retries


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fashion_mnits", "Did you mean 'fashion_mnist'"),
        ("optkit_digit", "Did you mean 'optkit_digits'"),
        ("cifar_10:3.0.2", "'cifar10'"),
        ("zzzzzzzz", r"list_builders\(\)` lists the \d+"),
    ],
)
def test_an_unknown_name(tmp_path, name, hint):
    with pytest.raises(ValueError, match=f"does not know.*{hint}.*Received: name='{name}'"):
        data.load(name, data_dir=tmp_path)


def test_a_dataset_that_is_fetched_by_hand(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)manual.*Received: name='resisc45', download=True"):
        data.load("resisc45", data_dir=tmp_path, download=True)


def test_an_unknown_version(tmp_path):
    with pytest.raises(ValueError, match=r"version 9\.9\.9, only: 1\.0\.0.*Received: name="):
        data.load("optkit_digits:9.9.9", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "features"),
    [("imdb_reviews", "text: Text, label: ClassLabel"), ("celeb_a", "image: Image, landmarks")],
)
def test_a_dataset_of_something_else(tmp_path, name, features):
    # Also where it would have to be downloaded first.
    for download in (False, True):
        with pytest.raises(ValueError, match=f"has supervised_keys=.*{features}.*Received: name="):
            data.load(name, data_dir=tmp_path, download=download)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "Did you mean 'test'.*Received: split='tset'"),
        ({"split": "train[:0]"}, "is empty.*Received: split='train"),
        ({"split": "train[80%"}, "slice of one.*Received: split="),
        ({"split": None}, "must be one of the splits.*Received: split=None"),
        ({"split": []}, "at least one split"),
        ({"name": None}, "`name` must be a string. Received: name=None"),
        ({"batch_size": 0}, "`batch_size` must be an integer >= 1. Received: batch_size=0"),
        ({"batch_size": 2.5}, "`batch_size`"),
        ({"image_size": (8, 0)}, r"\(height, width\). Received: image_size=\(8, 0\)"),
        ({"image_size": (8, 8, 3)}, "`image_size`"),
        ({"image_size": True}, "`image_size`"),
        ({"seed": -1}, "`seed` must be None or an integer >= 0. Received: seed=-1"),
        ({"augment": "flip"}, "`augment` must be a Keras layer.*Received: augment='flip'"),
        ({"augment": lambda x: x, "split": "test"}, "`augment` is for training data.*'test'"),
        ({"augment": lambda x: x[0]}, "must return a batch of images.*rank 4"),
        ({"augment": lambda x: {"images": x}}, "must return a batch of images"),
        ({"augment": lambda x: x.nothing}, "must run inside tf.data.*AttributeError"),
    ],
)
def test_bad_arguments(data_dir, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**{"data_dir": data_dir, **arguments})


@pytest.mark.backends("tensorflow")  # where any layer runs in tf.data
def test_a_layer_is_told_that_this_is_training(data_dir):
    noisy = _images(data.load(data_dir=data_dir, augment=keras.layers.GaussianNoise(1.0)))
    assert not np.array_equal(noisy, np.round(noisy))


@pytest.mark.backends("jax", "torch")
def test_a_layer_that_cannot_run_in_tf_data(data_dir):
    message = (
        f"On the {keras.backend.backend()} backend it raised NotImplementedError: [^:]*symbolic"
    )
    with pytest.raises(ValueError, match=message):
        data.load(data_dir=data_dir, augment=keras.layers.GaussianNoise(1.0))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot be written.*data_dir=.*Received"):
        data.load(data_dir=tmp_path / "file")
    assert (tmp_path / "file").read_text() == ""


def test_a_folder_with_something_else_in_it(tmp_path):
    (tmp_path / "optkit_digits" / "1.0.0").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no prepared dataset. Delete it.*1\.0\.0"):
        data.load(data_dir=tmp_path)


def test_an_incomplete_copy(tmp_path, data_dir):
    shutil.copytree(data_dir / "optkit_digits", tmp_path / "optkit_digits")
    (missing,) = tmp_path.rglob("*test.tfrecord*")
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=f"not complete; 1 .*{missing.name}.*Received"):
        data.load(split="test", data_dir=tmp_path)
    assert len(data.load(split="train", data_dir=tmp_path)) == 45


def test_first_use_leaves_the_process_as_it_was(tmp_path, caplog):
    from absl import logging as absl_logging

    def state():
        return random.getstate(), absl_logging.get_verbosity(), logging.getLogger().level

    stdout = sys.stdout
    random.seed(7)
    before = state()
    _labels(data.load(data_dir=tmp_path))
    assert state() == before
    assert sys.stdout is stdout
    assert caplog.records == []


_SCRIPT = """
import os, sys
import keras
before = set(sys.modules)
from keras_optkit import data
heavy = ("tensorflow", "tensorflow_datasets", "sklearn", "PIL", "requests")
assert not [m for m in heavy if m in sys.modules and m not in before]
import tensorflow as tf
before = (dict(os.environ), tf.keras.Model.__module__)
print("start", file=sys.stderr, flush=True)
next(iter(data.load(data_dir=sys.argv[1])))
assert (dict(os.environ), tf.keras.Model.__module__) == before
"""


def test_trap_what_an_import_and_the_first_use_do(tmp_path):
    """TRAPS 1 and 4. Nothing is said either, by TFDS or by its progress bars."""
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    # TensorFlow's own lines, about the machine, begin with a letter and a date.
    said = done.stderr.split("start\n")[1].splitlines()
    assert [line for line in said if not re.match(r"[IW]\d{4} |WARNING: All log", line)] == []


def test_trap_tfds_makes_a_builder(tmp_path):
    """TRAPS 3: TFDS needs `importlib_resources` for this and does not declare it."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("mnist", data_dir=tmp_path)
    assert builder.info.features["image"].shape == (28, 28, 1)
