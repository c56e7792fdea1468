"""Each loss of outputs against its formula in NumPy, float64."""

import keras
import numpy as np
import pytest

from keras_optkit import distillation
from keras_optkit.compression.distillation import response
from keras_optkit.compression.distillation.response_losses import one_hot

T = 3.0


@pytest.fixture
def logits():
    rng = np.random.default_rng(1)
    return rng.normal(0, 4, (7, 5)), rng.normal(0, 4, (7, 5))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def close(value, expected):
    value = keras.ops.convert_to_numpy(value)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)


def tensors(*arrays):
    return [keras.ops.convert_to_tensor(a, "float32") for a in arrays]


def test_soft_targets(logits):
    p, q = (softmax(z / T) for z in logits)
    close(response.soft_targets(*tensors(*logits), T), T**2 * (p * np.log(p / q)).sum(-1))


def test_soft_targets_have_the_gradient_of_the_cross_entropy(logits):
    """T (q - p) for T squared times the cross entropy, whatever the teacher's own entropy is."""
    z, v = logits
    expected = T * (softmax(v / T) - softmax(z / T))
    step = 1e-5
    numeric = np.zeros_like(v)
    for index in np.ndindex(*v.shape):
        for sign in (1, -1):
            moved = v.copy()
            moved[index] += sign * step
            p, q = softmax(z / T), softmax(moved / T)
            numeric[index] += sign * T**2 * (p * np.log(p / q)).sum() / (2 * step)
    np.testing.assert_allclose(numeric, expected, atol=1e-5)


def test_soft_targets_of_a_teacher_that_is_sure_stay_finite():
    value = response.soft_targets(*tensors([[1000.0, 0.0]], [[0.0, 1000.0]]), 1.0)
    close(value, [1000.0])


def test_jensen_shannon(logits):
    p, q = (softmax(z / T) for z in logits)
    m = (p + q) / 2
    expected = 0.5 * (p * np.log(p / m)).sum(-1) + 0.5 * (q * np.log(q / m)).sum(-1)
    close(response.jensen_shannon(*tensors(*logits), T), T**2 * expected)


def test_decoupled(logits):
    labels = np.array([0, 1, 2, 3, 4, 0, 1])
    expected = []
    for z, v, true in zip(*logits, labels, strict=True):
        p, q = softmax(z / T), softmax(v / T)
        pt, qt = p[true], q[true]
        target = pt * np.log(pt / qt) + (1 - pt) * np.log((1 - pt) / (1 - qt))
        p_hat, q_hat = (softmax(np.delete(a, true) / T) for a in (z, v))
        others = (p_hat * np.log(p_hat / q_hat)).sum()
        expected.append(T**2 * (0.7 * target + 8.0 * others))
    target = np.eye(5)[labels]
    close(response.decoupled(*tensors(*logits, target), T, 0.7, 8.0), expected)


def test_decoupled_with_the_teachers_own_weights_is_the_soft_target(logits):
    """Equation 6 of the paper: KL = TCKD + (1 - p_t) NCKD."""
    z, v = (a[:1] for a in logits)
    p = softmax(z / T)[0, 2]
    target = np.eye(5)[[2]]
    whole = response.soft_targets(*tensors(z, v), T)
    close(response.decoupled(*tensors(z, v, target), T, 1.0, 1 - p), np.array(whole))


def test_squared_error(logits):
    z, v = logits
    close(response.squared_error(*tensors(z, v)), ((z - v) ** 2).mean(-1))


def test_hard_labels(logits):
    z, v = logits
    expected = -np.log(softmax(v))[np.arange(7), z.argmax(-1)]
    close(response.hard_labels(*tensors(z, v)), expected)


@pytest.mark.parametrize("labels", ["ids", "column", "vectors"])
def test_labels_in_every_form(labels):
    ids = np.array([2, 0])
    given = {"ids": ids, "column": ids[:, None], "vectors": np.eye(3)[ids]}[labels]
    np.testing.assert_array_equal(one_hot(*tensors(given, np.zeros((2, 3)))), np.eye(3)[ids])


def test_labels_of_another_shape():
    with pytest.raises(ValueError, match=r"vectors of 3 numbers. Received: labels of shape \(2, 4"):
        one_hot(*tensors(np.zeros((2, 4)), np.zeros((2, 3))))


def test_weights_of_samples_count(logits):
    z, v = logits
    weight = np.arange(7.0)
    expected = (((z - v) ** 2).mean(-1) * weight).sum() / 7
    close(distillation.SquaredLogits()(z, v, weight), expected)


@pytest.mark.parametrize(
    "loss",
    [
        distillation.SoftTargets(2.0, weight=0.5, output="a", name="b"),
        distillation.JensenShannon(weight=3.0),
        distillation.DecoupledTargets(5.0, 2.0, 0.5),
        distillation.SquaredLogits(output=1),
        distillation.HardTargets(),
        distillation.FeatureHint("a", "b", weight=2.0),
        distillation.AttentionTransfer("a"),
        distillation.RelationalDistance("a", name="c"),
        distillation.RelationalAngle("a"),
    ],
    ids=lambda loss: loss.name,
)
def test_serialization(loss):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert type(again) is type(loss) and again.get_config() == loss.get_config()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), "hot", True])
def test_bad_temperature(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a number > 0. Received: temperat"):
        distillation.SoftTargets(temperature)


def test_bad_weight():
    with pytest.raises(ValueError, match="`weight` must be a number >= 0. Received: weight=-1"):
        distillation.HardTargets(weight=-1)
