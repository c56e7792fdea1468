import keras
import numpy as np
import pytest
from bridge_helpers import kernels
from keras import layers

import keras_optkit.tfmot as bridge
from keras_optkit import pruning

# TF-MOT, to numpy 2: `__array__` without `copy`.
pytestmark = pytest.mark.filterwarnings("ignore:__array__")


def zeros(model):
    return {name: round(float((kernel == 0).mean()), 3) for name, kernel in kernels(model).items()}


def test_the_result_is_sparse_and_learns(unchanged, images):
    schedule = pruning.PolynomialDecay(0.0, 0.75, begin_step=0, end_step=0.5, frequency=2)
    sparse = bridge.prune_low_magnitude(unchanged, images, schedule, epochs=3)
    # 9, 576 and 1280 weights by kernel; TF-MOT rounds what it keeps.
    assert zeros(sparse) == {"stem": 0.75, "branch": 0.75, "classes": 0.75}
    assert type(sparse) is type(unchanged) and sparse is not unchanged
    assert [layer.name for layer in sparse.layers] == [layer.name for layer in unchanged.layers]
    found = sparse.evaluate(*images, verbose=0, return_dict=True)
    assert found["accuracy"] > 0.5
    # It is compiled as the other one, and trains on.
    assert float(keras.ops.convert_to_numpy(sparse.optimizer.learning_rate)) == pytest.approx(0.01)
    sparse.fit(*images, verbose=0)


@pytest.mark.backends("tensorflow")
def test_it_is_tfmots_own_training(images):
    """The same net, data and schedule trained with TF-MOT by hand, in the order of the arrays."""
    import tf_keras

    from keras_optkit.compression.tfmot import modules

    sparsity = modules.tfmot().sparsity.keras
    x, y = images[0].reshape(256, 64), images[1]
    net = [keras.Input((64,)), layers.Dense(16, "relu", name="a"), layers.Dense(10, name="b")]
    model = keras.Sequential(net)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss)
    old = tf_keras.Sequential(
        [
            tf_keras.layers.Dense(16, "relu", input_shape=(64,)),
            tf_keras.layers.Dense(10),
        ]
    )
    old.set_weights(model.get_weights())
    # Step for step: ours counts from 0, TF-MOT from 1.
    schedule = sparsity.PolynomialDecay(0.2, 0.8, begin_step=4, end_step=12, frequency=2)
    wrapped = sparsity.prune_low_magnitude(old, schedule)
    wrapped.compile(
        tf_keras.optimizers.SGD(0.1, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    # One batch holds all, so that no order of batches matters.
    step = sparsity.UpdatePruningStep()
    wrapped.fit(x, y, batch_size=256, epochs=14, verbose=0, callbacks=[step])
    expected = sparsity.strip_pruning(wrapped).get_weights()
    ours = pruning.PolynomialDecay(0.2, 0.8, begin_step=3, end_step="11step", frequency=2)
    given = sparsity.PolynomialDecay(0.2, 0.8, begin_step=4, end_step=12, frequency=2)
    for one in (ours, given):
        found = bridge.prune_low_magnitude(model, (x, y), one, epochs=14, batch_size=256)
        for a, b in zip(found.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(a == 0, b == 0)
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_schedule_of_tfmots_that_would_do_nothing(unchanged, images):
    from keras_optkit.compression.tfmot import modules

    schedule = modules.tfmot().sparsity.keras.ConstantSparsity(0.5, 0)
    with pytest.raises(ValueError, match="step 100 for the first time, and the run has 8 steps"):
        bridge.prune_low_magnitude(unchanged, images, schedule)


@pytest.mark.backends("tensorflow")
def test_only_some_layers(unchanged, images):
    sparse = bridge.prune_low_magnitude(unchanged, images, layers=["classes"])
    assert zeros(sparse) == {"stem": 0.0, "branch": 0.0, "classes": 0.5}
    sparse = bridge.prune_low_magnitude(
        unchanged, images, layers=lambda layer: isinstance(layer, layers.Dense)
    )
    assert zeros(sparse) == {"stem": 0.0, "branch": 0.0, "classes": 0.5}


@pytest.mark.backends("tensorflow")
def test_two_of_four(unchanged, images):
    sparse = bridge.prune_low_magnitude(
        unchanged, images, layers=["classes"], sparsity_m_by_n=(2, 4)
    )
    groups = kernels(sparse)["classes"].T.reshape(-1, 4)
    assert ((groups == 0).sum(1) >= 2).all()


def two_in_two_out():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    shared = layers.Dense(8, activation="relu", name="shared")
    y = layers.Concatenate()([shared(a), shared(b)])
    one = layers.Dense(3, activation="softmax", name="one")(y)
    model = keras.Model({"a": a, "b": b}, {"one": one, "two": layers.Dense(1, name="two")(y)})
    model.compile(
        "sgd",
        {"one": "sparse_categorical_crossentropy", "two": keras.losses.mean_squared_error},
        metrics={"one": ["accuracy"], "two": [keras.metrics.MeanAbsoluteError(name="mae")]},
        loss_weights={"one": 1.0, "two": 0.5},
    )
    rng = np.random.default_rng(0)
    x = {name: rng.normal(size=(64, 4)).astype("float32") for name in "ba"}
    return model, x, {"one": (x["a"][:, 0] > 0).astype("int32"), "two": x["b"][:, :1]}


def test_several_inputs_and_outputs_and_a_dataset():
    import tensorflow as tf

    model, x, y = two_in_two_out()
    before = zeros(model)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    sparse = bridge.prune_low_magnitude(model, data, validation_data=(x, y))
    assert zeros(sparse) == {"shared": 0.5, "one": 0.5, "two": 0.5}
    assert zeros(model) == before
    assert "one_accuracy" in sparse.evaluate(x, y, verbose=0, return_dict=True)


@pytest.mark.backends("tensorflow")
def test_a_py_dataset():
    model, x, y = two_in_two_out()

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, i):
            rows = slice(16 * i, 16 * i + 16)
            return {k: v[rows] for k, v in x.items()}, {k: v[rows] for k, v in y.items()}

    sparse = bridge.prune_low_magnitude(model, Batches(), layers="one")
    assert zeros(sparse)["one"] == 0.5


BAD = {
    "number": (dict(data=3), r"`data` must be a tuple of arrays .* int 3"),
    "list": (dict(data=[1, 2]), r"`data` must be a tuple of arrays .*a list of 2"),
    "lengths": (
        dict(data=(np.zeros((4, 8, 8, 1)), np.zeros(3))),
        r"must have one length\. Received: lengths \[3, 4\]",
    ),
    "shape": (
        dict(data=(np.zeros((4, 7, 8, 1)), np.zeros(4))),
        r"shapes \[\(None, 8, 8, 1\)\] of the model's inputs.*Received: \[\(4, 7, 8, 1\)\]",
    ),
    "validation": (dict(validation_data=(np.zeros((4, 8)), np.zeros(4))), "`validation_data`"),
    "epochs": (dict(epochs=0), "`epochs` must be >= 1"),
    "batch_size": (dict(batch_size=2.5), "`batch_size` must be an integer"),
    "layer": (dict(layers=["clases"]), "'clases' is no layer .* Did you mean 'classes'"),
    "no layer": (dict(layers=lambda layer: False), "chooses no layer"),
    "norm": (dict(layers=["stem_norm"]), "'stem_norm' is no layer that TF-MOT can have pruned"),
    "schedule": (dict(pruning_schedule=0.5), "`pruning_schedule` must be a schedule of TF-MOT's"),
    "too late": (
        dict(pruning_schedule=pruning.ConstantSparsity(0.5, 8)),
        "step 9 for the first time, and the run has 8 steps",
    ),
    "pooling": (dict(block_pooling_type="MIN"), "must be 'AVG' or 'MAX'"),
    "callback": (dict(callbacks=[keras.callbacks.Callback()]), "must be callbacks of tf_keras"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments(case, unchanged, images):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=f"(?s){message}.*"):
        bridge.prune_low_magnitude(unchanged, **{"data": images, **arguments})


def test_settings_without_a_counterpart_are_listed(images):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])

    def own_loss(y, p):
        return keras.ops.mean(p)

    metrics = ["accuracy", keras.metrics.ConcordanceCorrelation()]
    model.compile(keras.optimizers.Muon(0.1), own_loss, metrics=metrics)
    with pytest.raises(ValueError) as caught:
        bridge.prune_low_magnitude(model, images)
    message = str(caught.value)
    assert "The model holds 3 things without a counterpart in tf_keras" in message
    assert "optimizer (Muon): tf_keras has no optimizers.Muon" in message
    assert "loss (own_loss): it is no function of Keras' own" in message
    assert "metric (ConcordanceCorrelation): tf_keras has no" in message


def test_an_own_training_step(images):
    class Own(keras.Model):
        def compute_loss(self, *args, **kwargs):
            return 2 * super().compute_loss(*args, **kwargs)

    x = keras.Input((8, 8, 1))
    model = Own(x, layers.Dense(10)(layers.Flatten()(x)))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"compute_loss \(Own\): tf_keras would train without it"):
        bridge.prune_low_magnitude(model, images)


def test_a_setting_of_the_optimizer_without_a_counterpart(images):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    model.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4), "mse")
    with pytest.raises(ValueError, match="knows no `gradient_accumulation_steps`"):
        bridge.prune_low_magnitude(model, images)


def test_models_that_cannot_be_trained(images):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    with pytest.raises(ValueError, match="is not compiled"):
        bridge.prune_low_magnitude(model, images)
    unbuilt = keras.Sequential([layers.Dense(3)])
    unbuilt.compile("sgd", "mse")
    with pytest.raises(ValueError, match="is not built"):
        bridge.prune_low_magnitude(unbuilt, images)
    empty = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    empty.compile("sgd", "mse")
    with pytest.raises(ValueError, match="knows no layer of this model that could be pruned"):
        bridge.prune_low_magnitude(empty, images)


def test_the_learning_rate_schedule_goes_along(images):
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    rate = keras.optimizers.schedules.CosineDecay(0.5, 100, warmup_steps=3)
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
    )
    from keras_optkit.compression.tfmot import modules
    from keras_optkit.compression.tfmot.compiling import compile_settings

    settings, problems = compile_settings(model, modules.tf_keras())
    config = settings["optimizer"].get_config()
    assert not problems
    assert config["weight_decay"] == 0.01 and config["clipnorm"] == 1
    assert config["learning_rate"]["config"]["warmup_steps"] == 3
    for step in (0, 2, 50):
        expected = float(keras.ops.convert_to_numpy(rate(step)))
        assert float(settings["optimizer"]._learning_rate(step)) == pytest.approx(expected)
    assert settings["loss"].reduction == "sum" and settings["loss"].get_config()["from_logits"]
