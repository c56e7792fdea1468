import keras
import numpy as np
import pytest

from keras_optkit.augmentation.affine import AffineRanges, affine_matrices

HEIGHT, WIDTH = 5, 9


def matrices(draws=0.5, batch=1, **ranges):
    draws = np.broadcast_to(np.asarray(draws, "float32"), (batch, AffineRanges.DRAWS))
    return keras.ops.convert_to_numpy(affine_matrices(AffineRanges(**ranges), draws, HEIGHT, WIDTH))


def output_of(point, matrix):
    """Where a point (x, y) of the input, counted from the centre, is found in the output."""
    centre = np.array([(WIDTH - 1) / 2, (HEIGHT - 1) / 2])
    output = np.linalg.solve(matrix[:, :2].astype("float64"), point + centre - matrix[:, 2])
    return output - centre


@pytest.mark.parametrize(
    ("ranges", "point", "expected"),
    [
        ({}, (3, 1), (3, 1)),
        # Counter-clockwise, with y downwards: what is on the right comes to the top.
        ({"rotation": (90, 90)}, (2, 0), (0, -2)),
        ({"translation": ((0.2, 0.2), 0)}, (1, 1), (1, 2)),
        ({"translation": (0, (1 / 3, 1 / 3))}, (1, 1), (4, 1)),
        ({"shear": (45, 45)}, (0, -1), (1, -1)),
        ({"shear": (45, 45)}, (3, 0), (3, 0)),
        ({"zoom": (2, 2)}, (2, -1), (4, -2)),
        # The order: flip, zoom, shear, rotation, translation.
        ({"zoom": (2, 2), "shear": (45, 45)}, (0, -1), (2, -2)),
        ({"shear": (45, 45), "rotation": (90, 90)}, (0, -1), (-1, -1)),
        ({"rotation": (90, 90), "translation": (0, (1 / 9, 1 / 9))}, (2, 0), (1, -2)),
    ],
)
def test_each_parameter_moves_points_as_documented(ranges, point, expected):
    (matrix,) = matrices(**ranges)
    np.testing.assert_allclose(output_of(point, matrix), expected, atol=1e-5)


def test_a_flip_does_not_change_what_the_other_parameters_mean():
    draws = np.full((1, AffineRanges.DRAWS), 0.5)
    draws[:, 5] = 0
    (matrix,) = matrices(draws, rotation=(90, 90), horizontal_flip=True)
    np.testing.assert_allclose(output_of((-2, 0), matrix), (0, -2), atol=1e-5)


def test_flips_are_exact():
    for column, ranges, expected in (
        (5, {"horizontal_flip": True}, [[-1, 0, WIDTH - 1], [0, 1, 0]]),
        (6, {"vertical_flip": True}, [[1, 0, 0], [0, -1, HEIGHT - 1]]),
    ):
        draws = np.full((2, AffineRanges.DRAWS), 0.7)
        draws[1, column] = 0.3
        still, flipped = matrices(draws, batch=2, **ranges)
        np.testing.assert_array_equal(still, [[1, 0, 0], [0, 1, 0]])
        np.testing.assert_array_equal(flipped, expected)


def drawn(batch=4000, **ranges):
    draws = keras.random.uniform((batch, AffineRanges.DRAWS), seed=3)
    return keras.ops.convert_to_numpy(
        affine_matrices(AffineRanges(**ranges), draws, HEIGHT, WIDTH)
    ).astype("float64")


def assert_uniform(values, low, high):
    assert low - 1e-4 <= values.min() <= low + (high - low) / 100
    assert high - (high - low) / 100 <= values.max() <= high + 1e-4
    share_of_low_half = np.mean(values < (low + high) / 2)
    assert 0.46 < share_of_low_half < 0.54  # 5 standard deviations of 4000 draws


def test_draws_fill_their_ranges():
    m = drawn(rotation=30)
    assert_uniform(np.degrees(np.arctan2(m[:, 1, 0], m[:, 0, 0])), -30, 30)
    m = drawn(rotation=(-10, 50))
    assert_uniform(np.degrees(np.arctan2(m[:, 1, 0], m[:, 0, 0])), -10, 50)
    m = drawn(shear=20)
    assert_uniform(np.degrees(np.arctan(m[:, 0, 1])), -20, 20)
    m = drawn(zoom=0.2)
    assert_uniform(1 / m[:, 0, 0], 0.8, 1.2)
    np.testing.assert_array_equal(m[:, 0, 0], m[:, 1, 1])
    m = drawn(translation=(0.2, 0.4))
    assert_uniform(-m[:, 1, 2], -0.2 * HEIGHT, 0.2 * HEIGHT)
    assert_uniform(-m[:, 0, 2], -0.4 * WIDTH, 0.4 * WIDTH)
    assert abs(np.corrcoef(m[:, 0, 2], m[:, 1, 2])[0, 1]) < 0.08
    m = drawn(horizontal_flip=True, vertical_flip=True)
    corners = [np.mean((m[:, 0, 0] == x) & (m[:, 1, 1] == y)) for x in (-1, 1) for y in (-1, 1)]
    assert np.all(np.abs(np.array(corners) - 0.25) < 0.035)


def test_only_flips():
    assert AffineRanges().only_flips
    assert AffineRanges(horizontal_flip=True, zoom=(1, 1)).only_flips
    assert not AffineRanges(vertical_flip=True, zoom=0.1).only_flips


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("rotation", 400, r"within \[-360, 360\]"),
        ("rotation", -20, r"r >= 0, short for \(-r, r\)"),
        ("rotation", (20, -20), r"a pair \(low, high\)"),
        ("rotation", float("nan"), "a number of degrees"),
        ("rotation", (0, float("inf")), "a number of degrees"),
        ("rotation", "20", "a number of degrees"),
        ("rotation", True, "a number of degrees"),
        ("rotation", (1, 2, 3), "a pair"),
        ("rotation", None, "a number of degrees"),
        ("shear", 90, r"within \(-90, 90\)"),
        ("translation", 1.5, r"within \[-1, 1\]"),
        ("translation", -0.1, r"a pair \(vertical, horizontal\)"),
        ("translation", (-0.1, 0.1), r"a pair \(vertical, horizontal\)"),
        ("translation", (0.1, 0.1, 0.1), "a pair"),
        ("zoom", 1, r"r in \[0, 1\)"),
        ("zoom", 1.5, r"r in \[0, 1\)"),
        ("zoom", -0.2, r"r in \[0, 1\)"),
        ("zoom", (0, 1), "factors above 0"),
        ("zoom", (-0.2, 0.2), "factors above 0"),
    ],
)
def test_bad_ranges_say_what_is_allowed(argument, value, allowed):
    with pytest.raises(ValueError, match=f"`{argument}` must be .*{allowed}.*Received: {argument}"):
        AffineRanges(**{argument: value})
