import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def stored(data_dir):
    """The stored examples of both splits, read by TFDS alone."""
    import tensorflow_datasets as tfds

    import keras_optkit.data.digits  # noqa: F401

    return {
        split: [
            (int(example["label"]), example["image"])
            for example in tfds.as_numpy(
                tfds.load("optkit_digits", split=split, data_dir=data_dir, download=False)
            )
        ]
        for split in ("train", "test")
    }


def _counts(images):
    # Four bits a pixel: what the source holds comes back exactly.
    return np.round(np.asarray(images, float)[..., 0] / 255 * 16)


def test_the_splits_hold_the_source_once(stored):
    source = load_digits()
    ours = [(y, *_counts(image).ravel()) for part in stored.values() for y, image in part]
    theirs = [(y, *x) for x, y in zip(source.data, source.target, strict=True)]
    assert sorted(ours) == sorted(theirs)
    assert all(image.dtype == np.uint8 for part in stored.values() for _, image in part)
    assert max(image.max() for _, image in stored["train"]) == 255


def test_the_test_split_is_the_last_fifth_of_each_class(stored):
    source = load_digits()
    for label in range(10):
        members = source.images[source.target == label]
        expected = members[int(0.8 * len(members)) :]
        ours = _counts([image for y, image in stored["test"] if y == label])
        key = lambda image: tuple(image.ravel())  # noqa: E731
        np.testing.assert_array_equal(sorted(ours, key=key), sorted(expected, key=key))


def test_it_is_a_tfds_builder(data_dir):
    import tensorflow_datasets as tfds

    from keras_optkit.data.digits import OptkitDigits

    builder = tfds.builder("optkit_digits", data_dir=data_dir)
    assert isinstance(builder, OptkitDigits)
    assert isinstance(builder, tfds.core.GeneratorBasedBuilder)
    assert "optkit_digits" in tfds.list_builders()
    records = sorted(path.name for path in builder.data_path.glob("*.tfrecord*"))
    assert len(records) == 2
    # TFDS' own reader, which knows nothing of this package, finds the same features.
    read_only = tfds.builder_from_directory(builder.data_path)
    assert read_only.info.features["label"].names == [str(i) for i in range(10)]


_RACE = """
import json, os, random, sys, time
import tensorflow_datasets
import keras_optkit.data.digits
from keras_optkit import data
folder, me, other = sys.argv[1:]
random.seed(0)
before = random.getstate()
open(me, "w").close()
while not os.path.exists(other):
    time.sleep(0.001)
info = data.info("optkit_digits", data_dir=folder)
images = sum(len(x) for x, _ in data.load(data_dir=folder))
print(json.dumps([info.num_examples, images, random.getstate() == before]))
"""


@pytest.mark.backends("tensorflow")  # No part of it is Keras'; one backend is enough.
def test_two_processes_prepare_it_at_once(tmp_path):
    ready = [str(tmp_path / name) for name in ("a", "b")]
    folder = tmp_path / "tfds"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _RACE, str(folder), me, other],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for me, other in (ready, ready[::-1])
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        # Nothing else is said, and the random numbers of the process are as they were.
        assert json.loads(out) == [{"train": 1433, "test": 364}, 1433, True]
        assert "Generating" not in err
    assert [path.name for path in (folder / "optkit_digits").iterdir()] == ["1.0.0"]
