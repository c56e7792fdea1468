import inspect
import json

import keras
import numpy as np
import pytest
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from keras_optkit.augmentation import ImageDataGeneratorLayer, from_image_data_generator

CLASSIC = {
    "rotation_range": 20,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "horizontal_flip": True,
    "vertical_flip": True,
    "rescale": 1 / 255,
}
SIZE = 7


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3)).astype("uint8")


def table_of(layer, draws, height=SIZE, width=SIZE):
    return layer.sample(lambda n: keras.ops.convert_to_tensor(draws), height, width)


def generator_output(arguments, image, draws):
    """What the generator itself makes of an image, given the random numbers of the layer."""
    generator = ImageDataGenerator(**arguments)

    def symmetric(limit, draw):
        return limit * (2 * draw - 1)

    low, high = generator.zoom_range
    brightness = generator.brightness_range
    parameters = {
        "theta": symmetric(generator.rotation_range, draws[0]),
        "shear": symmetric(generator.shear_range, draws[1]),
        # Its x and y, in which it swaps rows and columns at last, are columns and rows.
        "ty": symmetric(generator.height_shift_range, draws[2]) * SIZE,
        "tx": symmetric(generator.width_shift_range, draws[4]) * SIZE,
        "zx": low + (high - low) * draws[6],
        "zy": low + (high - low) * draws[7],
        "flip_horizontal": generator.horizontal_flip and draws[8] < 0.5,
        "flip_vertical": generator.vertical_flip and draws[9] < 0.5,
    }
    if generator.channel_shift_range:
        parameters["channel_shift_intensity"] = symmetric(generator.channel_shift_range, draws[10])
    if brightness:
        parameters["brightness"] = brightness[0] + (brightness[1] - brightness[0]) * draws[11]
    image = generator.apply_transform(image.astype("float32"), parameters)
    return generator.standardize(image)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        CLASSIC,
        {**CLASSIC, "shear_range": 30, "zoom_range": 0.4, "fill_mode": "reflect"},
        {"zoom_range": (0.5, 2.0), "interpolation_order": 0, "channel_shift_range": 60.0},
        {"rotation_range": 90, "samplewise_center": True},
        {"horizontal_flip": True, "samplewise_std_normalization": True, "samplewise_center": True},
    ],
)
def test_does_what_the_generator_does(images, arguments):
    draws = np.random.default_rng(1).random((8, 12)).astype("float32")
    layer = from_image_data_generator(**arguments)
    table = table_of(layer, draws)
    tensors = layer.begin_images(keras.ops.convert_to_tensor(images))
    augmented = layer.augment_images(tensors, table)
    outputs = numpy(layer.finish_images(augmented))
    expected = [generator_output(arguments, *pair) for pair in zip(images, draws, strict=True)]
    tolerance = 2e-3 * (arguments.get("rescale") or 1)
    np.testing.assert_allclose(outputs, expected, atol=tolerance)


@pytest.mark.parametrize("offset", [0.0, -100.0])
def test_brightness_differs_from_the_generator_by_its_rounding_only(images, offset):
    arguments = {"brightness_range": (0.5, 1.7)}
    draws = np.random.default_rng(1).random((8, 12)).astype("float32")
    layer = from_image_data_generator(**arguments)
    floats = images.astype("float32") + offset
    outputs = numpy(
        layer.augment_images(keras.ops.convert_to_tensor(floats), table_of(layer, draws))
    )
    expected = [generator_output(arguments, *pair) for pair in zip(floats, draws, strict=True)]
    np.testing.assert_allclose(outputs, expected, atol=3)


def test_the_generator_shifts_along_the_wrong_axis_and_the_layer_does_not():
    image = np.zeros((5, 9, 1), "float32")
    image[2, 4] = 1
    generator = ImageDataGenerator(height_shift_range=0.2, fill_mode="constant")
    moved = generator.apply_transform(image, {"tx": -0.2 * 5})
    assert moved[2, 5] == 1
    draws = np.zeros((1, 12), "float32")
    layer = from_image_data_generator(height_shift_range=0.2, fill_mode="constant")
    table = table_of(layer, draws, 5, 9)
    (output,) = numpy(layer.augment_images(keras.ops.convert_to_tensor(image[None]), table))
    np.testing.assert_allclose(output[3, 4], 1, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, {-2, -1, 0, 1, 2}),
        (1, {0}),
        (0, {0}),
        ([4, 6], {-6, -4, 4, 6}),
        (np.array([0.1, 0.2]), {-2, -1, 1, 2}),
        ([], {0}),
    ],
)
def test_whole_pixel_shifts_and_lists_of_shifts(value, expected):
    layer = from_image_data_generator(width_shift_range=value, seed=0)
    draws = keras.random.uniform((400, 12), seed=0)
    shifts = numpy(table_of(layer, draws, 5, 10)["matrices"])[:, :, 2]
    assert {round(float(x), 4) for x in shifts[:, 0]} == expected
    assert not shifts[:, 1].any()


def test_float_shifts_from_1_on_are_pixels():
    layer = from_image_data_generator(height_shift_range=2.0)
    draws = keras.random.uniform((400, 12), seed=0)
    shifts = numpy(table_of(layer, draws, 50, 10)["matrices"])[:, 1, 2]
    assert 1.9 < shifts.max() <= 2
    assert -2 <= shifts.min() < -1.9


def test_rescales_in_inference_too(images):
    layer = from_image_data_generator(**CLASSIC, seed=0)
    output = layer(images, training=False)
    assert keras.backend.standardize_dtype(output.dtype) == "float32"
    np.testing.assert_allclose(numpy(output), images / 255, atol=1e-6)
    assert not np.allclose(numpy(layer(images)), images / 255, atol=0.1)
    assert keras.backend.standardize_dtype(layer(keras.Input((7, 7, 3), dtype="uint8")).dtype) == (
        "float32"
    )


def test_in_a_dataset(images):
    import tensorflow as tf

    layer = from_image_data_generator(**CLASSIC, brightness_range=(0.8, 1.2), seed=0)
    dataset = layer.map(tf.data.Dataset.from_tensor_slices((images, images[..., 0])).batch(3))
    batches = [x.numpy() for x, _ in dataset]
    assert [len(x) for x in batches] == [3, 3, 2]
    assert batches[0].dtype == "float32"
    assert 0 <= batches[0].min() <= batches[0].max() <= 1


def test_fit_and_save(images, tmp_path):
    layer = from_image_data_generator(
        **CLASSIC, zoom_range=[0.8, 1.2], brightness_range=[0.5, 1.5], channel_shift_range=9.0
    )
    model = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), layer, keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    model.fit(images, np.zeros(8), batch_size=3, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(
        loaded.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    np.testing.assert_array_equal(
        numpy(loaded(images, training=True)), numpy(model(images, training=True))
    )


def test_masks_get_the_geometry_only():
    masks = np.random.default_rng(0).choice([0, 7], size=(8, SIZE, SIZE, 1)).astype("int32")
    layer = from_image_data_generator(
        rotation_range=90, interpolation_order=0, channel_shift_range=3.0, rescale=2.0, seed=0
    )
    outputs = layer({"images": masks.astype("float32"), "segmentation_masks": masks})
    warped = numpy(outputs["segmentation_masks"])
    assert warped.dtype == "int32"
    assert set(np.unique(warped)) == {0, 7}
    # A shift by less than half of 7 leaves what was 0 below the middle and what was 7 above it.
    images = numpy(outputs["images"])
    np.testing.assert_array_equal(images > 7, warped == 7)
    assert not np.array_equal(images, 2 * warped)


def test_takes_every_argument_of_the_generator_with_its_default():
    theirs = inspect.signature(ImageDataGenerator).parameters
    ours = inspect.signature(from_image_data_generator).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {k: ours[k].default for k in theirs} == {k: v.default for k, v in theirs.items()}
    config = from_image_data_generator(**CLASSIC, seed=3, name="augment").get_config()
    assert json.loads(json.dumps(config))["seed"] == 3
    assert ImageDataGeneratorLayer.from_config(config).get_config() == config


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("featurewise_center", True, "keras.layers.Normalization"),
        ("featurewise_std_normalization", True, "keras.layers.Normalization"),
        ("zca_whitening", True, "whitening matrix"),
        ("preprocessing_function", np.sqrt, r"f\(layer\(x\)\)"),
        ("validation_split", 0.2, "image_dataset_from_directory"),
        ("interpolation_order", 3, r"0 \(nearest\) or 1 \(bilinear\)"),
        ("fill_mode", "mirror", "must be one of"),
        ("rotation_range", -20, r"in \[0, 360\]"),
        ("rotation_range", 400, r"in \[0, 360\]"),
        ("rotation_range", float("nan"), "finite number"),
        ("shear_range", 100, r"in \[0, 90\]"),
        ("zoom_range", 1.0, r"r in \[0, 1\)"),
        ("zoom_range", (0, 1), "0 < low <= high"),
        ("width_shift_range", -0.2, "must be a finite number in"),
        ("height_shift_range", -2, "must be a finite number in"),
        ("height_shift_range", ["2"], "must be a finite number"),
        ("brightness_range", 0.2, "a pair of factors"),
        ("brightness_range", (-1, 1), "a pair of factors"),
        ("channel_shift_range", -1.0, "must be a finite number in"),
        ("rescale", "1/255", "must be a finite number"),
        ("dtype", "uint8", "must be a float type"),
    ],
)
def test_bad_and_refused_arguments_say_what_to_do(argument, value, message):
    with pytest.raises(ValueError, match=f"`{argument}` .*{message}(.|\n)*Received: {argument}="):
        from_image_data_generator(**{argument: value})


def test_the_engines_agree(images):
    arguments = {**CLASSIC, "channel_shift_range": 40.0, "brightness_range": (0.5, 1.5), "seed": 1}
    smooth = np.stack([np.linspace(20 * i, 200, 5 * 9 * 3).reshape(5, 9, 3) for i in range(8)])
    smooth = smooth.astype("uint8")
    on_host = from_image_data_generator(**arguments).host(smooth)
    assert on_host.dtype == "float32"
    layer = from_image_data_generator(**arguments)
    table = layer._sample({"images": keras.ops.convert_to_tensor(smooth)})
    tensors = layer.begin_images(keras.ops.convert_to_tensor(smooth))
    on_tensors = numpy(layer.finish_images(layer.augment_images(tensors, table)))
    np.testing.assert_allclose(on_host, on_tensors, atol=1 / 255)
