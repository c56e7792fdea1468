"""What every augmentation layer does, tried on `RandomAffine`."""

import json

import keras
import numpy as np
import pytest
from keras.src.testing import TestCase

from keras_optkit.augmentation import RandAugment, RandomAffine

SETTINGS = {
    "rotation": 20,
    "translation": 0.1,
    "shear": 5,
    "zoom": 0.2,
    "horizontal_flip": True,
    "seed": 1,
}
FLIPS = {"horizontal_flip": True, "vertical_flip": True, "seed": 1}


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def dtype_of(x):
    return keras.backend.standardize_dtype(x.dtype)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 5, 9, 3)).astype("uint8")


def make_layer(**kwargs):
    return RandomAffine(**{**SETTINGS, **kwargs})


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed, but will be ignored:UserWarning")
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights:UserWarning")
def test_keras_own_layer_test():
    TestCase().run_layer_test(
        RandomAffine,
        init_kwargs=SETTINGS,
        input_shape=(4, 5, 9, 3),
        expected_output_shape=(4, 5, 9, 3),
        expected_num_seed_generators=1,
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=0,
        supports_masking=False,
    )


def test_every_image_has_its_own_draw_and_every_batch_too():
    image = np.random.default_rng(0).random((5, 9, 3)).astype("float32")
    layer = RandomAffine(**SETTINGS)
    outputs = np.concatenate([numpy(layer(np.stack([image] * 8))) for _ in range(2)])
    assert len({output.tobytes() for output in outputs}) == 16


@pytest.mark.parametrize("settings", [SETTINGS, FLIPS])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_dtypes(images, dtype, settings):
    for training in (True, False):
        output = RandomAffine(**settings)(images.astype(dtype), training=training)
        assert dtype_of(output) == ("uint8" if dtype == "uint8" else "float32")
        symbolic = make_layer()(keras.Input((5, 9, 3), dtype=dtype), training=training)
        assert dtype_of(symbolic) == dtype_of(output)
        assert symbolic.shape == (None, 5, 9, 3)


def test_mixed_precision_has_the_same_geometry(images):
    layer = make_layer(dtype="mixed_bfloat16")
    output = layer(images.astype("float32"))
    assert dtype_of(output) == "bfloat16"
    expected = numpy(make_layer()(images.astype("float32")))
    # One part in 256 is what bfloat16 holds of a value; a coordinate off by a pixel is far more.
    np.testing.assert_allclose(numpy(keras.ops.cast(output, "float32")), expected, rtol=4e-3)


def test_one_image_is_a_batch_of_one(images):
    single = make_layer()(images[0])
    np.testing.assert_array_equal(numpy(single), numpy(make_layer()(images[:1]))[0])


def test_channels_first(images):
    expected = numpy(make_layer(data_format="channels_last")(images))
    layer = make_layer(data_format="channels_first")
    output = numpy(layer(images.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(output.transpose(0, 2, 3, 1), expected)
    layer = make_layer(data_format="channels_first")
    assert layer(images[0].transpose(2, 0, 1)).shape == (3, 5, 9)


@pytest.mark.parametrize(
    ("settings", "mask_dtype", "data_format"),
    [
        (SETTINGS, "bool", "channels_last"),
        (SETTINGS, "int32", "channels_first"),
        (FLIPS, "bool", "channels_last"),
        (FLIPS, "float32", "channels_first"),
    ],
)
def test_masks_follow_their_images(settings, mask_dtype, data_format):
    # Where images are resampled without mixing values too, both must come out the same.
    masks = np.random.default_rng(0).choice([0, 1, 5], size=(10, 5, 9, 1)).astype(mask_dtype)
    images = masks.astype("float32")
    if data_format == "channels_first":
        images, masks = (x.transpose(0, 3, 1, 2) for x in (images, masks))
    axis = 3 if data_format == "channels_last" else 1
    labels = np.arange(10)
    for inputs in (
        {"images": images, "labels": labels, "segmentation_masks": masks},
        {"images": images, "labels": labels, "segmentation_masks": masks.squeeze(axis)},
        {"images": images[0], "labels": labels[0], "segmentation_masks": masks[0]},
        {"images": images[0], "segmentation_masks": masks[0].squeeze(axis - 1)},
    ):
        given = dict(inputs)
        layer = RandomAffine(interpolation="nearest", data_format=data_format, **settings)
        outputs = layer(inputs)
        assert list(outputs) == list(inputs)
        assert inputs == given  # the caller's dictionary stays the caller's
        assert outputs.get("labels") is inputs.get("labels")
        warped = outputs["segmentation_masks"]
        assert dtype_of(warped) == mask_dtype
        assert tuple(warped.shape) == inputs["segmentation_masks"].shape
        expected = numpy(outputs["images"]).reshape(warped.shape).astype(mask_dtype)
        np.testing.assert_array_equal(numpy(warped), expected)
        assert not np.array_equal(numpy(warped), inputs["segmentation_masks"])


def test_identity_in_inference(images):
    inputs = keras.Input((5, 9, 3))
    layer = make_layer()
    model = keras.Model(inputs, layer(inputs))
    model.compile(loss="mse")
    floats = images.astype("float32")
    np.testing.assert_array_equal(numpy(layer(images, training=False)), images)
    np.testing.assert_array_equal(numpy(model(floats)), floats)
    np.testing.assert_array_equal(numpy(model(floats, training=False)), floats)
    np.testing.assert_array_equal(model.predict(floats, verbose=0), floats)
    assert model.evaluate(floats, floats, verbose=0) == 0
    assert not np.array_equal(numpy(model(floats, training=True)), floats)
    assert not np.array_equal(numpy(layer(floats)), floats)


@pytest.mark.backends("tensorflow")
def test_identity_in_an_export(images, tmp_path):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((5, 9, 3)), make_layer()])
    model.export(tmp_path, verbose=False)
    floats = images.astype("float32")
    np.testing.assert_array_equal(tf.saved_model.load(tmp_path).serve(floats), floats)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_fit_augments_anew_in_each_epoch_and_keeps_xla(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("XLA is TensorFlow's and JAX's")
    # With a learning rate of 0 the loss differs from epoch to epoch by augmentation alone. A full
    # batch and a ragged one after it.
    x = np.random.default_rng(0).random((12, 5, 9, 3)).astype("float32")
    model = keras.Sequential(
        [keras.Input((5, 9, 3)), make_layer(), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=jit_compile)
    assert model.jit_compile == jit_compile
    assert all(layer.supports_jit for layer in model.layers)
    losses = model.fit(x, np.zeros(12), batch_size=8, epochs=4, shuffle=False, verbose=0).history[
        "loss"
    ]
    assert np.all(np.isfinite(losses))
    assert len(set(losses)) == 4


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("make", [make_layer, lambda: RandAugment(value_range=(0, 1))])
def test_the_step_around_a_layer_is_compiled_by_xla(make):
    import tensorflow as tf

    class NotForXla(keras.layers.Layer):
        def call(self, x):
            return tf.ensure_shape(tf.numpy_function(lambda x: x, [x], tf.float32), x.shape)

    x = np.random.default_rng(0).random((4, 5, 9, 3)).astype("float32")
    model = keras.Sequential(
        [keras.Input((5, 9, 3)), make(), NotForXla(), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(x, np.zeros(4), verbose=0)
    model.compile("sgd", "mse", jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="compil"):
        model.fit(x, np.zeros(4), verbose=0)


def test_same_seed_same_stream(images):
    def stream(layer):
        return np.stack([numpy(layer(images)) for _ in range(3)])

    np.testing.assert_array_equal(stream(make_layer()), stream(make_layer()))
    assert not np.array_equal(stream(make_layer()), stream(make_layer(seed=2)))
    assert not np.array_equal(stream(make_layer(seed=None)), stream(make_layer(seed=None)))


def test_a_saved_model_goes_on_where_it_was(images, tmp_path):
    model = keras.Sequential([keras.Input((5, 9, 3), dtype="uint8"), make_layer()])
    for _ in range(3):
        model(images, training=True)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    fresh = keras.models.clone_model(model)
    fresh.load_weights(tmp_path / "model.weights.h5")
    expected = numpy(model(images, training=True))
    np.testing.assert_array_equal(numpy(loaded(images, training=True)), expected)
    np.testing.assert_array_equal(numpy(fresh(images, training=True)), expected)


def test_config_survives_json(images):
    layer = make_layer(fill_mode="constant", fill_value=9.0, name="augment")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(numpy(again(images)), numpy(layer(images)))


def dataset_of(*tensors):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(tensors if len(tensors) > 1 else tensors[0])


def test_dataset_map(images):
    labels = np.arange(10)
    dataset = dataset_of(images, labels).batch(4).map(make_layer())
    image_spec, label_spec = dataset.element_spec
    assert image_spec.shape.as_list() == [None, 5, 9, 3]
    assert image_spec.dtype == "uint8"
    assert label_spec.dtype == "int64"
    epochs = [[(x.numpy(), y.numpy()) for x, y in dataset] for _ in range(2)]
    for epoch in epochs:
        assert [len(x) for x, _ in epoch] == [4, 4, 2]
        np.testing.assert_array_equal(np.concatenate([y for _, y in epoch]), labels)
    first, second = (np.concatenate([x for x, _ in epoch]) for epoch in epochs)
    assert not np.array_equal(first, images)
    assert not np.array_equal(first, second)


def test_dataset_map_does_not_freeze_its_draws(images):
    dataset = dataset_of(np.stack([images[:4]] * 6)).map(RandomAffine(**SETTINGS))
    assert len({x.numpy().tobytes() for x in dataset}) == 6


def test_dataset_map_other_structures(images):
    masks = images[..., :1] > 100
    dataset = dataset_of({"images": images, "labels": np.arange(10), "segmentation_masks": masks})
    for mapped in (dataset.map(make_layer()), make_layer().map(dataset)):
        element = next(iter(mapped))
        assert element["images"].shape == (5, 9, 3)
        assert element["segmentation_masks"].dtype == "bool"
        assert element["labels"].numpy() == 0
    for mapped in (dataset_of(images).map(make_layer()), make_layer().map(dataset_of(images))):
        assert next(iter(mapped)).shape == (5, 9, 3)
    weighted = dataset_of(images, np.arange(10), np.ones(10)).batch(5)
    for mapped in (weighted.map(make_layer()), make_layer().map(weighted)):
        assert [len(x) for x in next(iter(mapped))] == [5, 5, 5]
    layer = make_layer()
    plain = dataset_of(images).map(lambda x: layer(x, training=False))
    np.testing.assert_array_equal(next(iter(plain)), images[0])


def test_images_of_unknown_size_in_a_dataset():
    import tensorflow as tf

    def pictures():
        for height, width in ((5, 9), (8, 3)):
            yield np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype("uint8")

    spec = tf.TensorSpec((None, None, 3), tf.uint8)
    dataset = tf.data.Dataset.from_generator(pictures, output_signature=spec).map(make_layer())
    assert [x.shape for x in dataset] == [(5, 9, 3), (8, 3, 3)]


def test_parallel_map_is_the_same_from_run_to_run(images):
    def run(layer, calls):
        dataset = layer.map(dataset_of(np.tile(images, (6, 1, 1, 1))).batch(4), calls)
        return [np.concatenate(list(dataset.as_numpy_iterator())) for _ in range(2)]

    first, second = run(make_layer(), 4)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal([first, second], run(make_layer(), 4))
    np.testing.assert_array_equal([first, second], run(make_layer(), 1))
    assert not np.array_equal(first, run(make_layer(seed=2), 4)[0])


@pytest.mark.backends("tensorflow")
def test_one_stream_however_the_layer_is_called(images):
    import tensorflow as tf

    batches = [images[i : i + 4] for i in (0, 4, 8)]
    eager = make_layer()
    expected = np.concatenate([numpy(eager(batch)) for batch in batches]).astype("int32")
    graph = tf.function(make_layer(), reduce_retracing=True)
    dataset = dataset_of(images).batch(4)
    for outputs in (
        [graph(tf.constant(batch)) for batch in batches],
        dataset.map(make_layer()),
        make_layer().map(dataset),
    ):
        outputs = np.concatenate([numpy(output) for output in outputs])
        # Two ways to the same sum of products may round to neighbouring grey levels.
        assert np.abs(outputs - expected).max() <= 1


def test_two_seeds_have_nothing_in_common():
    # On torch, Keras' own generators give seed 1 the draws that seed 0 has one call later.
    draws = [[], []]
    for seed in (0, 1):

        class Recording(RandomAffine):
            def sample(self, draw, height, width, seed=seed):
                draws[seed].append(numpy(draw(7)))
                return super().sample(draw, height, width)

        layer = Recording(rotation=10, seed=seed)
        for _ in range(4):
            layer.host(np.zeros((2, 5, 9, 1), "float32"))
    assert len({draw.tobytes() for draw in draws[0] + draws[1]}) == 8


@pytest.mark.backends("tensorflow")
def test_every_replica_has_its_own_draws(mirrored):
    import tensorflow as tf

    image = np.random.default_rng(0).random((8, 8, 1)).astype("float32")
    with mirrored.scope():
        layer = RandomAffine(rotation=30, translation=0.2, seed=0)
        model = keras.Sequential([keras.Input((8, 8, 1)), layer, keras.layers.Flatten()])
        model.add(keras.layers.Dense(1))
        model.compile("sgd", "mse")

    @tf.function
    def step(batch):
        return mirrored.run(lambda x: layer(x, training=True), args=(batch,))

    data = tf.data.Dataset.from_tensors(np.stack([image] * 8)).repeat(2)
    halves = [
        half.numpy()
        for batch in mirrored.experimental_distribute_dataset(data)
        for half in mirrored.experimental_local_results(step(batch))
    ]
    assert [len(half) for half in halves] == [4] * 4
    assert len({output.tobytes() for half in halves for output in half}) == 16
    # The first replica draws what one device alone would.
    alone = RandomAffine(rotation=30, translation=0.2, seed=0)(np.stack([image] * 4))
    np.testing.assert_allclose(halves[0], numpy(alone), atol=1e-5)
    labelled = data.map(lambda x: (x, tf.zeros((8, 1))))
    assert np.isfinite(model.fit(labelled, verbose=0).history["loss"][0])


def test_a_ragged_last_batch_does_not_retrace(images):
    traces = []

    class Counting(RandomAffine):
        def sample(self, draw, height, width):
            traces.append((height, width))
            return super().sample(draw, height, width)

    dataset = dataset_of(images).batch(4)
    for apply in (lambda layer: dataset.map(layer), lambda layer: layer.map(dataset)):
        traces.clear()
        mapped = apply(Counting(**SETTINGS))
        traced = len(traces)
        for _ in range(2):
            assert [len(x) for x in mapped] == [4, 4, 2]
        assert len(traces) == traced


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 2, 4, 4, 3)), r"rank 3 or a batch of images of rank 4.*\(2, 2, 4, 4, 3\)"),
        (np.zeros((4, 4)), r"rank 3 or a batch.*Received: images of shape \(4, 4\)"),
        (np.zeros((2, 0, 4, 3)), r"at least one pixel.*Received: images of shape \(2, 0, 4, 3\)"),
        (np.zeros((2, 4, 4, 0)), "at least one pixel and one channel"),
        (np.zeros((2, 4, 4, 3), "int32"), "of type uint8 or float.*Received: images of type int32"),
        (np.zeros((2, 4, 4, 3), "bool"), "Received: images of type bool"),
        ({"image": np.zeros((2, 4, 4, 3))}, "'image'.*Did you mean 'images'.*Received: keys"),
        ({"labels": np.zeros(2)}, "needs a dictionary with 'images'"),
        (
            {"images": np.zeros((2, 4, 4, 3)), "keypoints": np.zeros((2, 1, 2))},
            "does not know what to do with 'keypoints'",
        ),
        (
            {"images": np.zeros((2, 5, 9, 3)), "segmentation_masks": np.zeros((2, 9, 5, 1))},
            r"Received: masks of shape \(2, 9, 5, 1\) for images of shape \(2, 5, 9, 3\)",
        ),
        (
            {"images": np.zeros((5, 9, 3)), "segmentation_masks": np.zeros((1, 5, 9, 1))},
            "must have the height and width of the images",
        ),
        (
            {"images": np.zeros((2, 5, 9, 3)), "segmentation_masks": np.zeros((3, 5, 9))},
            "must have the height and width of the images",
        ),
    ],
)
def test_bad_inputs_say_what_is_allowed(inputs, message):
    for training in (True, False):
        with pytest.raises(ValueError, match=message):
            make_layer()(inputs, training=training)


def test_bad_calls_and_arguments(images):
    with pytest.raises(ValueError, match="`training` must be passed by its name"):
        RandomAffine(rotation=10)(images, True)
    with pytest.raises(ValueError, match=r"`seed` must be an integer or None.* Received: seed=0.5"):
        RandomAffine(seed=0.5)
    with pytest.raises(ValueError, match=r"`data_format` must be .*Received: data_format='NHWC'"):
        RandomAffine(data_format="NHWC")
    with pytest.raises(ValueError, match=r"`dtype` must be a float type.*Received: dtype='uint8'"):
        RandomAffine(dtype="uint8")
