"""Each loss of features against its formula in NumPy, float64."""

import keras
import numpy as np
import pytest

from keras_optkit.compression.distillation import feature


@pytest.fixture
def features():
    rng = np.random.default_rng(1)
    return rng.normal(size=(6, 3, 4, 5)), rng.normal(size=(6, 3, 4, 5))


def close(value, expected):
    value = keras.ops.convert_to_numpy(value)
    np.testing.assert_allclose(value, expected, rtol=2e-5, atol=1e-6)


def tensors(*arrays):
    return [keras.ops.convert_to_tensor(a, "float32") for a in arrays]


def huber(x):
    return np.where(np.abs(x) <= 1, x**2 / 2, np.abs(x) - 0.5)


def test_hint(features):
    t, s = features
    close(feature.hint(*tensors(t, s)), ((t - s) ** 2).mean((1, 2, 3)))


def test_attention(features):
    t, s = features
    s = s[..., :2]

    def attention_map(x):
        flat = (x**2).sum(-1).reshape(len(x), -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    expected = ((attention_map(t) - attention_map(s)) ** 2).sum(-1)
    close(feature.attention(*tensors(t, s)), expected)


def test_relational_distance(features):
    t, s = (x.reshape(6, -1) for x in features)
    s = s[:, :7] * 3

    def psi(x):
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[~np.eye(len(x), dtype=bool)].mean()

    expected = huber(psi(t) - psi(s)).sum(1) / 5
    close(feature.relational_distance(*tensors(t, s)), expected)


def test_relational_angle(features):
    t, s = (x.reshape(6, -1) for x in features)
    s = s[:, :7]

    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    expected = [
        np.mean(
            [
                huber(cosine(t, i, j, k) - cosine(s, i, j, k))
                for i in range(6)
                for k in range(6)
                if len({i, j, k}) == 3
            ]
        )
        for j in range(6)
    ]
    close(feature.relational_angle(*tensors(t, s)), expected)


@pytest.mark.parametrize(
    "loss", [feature.attention, feature.relational_distance, feature.relational_angle]
)
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_equal_samples_and_zeros_have_finite_gradients(loss, batch):
    """A root or a norm of 0 has none."""
    x = keras.ops.ones((batch, 2, 2, 3))
    layer = keras.layers.Dense(3, kernel_initializer="zeros")
    layer.build((None, 2, 2, 3))
    teacher = np.random.default_rng(0).normal(size=(batch, 2, 2, 3)).astype("float32")

    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def call(self, inputs):
            return self.layer(inputs)

    model = Model()
    model.compile("sgd", loss=lambda y, p: loss(y, p))
    model.fit(x, teacher, batch_size=batch, verbose=0)
    assert all(np.isfinite(w).all() for w in model.get_weights())
