"""Weights that are split between four logical devices of JAX."""

import keras
import pytest

from keras_optkit.distribution import model_parallel
from keras_optkit.distribution.split_axis import split_axis

jax_only = pytest.mark.backends("jax")


@jax_only
@pytest.mark.parametrize(("name", "groups"), [("4 parts", 1), ("2 parts, 2 groups", 2)])
def test_equal_to_one_device_and_smaller(found_with_split_weights, name, groups):
    checks = found_with_split_weights
    # Sums that are split are rounded otherwise: 2.2e-6 in the outputs of this deeper model.
    assert checks.get(name, str(checks)) < 5e-6
    held, told, whole = checks[f"{name}: bytes"]
    assert held == told
    # All but the norm and two biases, 27 of 763 numbers, are split.
    assert held == 27 * 4 + (whole - 27 * 4) * groups // 4
    # What is really on each of the four devices, and SGD's counter and rate.
    memory = checks[f"{name}: memory"]
    assert list(memory) == ["cpu:0", "cpu:1", "cpu:2", "cpu:3"]
    assert all(each["weights"] == held for each in memory.values())
    assert all(0 < each["optimizer"] <= 16 for each in memory.values())
    assert checks[f"{name}: batch"] == groups


@jax_only
def test_describe(found_with_split_weights):
    text = found_with_split_weights["describe"]
    assert "weights in 2 parts\nWeights: 3,052 bytes, of which a device has 1,580" in text
    assert "/attention_output/kernel (4, 2, 8): split along axis 0" in text
    assert "/gamma (8,): whole" in text


@jax_only
def test_parts_that_do_not_divide():
    with pytest.raises(ValueError, match="number of devices, 1. Received: parts=2"):
        model_parallel(parts=2)
    with pytest.raises(ValueError, match="Received: min_size=-1"):
        model_parallel(min_size=-1)


@pytest.mark.backends("tensorflow", "torch")
def test_other_backends_say_so():
    backend = keras.backend.backend()
    with pytest.raises(ValueError, match=f"jax backend only.*Received: the {backend} backend"):
        model_parallel()


@pytest.mark.parametrize(
    ("name", "shape", "axis"),
    [
        ("dense/kernel", (6, 8), 1),
        ("dense/kernel", (8, 6), 0),
        ("dense/kernel", (6, 6), None),
        ("conv/kernel", (3, 3, 5, 8), 3),
        ("conv/kernel", (3, 3, 8, 5), 2),
        ("net/embedding/embeddings", (8, 8), 0),
        ("net/embedding/embeddings", (10, 8), 1),
        ("attention/query/kernel", (8, 4, 3), 1),
        ("attention/query/kernel", (8, 3, 4), None),
        ("attention/attention_output/kernel", (4, 3, 8), 0),
        ("norm/gamma", (8,), None),
        ("rnn/lstm_cell/recurrent_kernel", (5, 8), 1),
        ("conv/depthwise_kernel", (3, 3, 8, 1), None),
    ],
)
def test_axis(name, shape, axis):
    assert split_axis(name, shape, 4) == axis


@pytest.mark.parametrize(
    ("shape", "kernel", "axis"),
    [
        ((8,), ((6, 8), 1), 0),
        ((6,), ((8, 6), 0), None),
        ((4, 3), ((8, 4, 3), 1), 0),
        ((8,), ((4, 3, 8), 0), None),
        ((3,), ((3, 3, 3, 8), 3), None),
        ((8,), None, None),
    ],
)
def test_a_bias_goes_with_its_kernel(shape, kernel, axis):
    assert split_axis("layer/bias", shape, 4, kernel) == axis
