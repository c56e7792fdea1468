import keras
import numpy as np
import pytest

from keras_optkit.augmentation import RandomErasing
from keras_optkit.augmentation.erase import random_bytes


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def by_graph(layer, images):
    """What the graph engine makes of images; eager images may go to the host engine."""
    data = layer._to_tensors(images)
    return numpy(layer._augment(data, layer._sample(data))["images"])


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(1, 256, (8, 20, 30, 3)).astype("uint8")


def changed(outputs, images):
    return (numpy(outputs) != images).any(axis=-1)


def test_erases_one_rectangle_of_the_right_size_in_each_image(images):
    layer = RandomErasing(1.0, scale=(0.1, 0.2), value=0, seed=0)
    for call in (layer, layer.host):
        masks = changed(call(images), images)
        for mask in masks:
            rows, columns = np.nonzero(mask)
            extent = np.ptp(rows) + 1, np.ptp(columns) + 1
            assert mask.sum() == extent[0] * extent[1]
            assert 0.09 < mask.mean() < 0.21
        assert len({mask.tobytes() for mask in masks}) > 6


def test_the_probability_is_per_image():
    images = np.ones((400, 8, 8, 1), "uint8")
    count = changed(RandomErasing(0.3, seed=0).host(images), images).any(axis=(1, 2)).sum()
    assert 85 < count < 155  # 120 +- 4 standard deviations
    for probability, expected in ((0, 0), (1, 400)):
        outputs = RandomErasing(probability).host(images)
        assert changed(outputs, images).any(axis=(1, 2)).sum() == expected


@pytest.mark.parametrize("mode", ["constant", "random", "pixel"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_both_engines_erase_alike(images, mode, dtype):
    images = images.astype(dtype)

    def make():
        return RandomErasing(1.0, mode=mode, value=(9, 7, 5), seed=1)

    expected = make().host(images)
    np.testing.assert_array_equal(by_graph(make(), images), expected)
    np.testing.assert_array_equal(numpy(make()(images)), expected)
    pixels = [expected[i][changed(expected, images)[i]] for i in range(8)]
    distinct = [len(np.unique(found, axis=0)) for found in pixels]
    if mode == "pixel":
        assert min(distinct) > 5
    else:
        assert distinct == [1] * 8
        colors = {tuple(found[0]) for found in pixels}
        assert colors == {(9, 7, 5)} if mode == "constant" else len(colors) == 8


def test_float_images_of_any_range(images):
    scaled = (images / 127.5 - 1).astype("float32")
    for mode in ("random", "pixel"):
        layer = RandomErasing(1.0, mode=mode, value_range=(-1, 1), seed=1)
        expected = RandomErasing(1.0, mode=mode, seed=1)(images)
        outputs = by_graph(layer, scaled)
        np.testing.assert_allclose(outputs, numpy(expected) / 127.5 - 1, atol=1e-5)
    outputs = RandomErasing(1.0, value=-0.5, value_range=(-1, 1), seed=1)(scaled)
    np.testing.assert_allclose(numpy(outputs)[changed(outputs, scaled)], -0.5)


def test_noise_is_noise():
    seeds = np.arange(64, dtype="int32")[:, None]
    numbers = numpy(random_bytes(seeds, np.arange(4096, dtype="int32")))
    counts = np.bincount(numbers.astype(int).ravel(), minlength=256)
    assert len(counts) == 256
    # Chi-square of 255 degrees of freedom: 255 +- 4 standard deviations of 22.6.
    assert 165 < ((counts - 1024) ** 2 / 1024).sum() < 345
    for a, b in ((numbers[:-1], numbers[1:]), (numbers[:, :-1], numbers[:, 1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01


def test_masks_stay_and_inference_is_the_identity(images):
    layer = RandomErasing(1.0)
    masks = images[..., 0]
    outputs = layer({"images": images, "segmentation_masks": masks})
    np.testing.assert_array_equal(numpy(outputs["segmentation_masks"]), masks)
    np.testing.assert_array_equal(numpy(layer(images, training=False)), images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probability": 1.5}, r"`probability` must be a number in \[0, 1\].*probability=1.5"),
        ({"probability": True}, "Received: probability=True"),
        ({"scale": (0, 0.3)}, "`scale` must be a pair"),
        ({"ratio": (2, 1)}, "`ratio` must be a pair"),
        ({"mode": "pixels"}, "Did you mean 'pixel'.*Received: mode='pixels'"),
        ({"value": 256}, "within `value_range`.*Received: value=256"),
        ({"value": (1, "a")}, "Received: value="),
        ({"value": 2, "value_range": (0, 1)}, "Received: value=2"),
    ],
)
def test_bad_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomErasing(**settings)


def test_a_color_has_as_many_numbers_as_channels(images):
    with pytest.raises(ValueError, match="one for each channel.*for 3 channels"):
        RandomErasing(1.0, value=(1, 2))(images)
