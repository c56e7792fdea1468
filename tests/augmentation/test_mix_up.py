"""MixUp and CutMix, which share all but the way in which images are mixed."""

import keras
import numpy as np
import pytest

from keras_optkit.augmentation import AugmentationPipeline, CutMix, MixUp, RandomAffine

both = pytest.mark.parametrize("make", [MixUp, CutMix])


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def by_graph(layer, images):
    """What the graph engine makes of images; eager images may go to the host engine."""
    data = layer._to_tensors({"images": images, "labels": LABELS})
    outputs = layer._augment(data, layer._sample(data))
    return numpy(outputs["images"]), numpy(outputs["labels"])


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 5, 9, 3)).astype("uint8")


LABELS = np.arange(10) % 4


def table_of(layer, images):
    """The table that the layer is going to draw, in float64."""
    _, table = type(layer).from_config(layer.get_config())._on_host(images, LABELS, True)
    return {key: value.astype("float64") for key, value in table.items()}


@pytest.mark.parametrize("per", ["image", "batch"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@both
def test_equals_numpy(images, make, dtype, per):
    layer = make(1.0, num_classes=4, per=per, seed=5)
    table = table_of(layer, images)
    partner = table["partner"].astype(int)
    assert sorted(partner) == list(range(10))
    assert len(set(table["ratio"])) == 1 if per == "batch" else len(set(table["ratio"])) > 5
    images = images.astype(dtype)
    outputs, labels = by_graph(layer, images)
    one_hot = np.eye(4)[LABELS]
    for i in range(10):
        ratio, other = table["ratio"][i], partner[i]
        if make is MixUp:
            expected = ratio * images[i] + (1 - ratio) * images[other].astype("float64")
            share = ratio
        else:
            top, left, bottom, right = table["boxes"][i].astype(int)
            expected = images[i].astype("float64")
            expected[top:bottom, left:right] = images[other, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / 45
        atol = 0.5001 if dtype == "uint8" and make is MixUp else 1e-4
        np.testing.assert_allclose(outputs[i], expected, atol=atol)
        expected = share * one_hot[i] + (1 - share) * one_hot[other]
        np.testing.assert_allclose(labels[i], expected, atol=1e-6)
    assert outputs.dtype == dtype
    assert labels.dtype == "float32"
    assert not np.array_equal(outputs, images)


@both
def test_every_way_in_gives_the_same(images, make):
    import tensorflow as tf

    def layer():
        return make(1.0, num_classes=4, seed=3)

    expected = [numpy(x) for x in layer()(images, LABELS)]
    for found, x in zip(by_graph(layer(), images), expected, strict=True):
        np.testing.assert_allclose(found.astype("float64"), x.astype("float64"), atol=1)
    outputs = layer()({"images": images, "labels": LABELS})
    for found, x in zip((outputs["images"], outputs["labels"]), expected, strict=True):
        np.testing.assert_array_equal(numpy(found), x)
    host_images, host_labels = layer().host(images, LABELS)
    np.testing.assert_allclose(host_images.astype(int), expected[0].astype(int), atol=1)
    np.testing.assert_allclose(host_labels, expected[1], atol=1e-6)
    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(10)
    mapped, parallel = dataset.map(layer()), layer().map(dataset)
    assert mapped.element_spec[1].shape.as_list() == [None, 4]
    (first,), (second,) = list(mapped), list(parallel)
    np.testing.assert_allclose(first[1], second[1], atol=1e-6)
    np.testing.assert_allclose(tf.cast(first[0], "int32"), tf.cast(second[0], "int32"), atol=1)
    if keras.backend.backend() == "tensorflow":
        np.testing.assert_allclose(first[1], expected[1], atol=1e-6)
    single = [
        x["labels"] for x in layer().map(dataset.map(lambda x, y: {"images": x, "labels": y}))
    ]
    np.testing.assert_allclose(single[0], second[1], atol=1e-6)


@both
def test_inference_makes_labels_one_hot_and_no_more(images, make):
    layer = make(num_classes=4)
    outputs, labels = layer(images, LABELS, training=False)
    np.testing.assert_array_equal(numpy(outputs), images)
    np.testing.assert_array_equal(numpy(labels), np.eye(4)[LABELS])
    np.testing.assert_array_equal(numpy(layer(images, training=False)), images)


def test_masks_are_cut_as_images_are(images):
    masks = images[..., :1]
    layer = CutMix(num_classes=4, seed=0)
    for mask in (masks, masks[..., 0]):
        outputs = layer({"images": masks, "labels": LABELS, "segmentation_masks": mask})
        found = numpy(outputs["segmentation_masks"])
        assert found.dtype == "uint8"
        np.testing.assert_array_equal(found.reshape(masks.shape), numpy(outputs["images"]))


def test_one_hot_masks_are_mixed_and_masks_of_classes_refused(images):
    inputs = {"images": images.astype("float32"), "labels": LABELS}
    one_hot = np.eye(4, dtype="float32")[np.random.default_rng(0).integers(0, 4, (10, 5, 9))]
    layer = MixUp(1.0, num_classes=4, seed=3)
    table = table_of(layer, images)
    outputs = layer({**inputs, "segmentation_masks": one_hot})
    ratio = table["ratio"][:, None, None, None]
    expected = ratio * one_hot + (1 - ratio) * one_hot[table["partner"].astype(int)]
    np.testing.assert_allclose(numpy(outputs["segmentation_masks"]), expected, atol=1e-6)
    with pytest.raises(ValueError, match="no average. Pass one-hot masks.*or use CutMix.*int64"):
        layer({**inputs, "segmentation_masks": one_hot.argmax(-1)})


@both
def test_a_ragged_last_batch_does_not_retrace(images, make):
    import tensorflow as tf

    traces = []

    class Counting(make):
        def sample(self, draw, height, width):
            traces.append(height)
            return super().sample(draw, height, width)

    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(4)
    mapped = Counting(num_classes=4).map(dataset)
    traced = len(traces)
    for _ in range(2):
        assert [len(x) for x, _ in mapped] == [4, 4, 2]
    assert len(traces) == traced


@both
def test_labels_that_cannot_be_mixed(images, make):
    layer = make(num_classes=4)
    for labels, message in (
        (np.array([0, 1, 2, 3, 4, 0, 1, 2, 3, -1]), r"in \[0, 4\). Received: labels \[4, -1\]"),
        (LABELS.astype("float32"), "ids of classes have no average"),
        (LABELS[:5], "as many labels as images, which are 10"),
    ):
        for call in (layer, layer.host):
            with pytest.raises(ValueError, match=message):
                call(images, labels)
    with pytest.raises(ValueError, match="stands in front of the model.*images without labels"):
        layer(images, training=True)
    with pytest.raises(ValueError, match="can't be weighed.*Leave the weights out"):
        layer(images, LABELS, np.ones(10))
    with pytest.raises(ValueError, match="batch the dataset first"):
        layer({"images": images[0], "labels": LABELS[:1]}, training=True)
    boxes = {"boxes": np.zeros((10, 1, 4)), "labels": np.zeros((10, 1))}
    with pytest.raises(ValueError, match="can't mix boxes"):
        make(num_classes=4, bounding_box_format="xyxy")(
            {"images": images, "labels": LABELS, "bounding_boxes": boxes}
        )


@both
def test_a_class_id_out_of_range_in_a_dataset(images, make):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((images, LABELS + 1)).batch(5)
    for mapped in (dataset.map(make(num_classes=4)), make(num_classes=4).map(dataset)):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be in \[0, 4\)"):
            list(mapped)


@both
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0}, r"`alpha` must be a number in \[0.01, 100\].*Received: alpha=0"),
        ({"alpha": float("nan")}, "Received: alpha=nan"),
        ({"num_classes": 0}, "`num_classes` must be an integer of at least 1.*num_classes=0"),
        ({"num_classes": 2.0}, "Received: num_classes=2.0"),
        ({"per": "pixel"}, "`per` must be 'image' or 'batch'. Received: per='pixel'"),
    ],
)
def test_bad_arguments(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@both
def test_a_model_trains_on_it_and_a_resumed_stream_goes_on(make, digits, tmp_path):
    x, y = digits[0][:96], digits[1][:96]

    def pipeline():
        return AugmentationPipeline(
            [RandomAffine(rotation=10), make(1.0, num_classes=10)], rescale=None, seed=5
        )

    def fit(model, layer, epochs):
        for _ in range(epochs):
            for i in range(0, 96, 32):
                model.train_on_batch(*layer.host(x[i : i + 32], y[i : i + 32]))
        return float(model.evaluate(*layer(x, y, training=False), verbose=0))

    def model_of():
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10, "softmax")]
        )
        model.compile(keras.optimizers.Adam(0.02), "categorical_crossentropy")
        return model

    whole, layer = model_of(), pipeline()
    before = fit(whole, layer, 0)
    after = fit(whole, layer, 4)
    assert after < before

    # The layer is no part of the model; it is saved in a model of its own.
    part, layer = model_of(), pipeline()
    fit(part, layer, 2)
    part.save(tmp_path / "model.keras")
    keras.Sequential([keras.Input((8, 8, 1)), layer]).save(tmp_path / "layer.keras")
    resumed = keras.saving.load_model(tmp_path / "model.keras")
    (layer,) = keras.saving.load_model(tmp_path / "layer.keras").layers
    np.testing.assert_allclose(fit(resumed, layer, 2), after, rtol=1e-5)
