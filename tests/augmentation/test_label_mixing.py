import keras
import numpy as np
import pytest
from scipy import stats

from keras_optkit.augmentation.label_mixing import (
    beta_quantiles,
    check_labels,
    cut_boxes,
    look_up,
    mix,
    soft_labels,
)


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.9, 1.0, 2.0, 8.0])
def test_ratios_have_the_distribution_of_scipy(alpha):
    draws = np.random.default_rng(0).random(5000).astype("float32")
    ratios = numpy(look_up(beta_quantiles(alpha), draws))
    expected = stats.beta.ppf(draws.astype("float64"), alpha, alpha)
    # A steep quantile is a straight line within one 4096th of the probability.
    inner = (draws > 1 / 4096) & (draws < 4095 / 4096)
    np.testing.assert_allclose(ratios[inner], expected[inner], atol=2e-3 if alpha > 4 else 4e-4)
    assert ratios.min() >= 0 and ratios.max() <= 1
    assert stats.kstest(ratios, stats.beta(alpha, alpha).cdf).statistic < 0.05 or alpha < 0.2


def test_the_ratio_is_the_true_share_of_pixels():
    rng = np.random.default_rng(0)
    ratio, draws = rng.random(500).astype("float32"), rng.random((500, 2)).astype("float32")
    boxes, share = map(numpy, cut_boxes(ratio, draws, 5, 9))
    for box, true, asked in zip(boxes, share, ratio, strict=True):
        mask = np.zeros((5, 9))
        mask[box[0] : box[2], box[1] : box[3]] = 1
        np.testing.assert_allclose(1 - mask.mean(), true, atol=1e-6)
        assert true >= asked - 1e-6  # the edge cuts off, and sides are rounded down
    # Far from the edge, and with large images, it is what was asked for.
    middle = np.full((500, 2), 0.5, "float32")
    _, share = cut_boxes(ratio, middle, 999, 777)
    np.testing.assert_allclose(numpy(share), ratio, atol=6e-3)


def test_mix_equals_float64():
    rng = np.random.default_rng(0)
    values, ratio = rng.random((6, 5, 9, 3)), rng.random(6)
    partner = rng.permutation(6).astype("int32")
    expected = [r * values[i] + (1 - r) * values[partner[i]] for i, r in enumerate(ratio)]
    mixed = mix(values.astype("float32"), partner, ratio.astype("float32"))
    np.testing.assert_allclose(numpy(mixed), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_class_ids_become_rows(dtype, shape):
    labels = np.array([0, 2, 1, 2]).astype(dtype).reshape(shape)
    np.testing.assert_array_equal(numpy(soft_labels(labels, 3)), np.eye(3)[[0, 2, 1, 2]])


def test_rows_stay_rows():
    soft = np.random.default_rng(0).random((4, 3))
    np.testing.assert_allclose(numpy(soft_labels(soft, 3)), soft, rtol=1e-6)
    np.testing.assert_allclose(numpy(soft_labels(soft, None)), soft, rtol=1e-6)
    one = np.array([[0.0], [1.0]])
    np.testing.assert_array_equal(numpy(soft_labels(one, 1)), one)


def test_what_cannot_be_raised_is_no_number():
    assert np.isnan(numpy(soft_labels(np.array([0, 3, -1]), 3))[1:]).all()


@pytest.mark.parametrize(
    ("labels", "num_classes", "message"),
    [
        (np.zeros(4), 3, "ids of classes have no average. Cast them to int32.*float64"),
        (np.zeros((4, 1)), 3, r"Cast them to int32 and pass `num_classes`.*Received.*\(4, 1\)"),
        (np.zeros((4, 1)), None, "pass `num_classes=1`"),
        (np.zeros(4, "int32"), None, "need `num_classes`"),
        (np.zeros((4, 5)), 3, r"must have `num_classes` columns.*\(4, 5\)"),
        (np.zeros((3, 3)), 3, r"as many labels as images, which are 4.*\(3, 3\)"),
        (np.zeros((4, 3, 2)), 3, r"Received: labels of shape \(4, 3, 2\)"),
    ],
)
def test_bad_labels_say_what_to_do(labels, num_classes, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, num_classes, 4)
