"""One small trained model, that the tests of the bridge share and none of them changes."""

import keras
import numpy as np
import pytest
from keras import layers


@pytest.fixture(scope="session")
def images():
    """256 of scikit-learn's digits, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[:256, ..., None] / 16).astype("float32"), data.target[:256].astype("int32")


@pytest.fixture(scope="session")
def trained(images):
    """Convolution, norm, an add, a nested model: a classifier, compiled and trained."""
    keras.utils.set_random_seed(0)
    x = keras.Input((8, 8, 1), name="image")
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(x)
    y = layers.BatchNormalization(name="stem_norm")(y)
    y = layers.ReLU(6.0, name="stem_relu")(y)
    z = layers.Conv2D(8, 3, padding="same", use_bias=False, name="branch")(y)
    z = layers.BatchNormalization(name="branch_norm")(z)
    y = layers.ReLU(name="joined")(y + z)
    head = [keras.Input((8, 8, 8)), layers.MaxPooling2D(name="pool"), layers.Flatten(name="flat")]
    head = keras.Sequential([*head, layers.Dense(10, name="classes")], name="head")
    model = keras.Model(x, head(y), name="small_net")
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*images, epochs=4, verbose=0)
    return model


@pytest.fixture
def unchanged(trained):
    """Checks after a test that the shared model is what it was."""
    before = trained.get_weights()
    layers_before = [layer.name for layer in trained.layers]
    yield trained
    for old, new in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [layer.name for layer in trained.layers] == layers_before
