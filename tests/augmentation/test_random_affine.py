import keras
import numpy as np
import pytest
from scipy import ndimage

from keras_optkit.augmentation import RandomAffine


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def test_turns_counter_clockwise_about_the_centre():
    image = np.zeros((5, 9, 1), "uint8")
    image[2, 4] = 50
    image[2, 6] = 200  # two pixels to the right of the centre
    output = numpy(RandomAffine(rotation=(90, 90), fill_mode="constant")(image))
    assert output[2, 4] == 50
    assert output[0, 4] == 200
    assert output.sum() == 250


def test_moves_down_and_to_the_right():
    image = np.zeros((5, 9, 1), "float32")
    image[1, 2] = 1
    layer = RandomAffine(translation=((0.4, 0.4), (1 / 3, 1 / 3)), fill_mode="constant")
    output = numpy(layer(image))
    np.testing.assert_allclose(output[3, 5], 1, atol=1e-5)
    np.testing.assert_allclose(output.sum(), 1, atol=1e-5)


def test_equals_scipy_by_way_of_the_sampled_table():
    images = np.random.default_rng(0).normal(size=(10, 5, 9, 3)).astype("float32")
    settings = dict(rotation=40, translation=0.2, shear=10, zoom=0.3, vertical_flip=True, seed=4)
    tables = []

    class Recording(RandomAffine):
        def sample(self, *args):
            tables.append(super().sample(*args))
            return tables[-1]

    outputs = numpy(Recording(**settings)(images))
    matrices = numpy(tables[0]["matrices"]).astype("float64")
    expected = [
        np.stack(
            [
                ndimage.affine_transform(
                    image[..., c], m[::-1, 1::-1], m[::-1, 2], order=1, mode="reflect"
                )
                for c in range(3)
            ],
            axis=-1,
        )
        for image, m in zip(images, matrices, strict=True)
    ]
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_flips_half_of_the_images_each_way():
    image = np.arange(45, dtype="uint8").reshape((5, 9, 1))
    outputs = numpy(
        RandomAffine(horizontal_flip=True, vertical_flip=True, seed=0)(np.stack([image] * 400))
    )
    flips = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    counts = [np.sum(np.all(outputs == flip, axis=(1, 2, 3))) for flip in flips]
    assert sum(counts) == 400
    assert min(counts) > 60  # 100 are expected, and 9 is a standard deviation


def test_uint8_is_rounded():
    image = np.array([0, 3, 200, 255], "uint8").reshape((1, 4, 1))
    layer = RandomAffine(translation=(0, (-0.225, -0.225)), fill_mode="nearest")  # -0.9 pixels
    np.testing.assert_array_equal(np.ravel(numpy(layer(image)))[[0, 1, 3]], [3, 180, 255])


def test_constant_fills_images_with_its_value_and_masks_with_0():
    layer = RandomAffine(translation=((1, 1), 0), fill_mode="constant", fill_value=9)
    inputs = np.full((10, 5, 9, 3), 3, "uint8")
    outputs = layer({"images": inputs, "segmentation_masks": inputs})
    assert np.all(numpy(outputs["images"]) == 9)
    assert np.all(numpy(outputs["segmentation_masks"]) == 0)


def test_nothing_asked_for_is_the_identity():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 9, 3)).astype("uint8")
    np.testing.assert_array_equal(numpy(RandomAffine()(images)), images)


def test_bad_arguments_are_told_at_construction():
    with pytest.raises(ValueError, match=r"`rotation` must be .*Received: rotation=400"):
        RandomAffine(rotation=400)
    with pytest.raises(ValueError, match=r"`fill_mode` must be .*Received: fill_mode='mirror'"):
        RandomAffine(fill_mode="mirror")
    with pytest.raises(ValueError, match=r"`interpolation` must be .*Received: interpolation='cub"):
        RandomAffine(interpolation="cubic")


def test_a_fill_value_that_uint8_cannot_hold():
    layer = RandomAffine(rotation=10, fill_mode="constant", fill_value=300)
    layer(np.zeros((1, 5, 9, 1), "float32"))
    with pytest.raises(ValueError, match=r"in \[0, 255\] for images of type uint8.*fill_value=300"):
        layer(np.zeros((1, 5, 9, 1), "uint8"))
