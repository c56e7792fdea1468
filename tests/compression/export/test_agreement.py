"""The error measure that decides whether a file is its model."""

import math

import numpy as np
import pytest

from keras_optkit.compression.export.agreement import TOLERANCES, relative_error


def test_is_the_relative_root_mean_square():
    rng = np.random.default_rng(0)
    want, noise = rng.normal(5.0, 2.0, (50, 3)), rng.normal(size=(50, 3))
    norm = np.linalg.norm
    got = relative_error([want], [want + noise], centred=False)
    assert got == pytest.approx(norm(noise) / norm(want))
    got = relative_error([want], [want + noise], centred=True)
    assert got == pytest.approx(norm(noise) / norm(want - want.mean()))


def test_an_offset_hides_no_error_on_real_data():
    want = 1000 + np.random.default_rng(0).normal(size=(100, 1))
    assert relative_error([want], [np.full_like(want, 1000.0)], centred=True) > 0.9
    assert relative_error([want], [np.full_like(want, 1000.0)], centred=False) < 0.01


def test_rounding_of_float32_is_no_error():
    want = 1e4 + np.random.default_rng(0).normal(size=(100, 1)).astype("float32")
    got = np.nextafter(want.astype("float32"), np.float32(np.inf))
    assert np.all(got != want)
    assert relative_error([want], [got], centred=True) == 0.0


def test_worst_output_counts():
    one, two = np.ones((4, 2)), np.arange(8.0).reshape(4, 2)
    assert relative_error([one, two], [one, -two], centred=False) == pytest.approx(2.0)


@pytest.mark.parametrize("centred", [True, False])
def test_constant_outputs(centred):
    ones, zeros = np.ones((4, 2)), np.zeros((4, 2))
    assert relative_error([ones], [ones * 1.001], centred) == pytest.approx(0.001)
    assert relative_error([zeros], [zeros], centred) == 0.0
    assert relative_error([zeros], [ones], centred) == math.inf


def test_nan_and_other_shapes_never_agree():
    ones = np.ones((4, 2))
    assert math.isnan(relative_error([ones], [ones * np.nan], centred=False))
    assert math.isnan(relative_error([ones * np.nan], [ones], centred=True))
    assert math.isnan(relative_error([ones], [ones[:, :1]], centred=True))
    assert math.isnan(relative_error([ones, ones], [ones, ones * np.nan], centred=False))


def test_the_share_of_turned_answers_that_a_tolerance_allows():
    # The docstring's rule: sqrt(2 r / 0.9) for a share r of a ten-class classifier's answers.
    want = np.eye(10)[np.arange(1000) % 10]
    for share, tolerance in ((1 / 200, TOLERANCES["dynamic"]), (1 / 25, TOLERANCES["int8"])):
        got = want.copy()
        turned = np.arange(round(share * 1000))
        got[turned] = np.roll(got[turned], 1, axis=1)
        assert relative_error([want], [got], centred=True) == pytest.approx(tolerance, rel=0.06)
