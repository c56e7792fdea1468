"""What the numbers change with, and what they don't."""

import functools

import keras
import numpy as np
import pytest
from distillation_nets import conv_net, net

from keras_optkit.compression.distillation import fingerprint


def wired(names=("a", "b"), swap=False, activation="relu"):
    """Two layers of one shape, and which is taken from which."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6,), name=f"input_of_{names[0]}")
    a = keras.layers.Dense(3, activation=activation, name=names[0])(x)
    b = keras.layers.Dense(3, name=names[1])(x)
    # Both are outputs too, so that their weights stand in one order.
    return keras.Model(x, [a, b, keras.layers.Subtract()([b, a] if swap else [a, b])])


def test_a_model_that_was_saved_copied_compiled_or_frozen_is_the_same(tmp_path):
    model = net(width=16)
    expected = fingerprint.of_model(model)
    model.save(tmp_path / "model.keras")
    assert fingerprint.of_model(keras.saving.load_model(tmp_path / "model.keras")) == expected
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    model.compile("adam", "mse")
    copy.trainable = False
    assert fingerprint.of_model(model) == fingerprint.of_model(copy) == expected


def test_names_do_not_matter():
    assert fingerprint.of_model(wired()) == fingerprint.of_model(wired(("c", "d")))


@pytest.mark.parametrize("changed", [{"swap": True}, {"activation": "tanh"}], ids=str)
def test_what_the_weights_do_not_show(changed):
    model, other = wired(**changed), wired()
    for weight, same in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, same)
    assert fingerprint.of_model(model) != fingerprint.of_model(other)


def test_a_weight():
    model = conv_net()
    before = fingerprint.of_model(model)
    model.layers[-1].bias.assign(np.full(5, 1e-7))
    assert fingerprint.of_model(model) != before


def test_a_model_that_does_not_tell_its_settings():
    class Own(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.built = True

        def call(self, inputs):
            return self.inner(inputs)

        def get_config(self):
            raise NotImplementedError

    assert fingerprint.of_model(Own(net())) == fingerprint.of_model(Own(net()))
    assert fingerprint.of_model(Own(net())) != fingerprint.of_model(Own(net(seed=1)))


def scaled(factor, offset=0):
    return lambda x: x * factor + offset


def test_functions():
    one = fingerprint.of_function(scaled(2))
    assert one == fingerprint.of_function(scaled(2))
    others = [
        None,
        scaled(3),
        scaled(2, 1),
        scaled(np.ones(2)),
        lambda x: x * 2,
        lambda x: x / 2,
        lambda x: x * 3,
        lambda x, y=3: x * 2,
        lambda x: x in {1, 2},
        lambda x: x in {1, 3},
        functools.partial(scaled, 2),
        functools.partial(scaled, 3),
        keras.layers.Rescaling(2),
        keras.layers.Rescaling(3),
    ]
    found = [one, *map(fingerprint.of_function, others)]
    assert len(set(found)) == len(found)


def test_a_function_that_holds_itself():
    def halve(x, times):
        return x if times == 0 else halve(x / 2, times - 1)

    assert len(fingerprint.of_function(halve)) == 32


def test_samples_of_a_batch():
    x = np.arange(12.0).reshape(3, 4)
    sums = fingerprint.checksums({"a": x, "b": x + 1})
    changed = fingerprint.checksums({"a": x, "b": x + 1 + (x == 5)})
    assert (sums == changed).tolist() == [True, False, True]
