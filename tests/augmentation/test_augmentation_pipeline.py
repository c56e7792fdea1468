"""AugmentationPipeline, and with it RandomApply and OneOf, which hold other layers too."""

import json

import cv2
import keras
import numpy as np
import pytest

from keras_optkit.augmentation import (
    AugmentationPipeline,
    CutMix,
    MixUp,
    OneOf,
    RandomAffine,
    RandomApply,
    RandomColor,
    RandomErasing,
    RandomResizedCrop,
    from_image_data_generator,
)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.fixture
def images():
    noise = np.random.default_rng(0).integers(0, 256, (6, 24, 40, 3)).astype("uint8")
    return np.stack([cv2.GaussianBlur(image, (0, 0), 2) for image in noise])


SHIFT = dict(translation=((0.25, 0.25), (0.25, 0.25)), fill_mode="constant")
BACK = dict(translation=((-0.25, -0.25), (-0.25, -0.25)), fill_mode="constant")


def test_neighbouring_geometry_is_one_resampling(images):
    members = [RandomAffine(**SHIFT), RandomAffine(horizontal_flip=True), RandomAffine(**BACK)]
    layer = AugmentationPipeline(members, rescale=None, seed=0)
    # What the first one moves out of the picture the last one moves back in.
    flipped = images[:, :, ::-1]
    for outputs in (numpy(layer(images)), layer.host(images)):
        outputs = outputs.astype(int)
        for output, image, mirrored in zip(outputs, images, flipped, strict=True):
            same = np.abs(output - image).max() <= 1
            # A flip between the two turns the way back around.
            moved = np.zeros_like(mirrored)
            moved[:, : 40 - 20] = mirrored[:, 20:]
            assert same or np.abs(output - moved).max() <= 1
    assert len(layer._stages_for(images, layer._on_host(images, None, True)[1])) == 1


def test_a_crop_fuses_with_what_follows():
    image = np.random.default_rng(0).random((2, 24, 40, 1)).astype("float32")
    layer = AugmentationPipeline(
        [RandomResizedCrop(12, 12), RandomAffine(rotation=30), RandomAffine(vertical_flip=True)],
        rescale=None,
    )
    outputs, table = layer._on_host(image, None, True)
    (stage,) = layer._stages_for(image, table)
    assert stage.size == (12, 12)
    assert stage.fill_mode == "reflect"
    assert outputs.shape == (2, 12, 12, 1)


def test_normalizes_in_training_and_inference(images):
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    layer = AugmentationPipeline([RandomAffine(horizontal_flip=True)], mean=mean, std=std, seed=0)
    expected = (images / 255 - mean) / std
    np.testing.assert_allclose(numpy(layer(images, training=False)), expected, atol=1e-5)
    augmented = numpy(layer(images))
    plain = AugmentationPipeline([RandomAffine(horizontal_flip=True)], rescale=None, seed=0)
    flipped = numpy(plain(images))
    assert flipped.dtype == "uint8"
    np.testing.assert_allclose(augmented, (flipped / 255 - mean) / std, atol=1e-5)
    np.testing.assert_allclose(layer.host(images, training=False), expected, atol=1e-5)
    half = AugmentationPipeline([], dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(half(images).dtype) == "bfloat16"
    first = AugmentationPipeline([], data_format="channels_first", mean=mean, std=std)
    outputs = numpy(first(images.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def everything(**kwargs):
    return AugmentationPipeline(
        [
            RandomResizedCrop(16, 20),
            RandomApply(RandomAffine(rotation=30), 0.5),
            OneOf(
                [RandomColor(brightness=0.3, gamma=0.2), RandomErasing(1.0, mode="pixel")],
                weights=[2, 1],
            ),
            CutMix(num_classes=6),
        ],
        mean=0.5,
        std=(0.2, 0.3, 0.4),
        **{"seed": 7, **kwargs},
    )


def test_the_engines_agree_on_everything(images):
    import tensorflow as tf

    labels = np.arange(6)
    graph, host = everything()(images, labels), everything().host(images, labels)
    assert host[0].shape == graph[0].shape == (6, 16, 20, 3)
    off = np.abs(numpy(graph[0]) - host[0]) * np.array([0.2, 0.3, 0.4]) * 255
    assert off.max() <= 2.01
    np.testing.assert_allclose(numpy(graph[1]), host[1], atol=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices((images, labels)).batch(6)
    (mapped,), (parallel,) = dataset.map(everything()), everything().map(dataset)
    np.testing.assert_allclose(mapped[1], parallel[1], atol=1e-6)
    off = np.abs(mapped[0] - parallel[0]) * np.array([0.2, 0.3, 0.4]) * 255
    assert off.max() <= 2.01


def test_inference_crops_the_middle_and_normalizes(images):
    outputs, labels = everything()(images, np.arange(6), training=False)
    middle = numpy(RandomResizedCrop(16, 20)(images, training=False))
    expected = (middle / 255 - 0.5) / np.array([0.2, 0.3, 0.4])
    np.testing.assert_allclose(numpy(outputs), expected, atol=1e-5)
    np.testing.assert_array_equal(numpy(labels), np.eye(6))


@pytest.mark.parametrize(
    "make",
    [
        everything,
        lambda: RandomApply(RandomErasing(1.0), 0.4, seed=1, name="sometimes"),
        lambda: OneOf([RandomErasing(1.0), RandomAffine(zoom=0.2)], seed=1),
    ],
)
def test_config_and_saved_stream(images, make, tmp_path):
    layer = make()
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert json.dumps(again.get_config()) == json.dumps(layer.get_config())
    model = keras.Sequential([keras.Input((24, 40, 3), dtype="uint8"), layer])
    for _ in range(2):
        layer.host(images, np.arange(6))
    model.save(tmp_path / "model.keras")
    (loaded,) = keras.saving.load_model(tmp_path / "model.keras").layers
    for found, expected in zip(
        loaded.host(images, np.arange(6)), layer.host(images, np.arange(6)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_random_apply_decides_for_each_image():
    images = np.ones((400, 6, 6, 1), "uint8")
    layer = RandomApply(RandomErasing(1.0), 0.25, seed=0)
    erased = (layer.host(images) == 0).any(axis=(1, 2, 3))
    assert 65 < erased.sum() < 135  # 100 +- 4 standard deviations
    np.testing.assert_array_equal(
        numpy(RandomApply(RandomErasing(1.0), 0.25, seed=0)(images)),
        RandomApply(RandomErasing(1.0), 0.25, seed=0).host(images),
    )


def test_one_of_chooses_by_weight_for_each_image():
    images = np.ones((600, 6, 6, 1), "uint8")
    members = [RandomErasing(1.0, value=value) for value in (10, 20, 30)]
    layer = OneOf(members, weights=[3, 0, 1], seed=0)
    for call in (layer.host, layer):
        largest = numpy(call(images)).max(axis=(1, 2, 3))
        counts = [(largest == value).sum() for value in (10, 20, 30)]
        assert sum(counts) == 600
        assert counts[1] == 0
        assert 405 < counts[0] < 495  # 450 +- 4 standard deviations


def test_a_model_trains_on_each_of_them(digits):
    # Compiled by XLA where there is any, in mixed precision, with a ragged last batch.
    x, y = digits[0][:72], digits[1][:72]
    half = dict(dtype="mixed_bfloat16")
    erase = RandomErasing(0.2, mode="pixel", value_range=(0, 1))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            RandomApply(RandomAffine(rotation=10), seed=1, **half),
            OneOf([erase, RandomAffine(zoom=0.1)], seed=2, **half),
            AugmentationPipeline([RandomAffine(zoom=0.1)], rescale=None, mean=0.3, seed=3, **half),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit_compile = keras.backend.backend() != "torch"
    model.compile(keras.optimizers.Adam(0.02), loss, jit_compile=jit_compile)
    assert model.jit_compile == jit_compile
    assert all(layer.supports_jit for layer in model.layers)
    losses = model.fit(x, y, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AugmentationPipeline([keras.layers.RandomFlip()]), "takes augmentation layers of"),
        (lambda: AugmentationPipeline(3), "Received: 3"),
        (
            lambda: AugmentationPipeline([from_image_data_generator(rescale=2.0)]),
            "no layers that end in a normalization of their own",
        ),
        (
            lambda: AugmentationPipeline([AugmentationPipeline([])]),
            "no layers that end in a normalization of their own",
        ),
        (lambda: AugmentationPipeline([], rescale=0), "`rescale` must be .* rescale=0"),
        (lambda: AugmentationPipeline([], std=[1, 0]), r"`std` must be .* above 0.*\(1, 0\)"),
        (lambda: AugmentationPipeline([], mean="grey"), "`mean` must be a finite number"),
        (
            lambda: AugmentationPipeline(
                [RandomErasing(value_range=(0, 1)), RandomErasing(name="other")]
            ),
            r"same `value_range`; pass it to each.*'other': \(0.0, 255.0\)",
        ),
        (
            lambda: AugmentationPipeline([RandomAffine(data_format="channels_first")]),
            "same `data_format`",
        ),
        (lambda: RandomApply(MixUp(num_classes=2)), "that changes labels. Put it into an"),
        (lambda: OneOf([RandomResizedCrop(2, 2)]), "that changes the size of images"),
        (lambda: RandomApply(RandomAffine(), 2), "`probability` must be a number"),
        (lambda: OneOf([]), "at least one layer"),
        (lambda: OneOf([RandomAffine()], weights=[0]), r"not all 0. Received: weights=\[0\]"),
        (lambda: OneOf([RandomAffine()], weights=[1, 2]), "must be 1 numbers"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_for_other_channels(images):
    with pytest.raises(ValueError, match="`mean` must be one number or one for each channel"):
        AugmentationPipeline([], mean=[1, 2])(images)
