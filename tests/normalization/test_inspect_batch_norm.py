import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.layers import ConvBNAct
from keras_optkit.normalization import inspect_batch_norm, recalibrate_batch_norm

BN = layers.BatchNormalization


def sequential(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def found(model, **arguments):
    return {f.name: f.layers for f in inspect_batch_norm(model, **arguments).findings}


def clean():
    return sequential(
        (8,),
        layers.Dense(6, use_bias=False, name="dense"),
        BN(name="norm"),
        layers.ReLU(),
        layers.Dropout(0.5),
        layers.Dense(3, name="head"),
    )


def test_nothing_is_found_in_a_model_without_mistakes():
    model = clean()
    x = np.random.default_rng(0).normal(size=(500, 8)).astype("float32")
    recalibrate_batch_norm(model, x)
    report = inspect_batch_norm(model, x, batch_size=32, steps=1000)
    assert (report.norms, report.findings, report.notes) == (1, [], [])
    assert str(report) == "1 BatchNorm layers, 0 findings"


def test_a_bias_under_a_norm():
    x = keras.Input((6, 6, 2))
    y = BN(name="n1")(layers.Conv2D(4, 3, name="c1")(x))
    y = BN(name="n2")(layers.Conv2D(4, 1, use_bias=False, name="c2")(y))
    y = BN(name="n3")(layers.Conv2D(4, 1, activation="relu", name="c3")(y))
    y = BN(name="n4", center=False)(layers.Conv2D(4, 1, name="c4")(y))
    y = BN(name="n5", axis=1)(layers.Conv2D(4, 1, name="c5")(y))
    z = layers.Conv2D(4, 1, name="c6")(y)
    model = keras.Model(x, [BN(name="n6")(z), ops.relu(z)])
    assert found(model) == {"bias under a norm": {"c1": "under 'n1', 4 parameters"}}


def test_a_norm_behind_dropout():
    model = sequential(
        (8,),
        layers.Dropout(0.3, name="d1"),
        layers.Dense(4, use_bias=False),
        layers.ReLU(),
        BN(name="n1"),
        layers.Dense(4, use_bias=False),
        BN(name="n2"),
        layers.Dropout(0.0),
        BN(name="n3"),
        layers.GaussianDropout(0.1, name="d2"),
        BN(name="n4"),
    )
    assert found(model) == {
        "norm behind dropout": {
            "n1": "behind 'd1' (rate 0.3), with 2 layers in between",
            "n4": "behind 'd2' (rate 0.1), directly",
        }
    }


def test_the_momentum_for_the_number_of_steps(toy):
    model = sequential((4,), BN(name="slow"), BN(momentum=0.5, name="fast"), layers.Dense(3))
    name = "momentum too high for the steps"
    assert found(model) == {}
    # 0.99 ** 100 is 37 %.
    assert found(model, steps=100) == {name: {"slow": "0.99 ** 100 = 37% are the initial values"}}
    assert found(model, steps=1000) == {}
    assert list(found(model, steps=2)[name]) == ["slow", "fast"]
    # Without `steps`, what the optimizer has counted.
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*toy, batch_size=16, epochs=5, verbose=0)
    assert list(found(model)[name]) == ["slow"]


def test_statistics_that_training_never_updated(toy):
    norm = BN(name="norm", trainable=False)
    model = sequential((4,), layers.Dense(3, use_bias=False, name="dense"), norm)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*toy, batch_size=16, epochs=2, verbose=0)
    assert found(model) == {
        "statistics never updated": {"norm": "after 8 updates"},
        "frozen behind a layer that trains": {"norm": "behind 'dense'"},
    }


def test_small_batches():
    assert found(clean(), batch_size=8) == {"batch too small": {"norm": "8 samples in a batch"}}
    assert found(clean(), batch_size=16) == {}


def test_statistics_that_disagree_with_the_data():
    model = clean()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 8)).astype("float32")
    recalibrate_batch_norm(model, x)
    before = model.get_weights()
    assert found(model, data=x) == {}
    name = "statistics disagree with the data"
    (detail,) = found(model, data=3 * x)[name].values()
    assert detail.startswith("6 of 6 channels; the mean is off by")
    assert "the variance by up to a factor of 0.11" in detail
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # A pixel range that was forgotten is the usual reason.
    assert name in found(model, data=x + 2.0)
    report = inspect_batch_norm(model, x[:20])
    assert "those of 20 values" in report.notes[0]


def test_one_channel_in_thirty_is_no_finding():
    model = sequential((30,), BN(name="norm"))
    x = np.random.default_rng(0).normal(size=(500, 30)).astype("float32")
    recalibrate_batch_norm(model, x)
    x[:, 0] += 9
    assert found(model, data=x) == {}
    x[:, 1] += 9
    assert list(found(model, data=x)) == ["statistics disagree with the data"]


def test_a_fixed_mode():
    x = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), BN(name="inside")], name="inner")
    y = BN(name="norm")(inner(x, training=False), training=True)
    found_layers = found(keras.Model(x, y))["fixed mode"]
    assert "`training=False`, so it always uses its moving statistics" in found_layers["inner"]
    assert "`training=True`, so it always uses its batch" in found_layers["norm"]


def test_norms_in_blocks_and_in_subclassed_models():
    model = sequential((8, 8, 1), ConvBNAct(2, 3, name="block"))
    (path,) = found(model, steps=10)["momentum too high for the steps"]
    assert path.startswith("block/")

    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.norm = BN(name="norm")

        def call(self, x, training=None):
            return self.norm(x, training=training)

    model = Mine()
    model(np.zeros((2, 3), "float32"))
    report = inspect_batch_norm(model, 3 * np.ones((200, 3), "float32"), steps=10)
    assert [f.name for f in report.findings] == [
        "momentum too high for the steps",
        "statistics disagree with the data",
    ]
    assert report.notes[0].startswith("biases, dropout and calls were not looked at.")


def test_the_report_prints_and_converts():
    model = sequential((4,), layers.Dense(3, name="dense"), BN(name="norm"))
    report = inspect_batch_norm(model, steps=10)
    text = str(report)
    assert text.startswith(
        "1 BatchNorm layers, 2 findings\nbias under a norm (1): The norm subtracts"
    )
    assert "\n  dense: under 'norm', 3 parameters\n" in text
    assert max(map(len, text.splitlines())) <= 100
    assert json.loads(json.dumps(report.to_dict()))["findings"][0]["layers"] == {
        "dense": "under 'norm', 3 parameters"
    }


def test_bad_input():
    with pytest.raises(ValueError, match="'m' has no BatchNormalization layer. Received"):
        inspect_batch_norm(keras.Sequential([keras.Input((2,)), layers.Dense(2)], name="m"))
    with pytest.raises(ValueError, match="is not built.*Received"):
        inspect_batch_norm(keras.Sequential([BN()]))
    with pytest.raises(ValueError, match="`model` must be a `keras.Model`.*Received"):
        inspect_batch_norm(BN())
    with pytest.raises(ValueError, match="`batch_size` must be an integer >= 1. Received: .*=0"):
        inspect_batch_norm(clean(), batch_size=0)
    with pytest.raises(ValueError, match="`steps` must be an integer >= 0. Received: .*=-1"):
        inspect_batch_norm(clean(), steps=-1)
    with pytest.raises(ValueError, match="does not fit the model"):
        inspect_batch_norm(clean(), np.zeros((3, 5), "float32"))
