import keras
import numpy as np
import pytest

from keras_optkit.augmentation.rectangles import DRAWS, check_rectangles, draw_rectangles, inside


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def test_areas_and_shapes_are_distributed_as_asked():
    draws = np.random.default_rng(0).random((4000, DRAWS)).astype("float32")
    boxes, fits = draw_rectangles(draws, (0.02, 0.33), (0.3, 3.3), 200, 300)
    boxes = numpy(boxes)[numpy(fits)].astype("float64")
    rows, columns = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert len(boxes) > 3990
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 200).all() and (boxes[:, 3] <= 300).all()
    shares = rows * columns / 60000
    assert shares.min() > 0.019 and shares.max() < 0.335
    # What doesn't fit is drawn again, so large areas are a little rarer than uniform.
    assert abs(shares.mean() - 0.175) < 0.01
    aspect = np.log(columns / rows)
    assert aspect.min() > np.log(0.29) and aspect.max() < np.log(3.4)
    assert abs(aspect.mean()) < 0.06
    # The place is uniform, and reaches both ends.
    place = boxes[:, 0] / np.maximum(200 - rows, 1)
    assert abs(place.mean() - 0.5) < 0.02
    assert place.min() == 0 and place.max() == 1


def reference(draws, scale, ratio, height, width):
    """The same in a loop, in float64."""
    low, high = np.log(ratio)
    for k in range(10):
        area = (scale[0] + (scale[1] - scale[0]) * draws[k]) * height * width
        aspect = np.exp(low + (high - low) * draws[10 + k])
        rows, columns = np.round(np.sqrt(area / aspect)), np.round(np.sqrt(area * aspect))
        if 1 <= rows <= height and 1 <= columns <= width:
            top = np.floor(draws[20] * (height - rows + 1))
            left = np.floor(draws[21] * (width - columns + 1))
            return [top, left, top + rows, left + columns]
    return None


def test_equals_a_loop():
    draws = np.random.default_rng(0).random((300, DRAWS)).astype("float32")
    boxes, fits = map(numpy, draw_rectangles(draws, (0.55, 1), (0.9, 1.0), 5, 9))
    assert 0 < fits.sum() < 300
    for row, box, fit in zip(draws.astype("float64"), boxes, fits, strict=True):
        expected = reference(row, (0.55, 1), (0.9, 1.0), 5, 9)
        assert fit == (expected is not None)
        if fit:
            assert box.tolist() == expected
        else:
            assert box[0] == box[2] or box[1] == box[3]


def test_inside():
    mask = numpy(inside(np.array([[1, 2, 3, 6], [0, 0, 0, 0]], "int32"), 5, 9))
    expected = np.zeros((2, 5, 9), bool)
    expected[0, 1:3, 2:6] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(
    ("scale", "ratio", "name"),
    [
        ((0, 0.5), (1, 2), "scale"),
        ((0.5, 0.2), (1, 2), "scale"),
        ((0.5, 1.5), (1, 2), "scale"),
        (0.5, (1, 2), "scale"),
        ("ab", (1, 2), "scale"),
        ((0.1, 0.5), (0, 2), "ratio"),
        ((0.1, 0.5), (1, float("inf")), "ratio"),
    ],
)
def test_bad_ranges(scale, ratio, name):
    with pytest.raises(ValueError, match=f"`{name}` must be a pair of .* Received: {name}="):
        check_rectangles(scale, ratio)
