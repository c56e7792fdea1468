import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.datasets import load_digits

from keras_optkit import data


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


def test_processes_with_one_seed_write_into_folders_of_their_own(tmp_path, monkeypatch):
    from keras_optkit.data.digits import OptkitDigits

    seen = []
    split_generators = OptkitDigits._split_generators

    def record(self, dl_manager):
        seen.append(os.path.basename(os.path.normpath(self.data_dir)))
        return split_generators(self, dl_manager)

    monkeypatch.setattr(OptkitDigits, "_split_generators", record)
    for name in ("a", "b"):
        random.seed(0)
        data.info("optkit_digits", data_dir=tmp_path / name)
    assert seen[0] != seen[1]


_OTHER = """
import os, random, sys, time
import keras_optkit.data.digits
from keras_optkit import data
folder, ready, go = sys.argv[1:]
random.seed(0)
open(ready, "w").close()
while not os.path.exists(go):
    time.sleep(0.001)
print(data.info("optkit_digits", data_dir=folder).num_examples)
"""


@pytest.mark.backends("tensorflow")  # No part of it is Keras'; one backend is enough.
def test_two_processes_prepare_it_at_once(tmp_path):
    folder, ready, go = (tmp_path / name for name in ("tfds", "ready", "go"))
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(folder), str(ready), str(go)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not ready.exists() and other.poll() is None:
        time.sleep(0.001)
    random.seed(0)
    go.touch()
    assert data.info("optkit_digits", data_dir=folder).num_examples == {"train": 1433, "test": 364}
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert out.strip() == "{'train': 1433, 'test': 364}"
    # Whoever lost has cleaned up.
    assert [path.name for path in (folder / "optkit_digits").iterdir()] == ["1.0.0"]
    assert sum(len(y) for _, y in data.load(data_dir=folder)) == 1433
