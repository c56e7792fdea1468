import keras
import keras_tuner
import numpy as np
import pytest

from keras_optkit import layers
from keras_optkit.core.monitor import compiled_metrics
from keras_optkit.tuning import HyperConvNet, HyperMLP, HyperResNet, OptkitHyperModel


def build(hypermodel, **values):
    hp = keras_tuner.HyperParameters()
    hp.values = values
    return hypermodel.build(hp), hp


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (HyperConvNet, ["filters", "stages", "dropout", "learning_rate"]),
        (
            HyperResNet,
            ["filters", "stages", "blocks", "stochastic_depth", "dropout", "learning_rate"],
        ),
    ],
)
def test_networks_for_images(make, names):
    model, hp = build(make((32, 24, 3), 10), filters=16, stages=3, dropout=0.25)
    assert [p.name for p in hp.space] == names
    # 24 pixels, three halvings: 24, 12, 6.
    assert hp.space[1].max_value == 3
    assert model.output_shape == (None, 10)
    last = [layer for layer in model.layers if len(layer.output.shape) == 4][-1]
    assert last.output.shape == (None, 8, 6, 16 * 2**2)
    assert model.get_layer("dropout").rate == 0.25
    x = np.random.default_rng(0).uniform(0, 255, (4, 32, 24, 3)).astype("float32")
    assert np.isfinite(keras.ops.convert_to_numpy(model(x, training=True))).all()
    assert "accuracy" in compiled_metrics(model)


def test_small_images_have_no_stages_to_search():
    _, hp = build(HyperConvNet((8, 8, 1), 10))
    assert [p.name for p in hp.space] == ["filters", "dropout", "learning_rate"]


def test_it_is_built_of_the_blocks_of_this_package():
    conv, _ = build(HyperConvNet((8, 8, 1), 10))
    res, _ = build(HyperResNet((8, 8, 1), 10), blocks=2, stochastic_depth=0.1)
    mlp, _ = build(HyperMLP((5,), 3), layers=3, units=32)
    assert sum(isinstance(layer, layers.ConvBNAct) for layer in conv.layers) == 4
    blocks = [layer for layer in res.layers if isinstance(layer, layers.ResidualBNBlock)]
    assert len(blocks) == 4 and {block.stochastic_depth for block in blocks} == {0.1}
    assert [la.units for la in mlp.layers if isinstance(la, layers.DenseBNAct)] == [32] * 3


def test_a_table_of_numbers_and_one_of_classes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) * [1, 1000, 1e-3] + [0, 5000, 0]
    y = 2 * x[:, 0] + x[:, 1] / 1000
    model, _ = build(HyperMLP(3), learning_rate=0.01)
    history = model.fit(x, y, epochs=20, batch_size=100, verbose=0).history
    assert history["mae"][-1] < 0.5 * history["mae"][0]
    model, _ = build(HyperMLP((3,), 2))
    assert model.output_shape == (None, 2) and model.loss.from_logits


@pytest.mark.backends("tensorflow")
def test_keras_tuner_s_own_take_them(tmp_path, digits):
    hypermodel = HyperMLP((64,), 10)
    tuner = keras_tuner.GridSearch(
        hypermodel, "val_accuracy", max_trials=1, directory=str(tmp_path), seed=0
    )
    x, y = digits[0].reshape(-1, 64)[:300], digits[1][:300]
    tuner.search(x, y, validation_split=0.3, epochs=1, batch_size=64, verbose=0)
    assert [t.status for t in tuner.oracle.trials.values()] == ["COMPLETED"]


def test_the_package_s_space_around_one():
    hypermodel = OptkitHyperModel(HyperConvNet((8, 8, 1), 10), ["schedule", "label_smoothing"])
    _, hp = build(hypermodel)
    names = ["filters", "dropout", "learning_rate", "schedule", "label_smoothing"]
    assert [p.name for p in hp.space] == names


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HyperConvNet((7, 32, 3), 10), "at least 8 pixels.*input_shape=\\(7, 32, 3\\)"),
        (lambda: HyperResNet((32, 32), 10), "input_shape=\\(32, 32\\)"),
        (lambda: HyperConvNet((32, 32, 3), 1), "integer >= 2. Received: num_classes=1"),
        (lambda: HyperMLP((3, 4), 2), "the number of columns"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_half_precision_ends_in_single(monkeypatch):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model, _ = build(HyperMLP((3,), 2))
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.output.dtype == "float32"
