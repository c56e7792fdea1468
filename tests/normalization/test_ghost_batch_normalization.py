"""GhostBatchNormalization against BatchNormalization on each virtual batch, and float64."""

import keras
import numpy as np
import pytest

from keras_optkit.normalization import GhostBatchNormalization, recalibrate_batch_norm

L = keras.layers
N = keras.ops.convert_to_numpy

# 70 samples in virtual batches of 32: three, whose sizes differ by one at most.
PARTS = [slice(0, 24), slice(24, 47), slice(47, 70)]


def draw(shape, mean=0.0):
    drift = np.linspace(0, 5, shape[0]).reshape((-1,) + (1,) * (len(shape) - 1))
    return (np.random.default_rng(0).normal(mean, 2.0, size=shape) + drift).astype("float32")


def normalized(x, gamma=1.0, beta=0.0, epsilon=1e-3):
    """BatchNorm of one virtual batch in float64, channels last, with its mean and variance."""
    x = x.astype("float64")
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta, mean, variance


@pytest.mark.parametrize("shape", [(70, 3), (70, 4, 5, 3)])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_each_virtual_batch_by_its_own_statistics(shape, mean):
    x = draw(shape, mean)
    layer = GhostBatchNormalization(32, momentum=0.75)
    layer.build(x.shape)
    gamma, beta = np.array([1.0, 2.0, 0.5]), np.array([0.0, 1.0, -1.0])
    layer.set_weights([gamma, beta, np.full(3, 7.0), np.full(3, 3.0)])
    outputs = N(layer(x, training=True))
    parts = [normalized(x[part], gamma, beta) for part in PARTS]
    expected = np.concatenate([part[0] for part in parts])
    np.testing.assert_allclose(outputs, expected, atol=1e-3 if mean else 1e-5)
    sizes = np.array([24, 23, 23])[:, None] / 70
    for moving, start, index in ((layer.moving_mean, 7.0, 1), (layer.moving_variance, 3.0, 2)):
        average = (sizes * [part[index] for part in parts]).sum(0)
        np.testing.assert_allclose(N(moving), 0.75 * start + 0.25 * average, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 5, 31, 32])
def test_a_batch_no_larger_than_a_virtual_one_is_batch_norm(size):
    x = draw((size, 3))
    ghost, plain = GhostBatchNormalization(32), L.BatchNormalization()
    ours, theirs = ghost(x, training=True), plain(x, training=True)
    np.testing.assert_allclose(N(ours), N(theirs), atol=1e-4)
    for own, other in zip(ghost.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(own, other, atol=1e-5)


def test_gradients_are_those_of_separate_batches():
    """Through a model that is trained by one step of plain gradient descent."""
    x, y = draw((12, 3)), np.arange(12.0)[:, None]
    kernels = []
    for parts in ([slice(0, 12)], [slice(0, 4), slice(4, 8), slice(8, 12)]):
        change = 0
        for part in parts:
            keras.utils.set_random_seed(1)
            norm = GhostBatchNormalization(4) if len(parts) == 1 else L.BatchNormalization()
            model = keras.Sequential([keras.Input((3,)), L.Dense(3), norm, L.Dense(1)])
            model.compile(keras.optimizers.SGD(1.0), "mse")
            before = [N(v) for v in model.trainable_variables]
            model.train_on_batch(x[part], y[part])
            after = [N(v) for v in model.trainable_variables]
            change = change + np.concatenate(
                [(a - b).ravel() for a, b in zip(after, before, strict=True)]
            )
        kernels.append(change / len(parts))
    np.testing.assert_allclose(kernels[0], kernels[1], rtol=1e-3, atol=1e-4)


def test_in_fit_with_a_ragged_batch():
    x = draw((70, 3))
    model = keras.Sequential([keras.Input((3,)), GhostBatchNormalization(16, momentum=0.5)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(x, np.zeros((70, 3)), batch_size=48, shuffle=False, verbose=0)
    mean = np.zeros(3)
    for batch in (x[:48], x[48:]):
        mean = mean / 2 + batch.astype("float64").mean(0) / 2
    np.testing.assert_allclose(N(model.layers[0].moving_mean), mean, rtol=1e-5)
    # 48 are three of 16, 22 are two of 11.
    variance = np.ones(3)
    for parts in (np.split(x[:48], 3), np.split(x[48:], 2)):
        variance = variance / 2 + np.mean([p.astype("float64").var(0) for p in parts], 0) / 2
    np.testing.assert_allclose(N(model.layers[0].moving_variance), variance, rtol=1e-5)


def test_inference_and_frozen():
    x = draw((40, 3))
    layer = GhostBatchNormalization(8)
    layer.build(x.shape)
    before = layer.get_weights()
    np.testing.assert_allclose(N(layer(x)), x / np.sqrt(1.001), rtol=1e-5)
    layer.trainable = False
    np.testing.assert_allclose(N(layer(x, training=True)), x / np.sqrt(1.001), rtol=1e-5)
    for value, weight in zip(before, layer.weights, strict=True):
        np.testing.assert_array_equal(N(weight), value)


def test_masked_steps_do_not_count():
    x = draw((8, 6, 3))
    mask = np.arange(6) < np.arange(1, 9)[:, None] % 6 + 1
    layer = GhostBatchNormalization(4)
    outputs = N(layer(x, training=True, mask=mask))
    for part in (slice(0, 4), slice(4, 8)):
        kept = mask[part]
        expected, _, _ = normalized(x[part][kept])
        np.testing.assert_allclose(outputs[part][kept], expected, atol=1e-4)


def test_channels_first_and_mixed_precision():
    x = draw((10, 3, 4, 5))
    first = GhostBatchNormalization(4, axis=1, scale=False)
    last = GhostBatchNormalization(4, scale=False)
    ours = N(first(x, training=True)).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(ours, N(last(x.transpose(0, 2, 3, 1), training=True)), atol=1e-5)
    half = GhostBatchNormalization(4, axis=1, dtype="mixed_float16")
    outputs = half(x.astype("float16") + 100, training=True)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float16"
    np.testing.assert_allclose(N(outputs), N(first(x, training=True)), atol=0.1)


def test_survives_saving_and_recalibrating(tmp_path):
    x = draw((40, 3))
    layer = GhostBatchNormalization(8, momentum=0.9, center=False, name="ghost")
    model = keras.Sequential([keras.Input((3,)), layer])
    recalibrate_batch_norm(model, x)
    np.testing.assert_allclose(N(layer.moving_variance), x.astype("float64").var(0), rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.layers[0].get_config() == layer.get_config()
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"virtual_batch_size": 0}, "Received: virtual_batch_size=0"),
        ({"virtual_batch_size": 2.5}, "Received: virtual_batch_size=2.5"),
        ({"virtual_batch_size": True}, "Received: virtual_batch_size=True"),
        ({"virtual_batch_size": 4, "renorm": True}, "Received: renorm=True"),
        ({"virtual_batch_size": 4, "synchronized": True}, "Received: synchronized=True"),
        ({"virtual_batch_size": 4, "momentums": 1}, "momentums"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GhostBatchNormalization(**kwargs)
