"""The layers that change colors and choose operations: what holds for all, and for each."""

import json

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from keras_optkit.augmentation import (
    AugMix,
    AutoAugment,
    RandAugment,
    RandomColor,
    TrivialAugmentWide,
)
from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.auto_augment import POLICIES, _sub_policies
from keras_optkit.augmentation.policies import OPERATIONS

LAYERS = {
    "RandomColor": lambda **kwargs: RandomColor(
        0.4, 0.4, 0.4, 0.1, 0.2, gamma=0.2, posterize=5, solarize=0.2, invert=0.2, **kwargs
    ),
    "RandAugment": lambda **kwargs: RandAugment(magnitude_std=0.5, **kwargs),
    "TrivialAugmentWide": lambda **kwargs: TrivialAugmentWide(**kwargs),
    "AutoAugment": lambda **kwargs: AutoAugment("cifar10", **kwargs),
    "AugMix": lambda **kwargs: AugMix(width=2, depth=2, **kwargs),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def smooth_images(count=16, height=25, width=39, channels=3):
    y, x = np.mgrid[:height, :width]
    return (
        np.stack(
            [
                np.stack(
                    [128 + 90 * np.sin(x / (9 + c + i) + i) * np.cos(y / 11) for c in range(3)]
                )
                for i in range(count)
            ]
        )
        .transpose(0, 2, 3, 1)[..., :channels]
        .astype("uint8")
    )


def dataset_of(images):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(images)


# Compiling takes seconds. The others are made of the same stages.
@pytest.mark.parametrize("name", ["RandomColor", "RandAugment", "AugMix"])
def test_the_engines_agree(name, monkeypatch):
    images = smooth_images(40)
    dataset = dataset_of(images).batch(20)

    def run(host):
        monkeypatch.setattr(AugmentationLayer, "_host_pays", lambda *_: host)
        return np.concatenate(list(LAYERS[name](seed=3).map(dataset).as_numpy_iterator()))

    graph, host = run(False), run(True)
    assert graph.shape == images.shape
    assert not np.array_equal(graph, images)
    # Next to an edge, or to where an operation has a step, a grey level becomes many.
    far = np.abs(graph.astype(int) - host) > 2
    assert np.mean(far) < 0.02
    assert np.median(far.mean(axis=(1, 2, 3))) == 0
    np.testing.assert_array_equal(run(True), host)
    layer = LAYERS[name](seed=3)
    if keras.backend.backend() == "tensorflow":
        batches = [layer.host(images[i : i + 20]) for i in (0, 20)]
        assert np.mean(np.abs(np.concatenate(batches).astype(int) - host) > 2) < 0.01


@every_layer
@pytest.mark.parametrize("value_range", [(0, 255), (0, 1), (-1, 1)])
def test_float_images_are_treated_as_uint8_images_are(name, value_range):
    images = smooth_images()
    low, high = value_range
    floats = (images / 255 * (high - low) + low).astype("float32")
    expected = LAYERS[name](seed=3).host(images)
    layer = LAYERS[name](seed=3, value_range=value_range)
    result = layer.host(floats)
    assert result.dtype == "float32"
    assert result.min() >= low and result.max() <= high
    levels = (result - low) / (high - low) * 255
    # Where an operation has a step, a part of a level becomes many, and a step of 5 bits is 8.
    far = np.abs(levels - expected) > 9
    assert np.mean(far) < 0.1
    assert np.median(far.mean(axis=(1, 2, 3))) < 0.01
    if value_range == (0, 1):
        called = numpy(LAYERS[name](seed=3, value_range=value_range)(floats, training=True))
        assert np.mean(np.abs(called - result) > 2 / 255) < 0.01


@every_layer
def test_every_image_has_its_own_draw(name):
    image = np.random.default_rng(0).integers(0, 256, (5, 9, 3)).astype("uint8")
    outputs = LAYERS[name](seed=1).host(np.stack([image] * 64))
    # Some operations have no magnitude, and some images draw the same ones.
    assert len({output.tobytes() for output in outputs}) > 12


@every_layer
def test_identity_in_inference(name):
    images = smooth_images(3, 5, 9)
    layer = LAYERS[name]()
    np.testing.assert_array_equal(numpy(layer(images, training=False)), images)
    np.testing.assert_array_equal(layer.host(images, training=False), images)
    model = keras.Sequential([keras.Input((5, 9, 3), dtype="uint8"), layer])
    np.testing.assert_array_equal(numpy(model(images)), images)


@every_layer
def test_other_forms_of_images(name):
    images = smooth_images(6, 5, 9)
    expected = LAYERS[name](seed=2, data_format="channels_last").host(images)
    turned = LAYERS[name](seed=2, data_format="channels_first").host(images.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(turned.transpose(0, 2, 3, 1), expected)
    single = LAYERS[name](seed=2).host(images[0])
    np.testing.assert_array_equal(single, LAYERS[name](seed=2).host(images[:1])[0])
    grey = LAYERS[name](seed=2).host(images[..., :1])
    assert grey.shape == (6, 5, 9, 1)
    called = numpy(LAYERS[name](seed=2)(images[..., :1], training=True))
    assert np.mean(np.abs(called.astype(int) - grey) > 2) < 0.02
    with pytest.raises(ValueError, match=r"1 channel \(grey\) or 3 .*Received.*\(6, 5, 9, 2\)"):
        LAYERS[name]()(images[..., :2])
    with pytest.raises(ValueError, match=r"1 channel \(grey\) or 3 .*Received.*\(6, 5, 9, 2\)"):
        LAYERS[name]().host(images[..., :2])


@every_layer
def test_config_survives_json(name):
    layer = LAYERS[name](seed=4, value_range=(0, 1), name="augment")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == layer.get_config()
    images = (smooth_images(4, 5, 9) / 255).astype("float32")
    np.testing.assert_array_equal(again.host(images), layer.host(images))


@pytest.mark.backends("tensorflow", "jax")
@pytest.mark.parametrize("name", ["RandomColor", "RandAugment"])
def test_in_a_compiled_model_with_mixed_precision(name):
    images = smooth_images(16, 5, 9).astype("float32")
    model = keras.Sequential(
        [
            keras.Input((5, 9, 3)),
            LAYERS[name](seed=1, dtype="mixed_bfloat16"),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=True)
    history = model.fit(images, np.zeros(16), batch_size=8, epochs=3, shuffle=False, verbose=0)
    losses = history.history["loss"]
    assert model.jit_compile
    assert np.all(np.isfinite(losses))
    assert len(set(losses)) == 3


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning")
@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("name", ["RandomColor", "RandAugment"])
def test_keras_own_layer_test(name):
    # Its images are from a normal distribution.
    config = LAYERS[name](seed=1, value_range=(-9, 9)).get_config()
    TestCase().run_layer_test(
        type(LAYERS[name]()),
        init_kwargs={key: config[key] for key in config if key not in ("name", "dtype")},
        input_shape=(4, 5, 9, 3),
        expected_output_shape=(4, 5, 9, 3),
        expected_num_seed_generators=1,
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=0,
        supports_masking=False,
        run_mixed_precision_check=False,
    )


def test_several_threads_share_a_layer():
    from concurrent.futures import ThreadPoolExecutor

    images = smooth_images(4, 5, 9)
    expected = [RandAugment(seed=1), RandAugment(seed=1)]
    expected = {expected[0].host(images).tobytes() for _ in range(20)}
    layer = RandAugment(seed=1)
    with ThreadPoolExecutor(4) as threads:
        outputs = threads.map(lambda _: layer.host(images).tobytes(), range(20))
    assert set(outputs) == expected


def tables_of(layer, count=4000, height=20, width=30):
    from keras_optkit.augmentation.backend import on_the_host

    rng = np.random.default_rng(0)
    with on_the_host():
        return layer.sample(lambda n: rng.random((count, n)).astype("float32"), height, width)


def shares(operations):
    return {
        name: np.mean(operations == number)
        for number, name in enumerate(OPERATIONS)
        if np.any(operations == number)
    }


def test_rand_augment_draws_all_operations_alike():
    table = tables_of(RandAugment(num_ops=3))
    assert table["operations"].shape == (4000, 3)
    found = shares(table["operations"])
    assert len(found) == 14
    assert "Invert" not in found
    np.testing.assert_allclose(list(found.values()), 1 / 14, atol=0.01)
    turns = table["values"][table["operations"] == OPERATIONS.index("Rotate")]
    np.testing.assert_allclose(np.unique(turns), [-27, 27])
    assert abs(np.mean(turns > 0) - 0.5) < 0.05


def test_rand_augment_with_a_spread_of_magnitudes():
    layer = RandAugment(1, 5, magnitude_std=1, operations=["Solarize"])
    levels = 10 * (1 - tables_of(layer)["values"] / 256)
    np.testing.assert_allclose([levels.mean(), levels.std()], [5, 1], atol=0.05)
    levels = 10 - tables_of(RandAugment(1, 10, 3, ["Solarize"]))["values"] / 25.6
    assert levels.min() >= 0 and levels.max() <= 10 + 1e-5


def test_rand_augment_of_magnitude_0_does_nothing():
    operations = ["Rotate", "Solarize", "Color", "Posterize", "Contrast", "Sharpness", "ShearX"]
    images = smooth_images(20, 5, 9)
    np.testing.assert_array_equal(RandAugment(3, 0, operations=operations).host(images), images)


def test_trivial_augment_draws_magnitudes_alike():
    table = tables_of(TrivialAugmentWide(), 8000)
    assert len(shares(table["operations"])) == 14
    turns = table["values"][table["operations"] == OPERATIONS.index("Rotate")]
    np.testing.assert_allclose(np.unique(np.abs(turns)), np.arange(31) * 4.5, atol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
def test_auto_augment_draws_what_the_policy_says(policy):
    table = tables_of(AutoAugment(policy), 20000)
    expected = dict.fromkeys(OPERATIONS, 0.0)
    sub_policies = _sub_policies(policy)
    assert [len(steps) for steps in sub_policies] == [2] * 25
    for steps in sub_policies:
        for name, probability, magnitude in steps:
            assert 0 <= probability <= 1 and 0 <= magnitude <= 9
            expected[name] += probability / 50
            expected["Identity"] += (1 - probability) / 50
    found = shares(table["operations"])
    for name, share in expected.items():
        assert abs(found.get(name, 0) - share) < 0.01


def test_aug_mix_weights():
    for alpha in (0.5, 1.0, 4.0):
        table = tables_of(AugMix(alpha=alpha, width=3))
        weights = table["weights"]
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
        rng = np.random.default_rng(1)
        ratio = rng.beta(alpha, alpha, 4000)[:, None]
        expected = np.hstack([1 - ratio, ratio * rng.dirichlet([alpha] * 3, 4000)])
        quantiles = np.linspace(0.05, 0.95, 19)
        for column in range(4):
            a, b = (np.quantile(x[:, column], quantiles) for x in (weights, expected))
            np.testing.assert_allclose(a, b, atol=0.035)
    lengths = np.sum(table["operations"].reshape(-1, 3) > 0, axis=1)
    np.testing.assert_allclose(np.bincount(lengths)[1:] / len(lengths), 1 / 3, atol=0.02)


def test_hue_turns_the_circle_and_keeps_the_luma():
    from colorsys import rgb_to_hsv

    image = np.full((1, 2, 2, 3), [140, 110, 110], "uint8")
    hues = []
    for turn in (0, 1 / 3, -1 / 3):
        red, green, blue = RandomColor(hue=(turn, turn)).host(image)[0, 0, 0] / 255
        hues.append(rgb_to_hsv(red, green, blue)[0])
        luma = 255 * (0.299 * red + 0.587 * green + 0.114 * blue)
        assert abs(luma - (0.299 * 140 + 0.701 * 110)) < 1.5
    # The axes of luma are not at equal angles of the hexagon that colorsys has.
    np.testing.assert_allclose(np.sort(hues), [0, 1 / 3, 2 / 3], atol=0.09)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandAugment(0), "`num_ops` must be an integer of 1 or more. Received: num_ops=0"),
        (lambda: RandAugment(magnitude=11), r"number in \[0, 10\]. Received: magnitude=11"),
        (lambda: RandAugment(magnitude=float("nan")), r"\[0, 10\]. Received: magnitude=nan"),
        (lambda: RandAugment(magnitude_std=-1), "0 or more. Received: magnitude_std=-1"),
        (lambda: RandAugment(operations=["Hue"]), "Received: 'Hue' in operations="),
        (lambda: RandAugment(fill_mode="mirror"), "`fill_mode` must be one of"),
        (lambda: RandAugment(value_range=(1, 0)), "`value_range` must be"),
        (lambda: AutoAugment("cifar"), "Did you mean 'cifar10'.*Received: policy='cifar'"),
        (lambda: AugMix(width=0), "`width` must be an integer of 1"),
        (lambda: AugMix(depth=0), "`depth` must be an integer of 1"),
        (lambda: AugMix(severity=11), r"\(0, 10\]. Received: severity=11"),
        (lambda: AugMix(alpha=0), "`alpha` must be a number in"),
        (lambda: RandomColor(brightness=-1), "`brightness` must be .*brightness=-1"),
        (lambda: RandomColor(contrast=(1.2, 0.8)), "`contrast` must be"),
        (lambda: RandomColor(saturation=(-0.5, 1)), "`saturation` must be"),
        (lambda: RandomColor(hue=0.6), r"`hue` must be .*\[-0.5, 0.5\]. Received: hue=0.6"),
        (lambda: RandomColor(gamma=1), "`gamma` must be"),
        (lambda: RandomColor(posterize=0), r"`posterize` must be an integer in \[1, 8\]"),
        (lambda: RandomColor(posterize=4.5), r"`posterize` must be an integer in \[1, 8\]"),
        (lambda: RandomColor(grayscale=1.5), "`grayscale` must be a probability"),
    ],
)
def test_bad_arguments_say_what_is_allowed(make, message):
    with pytest.raises(ValueError, match=message):
        make()
