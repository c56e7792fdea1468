import keras
import numpy as np
import pytest

import keras_optkit.tfmot as bridge


@pytest.fixture(scope="module")
def tf_keras():
    return pytest.importorskip("tf_keras")


def check(model, x):
    new = bridge.from_tf_keras(model)
    expected = [y.numpy() for y in keras.tree.flatten(model(x, training=False))]
    found = [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(new(x, training=False))]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return new


def test_calls_of_tensorflow(tf_keras):
    import tensorflow as tf

    a, b = tf_keras.Input((5, 6)), tf_keras.Input((5, 6))
    results = [
        a + b,
        a * 2.0 - b,
        -a / 3.0,
        tf.nn.relu6(a),
        tf.reduce_mean(a, axis=[1, 2], keepdims=True),
        a[:, 1:, 0],
        tf.concat([a, b], axis=1),
        tf.reshape(a, (-1, 30)),
        tf.matmul(a, tf.transpose(b, (0, 2, 1))),
        tf.expand_dims(tf.square(a), 1),
        tf.maximum(a, 0.1),
    ]
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(2, 5, 6)).astype("float32") for _ in "ab"]
    check(tf_keras.Model([a, b], results), x)


def test_a_nested_model_with_a_shared_layer(tf_keras):
    shared = tf_keras.layers.Dense(4, activation="swish", name="shared")
    inner = tf_keras.Sequential(
        [tf_keras.layers.Dense(3, input_shape=(4,)), tf_keras.layers.BatchNormalization()],
        name="inner",
    )
    x = tf_keras.Input((4,), name="x")
    model = tf_keras.Model(x, {"one": inner(shared(shared(x))), "two": shared(x)}, name="net")
    model.get_layer("shared").trainable = False
    new = check(model, np.ones((2, 4), "float32"))
    assert isinstance(new.get_layer("inner"), keras.Sequential)
    assert not new.get_layer("shared").trainable
    assert new.count_params() == model.count_params()


def test_a_file_of_tf_keras(tf_keras, tmp_path):
    model = tf_keras.Sequential(
        [
            tf_keras.layers.Conv2D(4, 3, input_shape=(8, 8, 1), activation="relu"),
            tf_keras.layers.LeakyReLU(alpha=0.1),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(2),
        ]
    )
    with pytest.warns(UserWarning, match="HDF5"):
        model.save(tmp_path / "old.h5")
    loaded = tf_keras.models.load_model(tmp_path / "old.h5")
    check(loaded, np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32"))


def test_what_has_no_counterpart_is_listed(tf_keras):
    import tensorflow as tf

    x = tf_keras.Input((4,))
    y = tf_keras.layers.Dense(2, activation=tf_keras.activations.hard_sigmoid, name="hard")(x)
    y = tf_keras.layers.ThresholdedReLU(name="gone")(tf.sin(y))
    with pytest.raises(ValueError) as caught:
        bridge.from_tf_keras(tf_keras.Model(x, y))
    message = str(caught.value)
    assert "The model holds 3 things without a counterpart in Keras 3" in message
    assert "hard (Dense): the activation 'hard_sigmoid' has none" in message
    assert "gone (ThresholdedReLU): keras has no layers.ThresholdedReLU" in message
    assert "tf.math.sin" in message


def test_models_that_are_no_graphs(tf_keras):
    with pytest.raises(ValueError, match="has no graph of layers"):
        bridge.from_tf_keras(tf_keras.Sequential([tf_keras.layers.Dense(2)]))
    with pytest.raises(ValueError, match=r"must be a `tf_keras\.Model`"):
        bridge.from_tf_keras(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
