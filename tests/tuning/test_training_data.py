import keras
import numpy as np
import pytest

from keras_optkit.tuning.training_data import layers_for, prepare, updates

tf = pytest.importorskip("tensorflow")
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 8, 8, 1)).astype("float32")
LABELS = RNG.integers(0, 3, 50)
ARRAYS = {"x": IMAGES, "y": LABELS, "validation_split": 0.2, "epochs": 4}


def dataset(images=IMAGES, labels=LABELS, size=20):
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(size)


def listed(data):
    return [np.concatenate(part) for part in zip(*data.as_numpy_iterator(), strict=True)]


def test_nothing_asked_for_changes_nothing():
    for given in (ARRAYS, {"x": dataset()}, {"x": iter([1])}):
        assert prepare(given, {"learning_rate": 0.1, "mixing": "none"}, None, None) == given


def test_epochs_and_batch_size_of_arrays():
    new = prepare(ARRAYS, {"epochs": 7, "batch_size": 16}, None, None)
    assert new == ARRAYS | {"epochs": 7, "batch_size": 16}
    assert updates(new) == 7 * 3
    assert updates(ARRAYS) == 4 * 2


def test_batch_size_of_a_dataset():
    new = prepare({"x": dataset(), "epochs": 2}, {"batch_size": 16}, None, None)
    assert [len(x) for x, _ in new["x"]] == [16, 16, 16, 2]
    assert int(new["x"].cardinality()) == 4 and updates(new) == 8
    np.testing.assert_array_equal(listed(new["x"])[0], IMAGES)
    # One that does not know its length stays so.
    unknown = dataset().filter(lambda x, y: True)
    new = prepare({"x": unknown}, {"batch_size": 16}, None, None)
    assert updates(new) is None


@pytest.mark.parametrize("data", ["arrays", "dataset"])
def test_labels_are_smoothed_for_training_only(data):
    expected = np.eye(3)[LABELS]
    values = {"label_smoothing": 0.3}
    if data == "arrays":
        new = prepare(ARRAYS, values, "sparse", 3)
        np.testing.assert_array_equal(new["x"], IMAGES[:40])
        train, held_out = new["y"], new["validation_data"][1]
        np.testing.assert_array_equal(new["validation_data"][0], IMAGES[40:])
    else:
        given = {
            "x": dataset(IMAGES[:40], LABELS[:40]),
            "validation_data": dataset(IMAGES[40:], LABELS[40:, None]),
        }
        new = prepare(given, values, "sparse", 3)
        train, held_out = listed(new["x"])[1], listed(new["validation_data"])[1]
    np.testing.assert_allclose(train, expected[:40] * 0.7 + 0.1, atol=1e-6)
    np.testing.assert_array_equal(held_out, expected[40:])


def test_binary_labels_become_a_column():
    given = {"x": IMAGES, "y": LABELS % 2, "validation_data": (IMAGES, LABELS % 2)}
    new = prepare(given, {"label_smoothing": 0.2}, "binary", 1)
    np.testing.assert_allclose(new["y"][:, 0], np.where(LABELS % 2, 0.9, 0.1), atol=1e-6)
    np.testing.assert_array_equal(new["validation_data"][1][:, 0], LABELS % 2)


@pytest.mark.parametrize("data", ["arrays", "dataset"])
def test_mixing(data):
    given = ARRAYS | {"batch_size": 10} if data == "arrays" else {"x": dataset()}
    new = prepare(given, {"mixing": "mixup", "mixing_alpha": 1.0}, "sparse", 3, seed=0)
    images, labels = listed(new["x"])
    assert labels.shape[1] == 3 and new["shuffle"] is False
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-5)
    assert ((labels > 0.05) & (labels < 0.95)).any(axis=1).mean() > 0.3
    if data == "arrays":
        assert updates(new) == 4 * 4
        # A new order in each epoch.
        assert not np.array_equal(images, listed(new["x"])[0])


@pytest.mark.backends("tensorflow")
def test_augmentation_keeps_the_scale_the_labels_and_the_weights():
    weights = np.arange(50.0)
    given = {"x": IMAGES / 255, "y": LABELS, "sample_weight": weights, "shuffle": False}
    new = prepare(given, {"augmentation": "trivial_augment_wide"}, None, None, seed=0)
    images, labels, weighted = listed(new["x"])
    assert "sample_weight" not in new and "y" not in new
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(weighted, weights)
    # In [0, 255], images of [0, 1] would be black, and stay so.
    assert images.min() >= 0 and 0.9 < images.max() <= 1.001
    changed = np.abs(images - given["x"]).max(axis=(1, 2, 3)) > 0.05
    assert 0.2 < changed.mean() <= 1


@pytest.mark.parametrize(
    ("values", "name", "settings"),
    [
        ({"augmentation": "rand_augment"}, "RandAugment", {"magnitude": 9}),
        (
            {"augmentation": "rand_augment", "augmentation_strength": 3.5},
            "RandAugment",
            {"magnitude": 3.5, "value_range": (-1, 1), "seed": 7},
        ),
        ({"augmentation": "trivial_augment_wide"}, "TrivialAugmentWide", {}),
        ({"augmentation": "auto_augment"}, "AutoAugment", {"value_range": (-1, 1)}),
        ({"augmentation": "aug_mix", "augmentation_strength": 2}, "AugMix", {"severity": 2}),
        ({"mixing": "cutmix", "mixing_alpha": 0.3}, "CutMix", {"alpha": 0.3}),
    ],
)
def test_layers(values, name, settings):
    (layer,) = layers_for(values, None, (-1, 1), 7)
    assert type(layer).__name__ == name
    assert {key: getattr(layer, key) for key in settings} == settings


def test_the_range_of_values_must_be_one_that_is_known():
    given = {"x": np.clip(IMAGES - 99, -3, 3), "y": LABELS}
    with pytest.raises(ValueError, match=r"Pass `value_range=.*images from -3 to 3"):
        prepare(given, {"augmentation": "rand_augment"}, None, None)


def test_data_that_cannot_be_changed():
    class Batches(keras.utils.PyDataset):
        pass

    with pytest.raises(ValueError, match=r"'batch_size' and 'augmentation'.*x=Batches"):
        values = {"batch_size": 8, "augmentation": "rand_augment"}
        prepare({"x": Batches()}, values, None, None)
    with pytest.raises(ValueError, match="'mixing' is for images.*shape \\(50, 4\\)"):
        prepare({"x": np.zeros((50, 4)), "y": LABELS}, {"mixing": "mixup"}, "sparse", 3)
    with pytest.raises(ValueError, match="one input of images"):
        prepare({"x": {"a": IMAGES}, "y": LABELS}, {"augmentation": "aug_mix"}, None, None)
    bare = tf.data.Dataset.from_tensor_slices(IMAGES).batch(5)
    with pytest.raises(ValueError, match=r"a dataset of \(images, labels\)"):
        prepare({"x": bare}, {"mixing": "mixup"}, "sparse", 3)
