import keras
import numpy as np
import pytest

from keras_optkit.augmentation import RandomAffine, RandomErasing, RandomResizedCrop
from keras_optkit.augmentation.bounding_boxes import FORMATS, from_corners, to_corners

CORNERS = np.array([[[1, 2, 4, 5], [0, 0, 9, 5]], [[6, 1, 8, 4], [2, 3, 3, 4]]], "float32")


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def converted(corners, target, height, width):
    """Keras' own conversion, as the reference."""
    return numpy(
        keras.utils.bounding_boxes.convert_format(
            np.array(corners), "xyxy", target, height=height, width=width
        )
    )


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_those_of_keras(name):
    boxes = converted(CORNERS, name, 5, 9)
    np.testing.assert_allclose(numpy(to_corners(boxes, name, 5, 9)), CORNERS, atol=1e-5)
    np.testing.assert_allclose(numpy(from_corners(CORNERS, name, 5, 9)), boxes, atol=1e-5)


def drawn(box, height, width):
    """A box of whole numbers as a mask."""
    left, top, right, bottom = map(int, box)
    mask = np.zeros((height, width, 1), "uint8")
    mask[top:bottom, left:right] = 1
    return mask


def around(mask):
    """The box around the ones of a mask, or None."""
    rows, columns = np.nonzero(mask[..., 0])
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


EXACT = {
    "flips": (RandomAffine, dict(horizontal_flip=True, vertical_flip=True)),
    "shift": (
        RandomAffine,
        dict(translation=((0.4, 0.4), (-1 / 3, -1 / 3)), fill_mode="constant"),
    ),
    "turn": (RandomAffine, dict(rotation=(180, 180), fill_mode="constant")),
}
NEAR = {
    "all": (
        RandomAffine,
        dict(rotation=40, shear=10, zoom=0.3, translation=0.2, fill_mode="constant"),
    ),
    "crop": (RandomResizedCrop, dict(height=20, width=30, scale=(0.3, 1.0))),
}


def check_against_masks(make, settings, size, tolerance, on_host=False):
    """Draws boxes as masks, transforms both, and compares."""
    height, width = size
    rng = np.random.default_rng(0)
    boxes = np.sort(rng.integers(0, [width + 1, height + 1], (24, 2, 2)), axis=1).reshape(24, 1, 4)
    boxes = boxes[(boxes[..., 2:] > boxes[..., :2]).all(axis=(1, 2))].astype("float32")
    masks = np.stack([drawn(box[0], height, width) for box in boxes])
    for name in ("xyxy", "rel_center_xywh")[: 1 + on_host]:
        layer = make(**settings, bounding_box_format=name, seed=3)
        outputs = (layer.host if on_host else layer)(
            {
                "images": masks.astype("float32"),
                "segmentation_masks": masks,
                "bounding_boxes": {
                    "boxes": converted(boxes, name, height, width),
                    "labels": np.full((len(boxes), 1), 7),
                },
            }
        )
        new_height, new_width = outputs["images"].shape[1:3]
        moved = outputs["bounding_boxes"]["boxes"]
        moved = numpy(to_corners(moved, name, new_height, new_width))[:, 0]
        labels = numpy(outputs["bounding_boxes"]["labels"])[:, 0]
        seen = 0
        for mask, box, label in zip(
            numpy(outputs["segmentation_masks"]), moved, labels, strict=True
        ):
            expected = around(mask)
            if expected is None:
                # Something thinner than a pixel may be left of the box.
                assert label == -1 or (box[2:] - box[:2]).min() <= tolerance
            else:
                assert label == 7
                assert (box[:2] <= expected[:2] + tolerance).all()
                assert (box[2:] >= expected[2:] - tolerance).all()
                cut_off = (box <= 0) | (box >= np.tile([new_width, new_height], 2))
                if not (cut_off.any() and "rotation" in settings):
                    # The box around a turned box may see a corner outside of the image.
                    seen += 1
                    np.testing.assert_allclose(box, expected, atol=tolerance)
        assert seen >= 4


@pytest.mark.parametrize("case", EXACT)
def test_boxes_go_where_their_masks_go_exactly(case):
    check_against_masks(*EXACT[case], size=(5, 9), tolerance=1e-3)


@pytest.mark.parametrize("case", NEAR)
@pytest.mark.parametrize("size", [(5, 9), (40, 60)])
def test_boxes_go_where_their_masks_go(case, size):
    # The corners of a turned box are thinner than a pixel, so a mask may miss them; what is
    # enlarged, four times at most, shows half a pixel of the input as two.
    check_against_masks(*NEAR[case], size=size, tolerance=2.2, on_host=True)


def boxes_of(labels, boxes=CORNERS):
    return {
        "images": np.zeros((2, 5, 9, 1), "float32"),
        "bounding_boxes": {"boxes": boxes, "labels": labels},
    }


def test_boxes_that_left_the_image_get_the_label_minus_one():
    layer = RandomAffine(translation=((0, 0), (1, 1)), bounding_box_format="xyxy")
    outputs = layer(boxes_of(np.array([[0, 1], [2, 3]], "int64")))["bounding_boxes"]
    np.testing.assert_array_equal(numpy(outputs["labels"]), -1)
    assert (numpy(outputs["boxes"])[..., 2] == 9).all()
    one_hot = np.eye(4, dtype="float32").reshape(2, 2, 4)
    outputs = layer(boxes_of(one_hot))["bounding_boxes"]
    np.testing.assert_array_equal(numpy(outputs["labels"]), -np.ones((2, 2, 4)))


@pytest.mark.parametrize("name", FORMATS)
def test_padding_stays_as_it_is(name):
    boxes = converted(CORNERS, name, 5, 9)
    boxes[0, 1] = -1
    layer = RandomAffine(rotation=(90, 90), bounding_box_format=name)
    outputs = layer(boxes_of(np.array([[5, -1], [5, 5]]), boxes))["bounding_boxes"]
    np.testing.assert_array_equal(numpy(outputs["boxes"])[0, 1], -1)
    np.testing.assert_array_equal(numpy(outputs["labels"]), [[5, -1], [5, 5]])
    assert not np.allclose(numpy(outputs["boxes"])[1, 0], boxes[1, 0])


def test_boxes_stay_in_inference_and_under_erasing():
    inputs = boxes_of(np.array([[0, 1], [2, 3]]))
    inputs["images"] = inputs["images"][0]
    inputs["bounding_boxes"] = {k: v[0] for k, v in inputs["bounding_boxes"].items()}
    for layer, training in (
        (RandomAffine(rotation=30, bounding_box_format="xyxy"), False),
        (RandomErasing(1.0, bounding_box_format="xyxy"), True),
    ):
        outputs = layer(inputs, training=training)["bounding_boxes"]
        np.testing.assert_allclose(numpy(outputs["boxes"]), CORNERS[0], atol=1e-6)
        np.testing.assert_array_equal(numpy(outputs["labels"]), [0, 1])


def test_a_crop_moves_boxes_in_inference_too():
    layer = RandomResizedCrop(10, 10, bounding_box_format="xyxy")
    boxes = np.array([[[2, 0, 7, 5]]], "float32")  # the square in the middle
    inputs = {
        "images": np.zeros((1, 5, 9, 1), "float32"),
        "bounding_boxes": {"boxes": boxes, "labels": np.zeros((1, 1), "int32")},
    }
    outputs = layer(inputs, training=False)["bounding_boxes"]["boxes"]
    np.testing.assert_allclose(numpy(outputs), [[[0, 0, 10, 10]]], atol=1e-5)


def test_boxes_in_a_dataset_and_on_the_host():
    import tensorflow as tf

    inputs = boxes_of(np.array([[0, 1], [2, -1]]))
    inputs["images"] = inputs["images"].astype("uint8")

    def make():
        return RandomAffine(horizontal_flip=True, bounding_box_format="xyxy", seed=1)

    dataset = tf.data.Dataset.from_tensor_slices(inputs).batch(2)
    mapped = [next(iter(found)) for found in (dataset.map(make()), make().map(dataset))]
    for outputs in mapped:
        np.testing.assert_array_equal(outputs["bounding_boxes"]["labels"], [[0, 1], [2, -1]])
        np.testing.assert_allclose(
            outputs["bounding_boxes"]["boxes"], mapped[0]["bounding_boxes"]["boxes"]
        )
    host = make().host(inputs)["bounding_boxes"]
    eager = make()(inputs)["bounding_boxes"]
    np.testing.assert_allclose(host["boxes"], numpy(eager["boxes"]), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "boxes", "message"),
    [
        (None, {"boxes": CORNERS, "labels": np.zeros((2, 2))}, "need a layer that knows their"),
        ("xyxy", CORNERS, "must be a dictionary with 'boxes' and 'labels'.*Received"),
        ("xyxy", {"boxes": CORNERS}, r"must be a dictionary.*keys \['boxes'\]"),
        (
            "xyxy",
            {"boxes": CORNERS, "labels": np.zeros((2, 3))},
            r"labels of shape \(2, 3\)",
        ),
        ("xyxy", {"boxes": CORNERS[0], "labels": np.zeros(2)}, r"\(batch, boxes, 4\)"),
        ("xyxy", {"boxes": CORNERS, "labels": np.zeros((2, 2), "uint8")}, "cast them to int32"),
    ],
)
def test_bad_boxes_say_what_is_allowed(name, boxes, message):
    layer = RandomAffine(bounding_box_format=name)
    with pytest.raises(ValueError, match=message):
        layer({"images": np.zeros((2, 5, 9, 1), "float32"), "bounding_boxes": boxes})


def test_an_unknown_format():
    with pytest.raises(
        ValueError, match="Did you mean.* 'xyxy'.*Received: bounding_box_format='xyx"
    ):
        RandomAffine(bounding_box_format="xyx")


@pytest.mark.backends("tensorflow")
def test_ragged_boxes_say_what_to_do():
    import tensorflow as tf

    ragged = {"boxes": tf.ragged.constant([[[1, 2, 3, 4]], []]), "labels": tf.zeros((2, 1))}
    layer = RandomAffine(bounding_box_format="xyxy")
    with pytest.raises(ValueError, match=r"must not be ragged; fill them up with.*to_tensor\(-1\)"):
        layer({"images": tf.zeros((2, 5, 9, 1)), "bounding_boxes": ragged})
