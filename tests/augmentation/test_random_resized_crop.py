import cv2
import keras
import numpy as np
import pytest
from PIL import Image

from keras_optkit.augmentation import RandomResizedCrop


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.fixture
def images():
    noise = np.random.default_rng(0).integers(0, 256, (6, 40, 60, 3)).astype("uint8")
    return np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in noise])


def smooth(height, width):
    """An image whose exact value is known anywhere."""
    y, x = np.mgrid[:height, :width].astype("float64") + 0.5
    return (40 + 2.0 * x + 3.0 * y)[..., None].astype("float32")


@pytest.mark.parametrize("size", [(20, 15), (64, 80), (7, 90)])
def test_shows_what_is_inside_of_the_drawn_box(size):
    # Of a slope, each output shows the value in the middle of what it covers, however resampled.
    image = np.stack([smooth(30, 50)] * 5)
    outputs, table = RandomResizedCrop(*size, scale=(0.2, 0.6), seed=0)._on_host(image, None, True)
    for output, (top, left, bottom, right) in zip(outputs, table["boxes"], strict=True):
        y = top + (np.arange(size[0]) + 0.5) * (bottom - top) / size[0]
        x = left + (np.arange(size[1]) + 0.5) * (right - left) / size[1]
        expected = 40 + 2 * x[None, :] + 3 * y[:, None]
        inner = slice(2, -2) if size[0] > 8 else slice(1, -1), slice(2, -2)
        # Enlarged, the outermost half pixel is flat at the edge of the image.
        np.testing.assert_allclose(output[..., 0][inner], expected[inner], atol=1.3)
        assert np.median(np.abs(output[..., 0] - expected)) < 0.05


def test_inference_is_the_middle_as_pillow_resizes_it(images):
    layer = RandomResizedCrop(30, 30)
    for outputs in (numpy(layer(images, training=False)), layer.host(images, training=False)):
        for output, image in zip(outputs, images, strict=True):
            middle = Image.fromarray(image).crop((10, 0, 50, 40)).resize((30, 30), Image.BILINEAR)
            # Pillow's filter is a little wider where it shrinks.
            assert np.abs(output.astype(int) - np.asarray(middle)).mean() < 2


@pytest.mark.parametrize("times", [2, 4])
def test_strong_shrinking_does_not_alias(times):
    # The finest pattern there is: shrunk, it is grey.
    board = np.indices((32 * times, 48 * times)).sum(axis=0) % 2 * 255
    board = board[None, ..., None].astype("uint8")
    layer = RandomResizedCrop(32, 48, scale=(1, 1), ratio=(1.5, 1.5))
    for output in (numpy(layer(board)), layer.host(board)):
        assert np.abs(output.astype(int) - 127.5).max() < 6
    noise = (
        np.random.default_rng(0).integers(0, 256, (1, 32 * times, 48 * times, 3)).astype("uint8")
    )
    output = layer.host(noise)[0].astype(int)
    area = cv2.resize(noise[0], (48, 32), interpolation=cv2.INTER_AREA).astype(int)
    pillow = np.asarray(Image.fromarray(noise[0]).resize((48, 32), Image.BILINEAR)).astype(int)
    # It is sharper than Pillow's triangle and no rougher than the mean of the pixels.
    assert pillow.std() * 0.9 < output.std() < area.std() * 1.1


@pytest.mark.parametrize(("dtype", "size"), [("uint8", (30, 30)), ("float32", (12, 80))])
def test_both_engines_crop_alike(images, dtype, size):
    host = RandomResizedCrop(*size, seed=2).host(images.astype(dtype))
    graph = numpy(RandomResizedCrop(*size, seed=2)(images.astype(dtype)))
    assert host.dtype == graph.dtype == dtype
    assert np.abs(host.astype("float64") - graph).max() <= 2


def test_masks_and_channels_first(images):
    masks = (images[..., 0] > 128).astype("int32") * 7
    layer = RandomResizedCrop(12, 20, seed=0)
    outputs = layer({"images": images, "segmentation_masks": masks})
    found = numpy(outputs["segmentation_masks"])
    assert found.shape == (6, 12, 20)
    assert found.dtype == "int32"
    assert set(np.unique(found)) == {0, 7}
    expected = numpy(RandomResizedCrop(12, 20, seed=0)(images))
    first = RandomResizedCrop(12, 20, seed=0, data_format="channels_first")
    transposed = images.transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(numpy(first(transposed)).transpose(0, 2, 3, 1), expected)
    assert first.compute_output_shape((None, 3, 40, 60)) == (None, 3, 12, 20)
    assert numpy(RandomResizedCrop(12, 20)(images[0])).shape == (12, 20, 3)


def test_images_of_many_sizes_in_a_dataset():
    import tensorflow as tf

    def pictures():
        for height, width in ((5, 9), (80, 33), (300, 300)):
            yield np.full((height, width, 3), height % 256, "uint8")

    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    dataset = tf.data.Dataset.from_generator(pictures, output_signature=spec)
    still = RandomResizedCrop(16, 24)
    for mapped in (
        dataset.map(RandomResizedCrop(16, 24)),
        RandomResizedCrop(16, 24).map(dataset),
        dataset.map(lambda x: still(x, training=False)),
    ):
        (batch,) = mapped.batch(3)
        assert batch.shape == (3, 16, 24, 3)
        np.testing.assert_array_equal(batch[:, 5, 5, 0], [5, 80, 300 % 256])


def test_in_a_model(images):
    model = keras.Sequential([keras.Input((40, 60, 3)), RandomResizedCrop(10, 12)])
    assert model.output_shape == (None, 10, 12, 3)
    floats = images.astype("float32")
    np.testing.assert_allclose(
        model.predict(floats, verbose=0),
        numpy(RandomResizedCrop(10, 12)(floats, training=False)),
        atol=1e-3,
    )
    assert model(floats, training=True).shape == (6, 10, 12, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5), "`height` must be an integer of at least 1.*Received: height=0"),
        ((5, 2.5), "Received: width=2.5"),
        ((5, 5, (0, 1)), "`scale` must be a pair"),
        ((5, 5, (0.5, 1), (0, 1)), "`ratio` must be a pair"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandomResizedCrop(*arguments)
