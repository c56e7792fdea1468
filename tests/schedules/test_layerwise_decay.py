import keras
import numpy as np
import pytest

from keras_optkit.callbacks import LearningRate, Pruning
from keras_optkit.pruning import ConstantSparsity
from keras_optkit.schedules import layer_heights, layerwise_decay

layers = keras.layers
OPTIMIZERS = {
    "SGD": lambda rate: keras.optimizers.SGD(rate, momentum=0.9),
    "Adam": lambda rate: keras.optimizers.Adam(rate, weight_decay=0.1),
    "Nadam": lambda rate: keras.optimizers.Nadam(rate),
    "Lion": lambda rate: keras.optimizers.Lion(rate),
}


def net(*middle):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="low"),
            layers.BatchNormalization(name="norm"),
            *middle,
            layers.Dense(5, activation="tanh", name="middle"),
            layers.Dense(3, name="high"),
        ]
    )


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(model, toy, **kwargs):
    kwargs = {"batch_size": 16, "epochs": 2, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(*toy, **kwargs)


def heights(model):
    return {layer.name: height for layer, height in layer_heights(model).items()}


def test_a_norm_goes_with_the_layer_before_it():
    assert heights(net()) == {"low": 2, "norm": 2, "middle": 1, "high": 0}


def test_the_longest_way_to_an_output_counts():
    x = keras.Input((4,))
    stem = layers.Dense(4, name="stem")(x)
    long = layers.Dense(4, name="long_2")(layers.Dense(4, name="long_1")(stem))
    short = layers.Dense(4, name="short")(stem)
    side = layers.Dense(1, name="side")(stem)
    model = keras.Model(x, [layers.Dense(2, name="head")(long + short), side])
    assert heights(model) == {
        "head": 0,
        "side": 0,
        "short": 1,
        "long_2": 1,
        "long_1": 2,
        "stem": 3,
    }


def test_nested_and_shared_layers():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(4, name="b")]
    )
    shared = layers.Dense(4, name="shared")
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(1, name="head")(shared(inner(shared(x)))))
    assert heights(model) == {"head": 0, "b": 2, "a": 3, "shared": 4}


def test_a_shared_layer_has_the_largest_of_its_heights():
    shared, x = layers.Dense(4, name="shared"), keras.Input((4,))
    # The longer way by layers is the shorter one by kernels.
    far = shared(x)
    for _ in range(5):
        far = layers.ReLU()(far)
    near = layers.Dense(4, name="middle")(shared(x))
    model = keras.Model(x, layers.Dense(1, name="head")(far + near))
    assert heights(model) == {"head": 0, "middle": 1, "shared": 2}


def test_a_known_net():
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=3)
    found = heights(model)
    # 52 convolutions, one behind the other, and the dense layer.
    assert (found["predictions"], found["Conv_1"], found["Conv1"]) == (0, 1, 52)
    assert found["bn_Conv1"] == found["Conv1"]
    assert len(found) == sum(bool(layer.weights) for layer in model.layers)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_that_of_an_optimizer_with_the_smaller_rate(toy, name):
    """One update per layer equals that of the same optimizer with the layer's own rate."""
    model = net()
    model.compile(layerwise_decay(model, OPTIMIZERS[name](0.1), 0.5), loss())
    start = model.get_weights()
    fit(model, toy, epochs=1, batch_size=64)
    for layer, scale in (("low", 0.25), ("norm", 0.25), ("middle", 0.5), ("high", 1.0)):
        reference = net()
        reference.compile(OPTIMIZERS[name](0.1 * scale), loss())
        reference.set_weights(start)
        fit(reference, toy, epochs=1, batch_size=64)
        pairs = zip(
            model.get_layer(layer).trainable_variables,
            reference.get_layer(layer).trainable_variables,
            strict=True,
        )
        for ours, theirs in pairs:
            ours, theirs = (keras.ops.convert_to_numpy(v) for v in (ours, theirs))
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7, err_msg=layer)


def test_eight_steps_equal_torch_with_a_rate_for_each_group(toy):
    torch = pytest.importorskip("torch")
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, activation="tanh"), layers.Dense(3)]
    )
    model.compile(
        layerwise_decay(model, keras.optimizers.AdamW(0.05, weight_decay=0.1, epsilon=1e-12), 0.3),
        loss(),
    )
    theirs = [torch.tensor(w, dtype=torch.float64, requires_grad=True) for w in model.get_weights()]
    groups = [{"params": theirs[:2], "lr": 0.05 * 0.3}, {"params": theirs[2:], "lr": 0.05}]
    optimizer = torch.optim.AdamW(groups, eps=1e-12, weight_decay=0.1)
    x, y = torch.tensor(toy[0], dtype=torch.float64), torch.tensor(toy[1], dtype=torch.int64)
    for start in [0, 16, 32, 48] * 2:
        batch = slice(start, start + 16)
        optimizer.zero_grad()
        hidden = torch.tanh(x[batch] @ theirs[0] + theirs[1])
        torch.nn.functional.cross_entropy(hidden @ theirs[2] + theirs[3], y[batch]).backward()
        optimizer.step()
    fit(model, toy)
    for a, b in zip(model.get_weights(), theirs, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-4, atol=1e-5)


def moved(model, toy, **kwargs):
    """The size of each layer's change in one `fit`."""
    start = {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.trainable_variables}
    fit(model, toy, **kwargs)
    return {
        path: float(np.abs(keras.ops.convert_to_numpy(variable) - start[path]).max())
        for path, variable in ((v.path, v) for v in model.trainable_variables)
    }


@pytest.mark.parametrize("what", ["schedule", "loss scale", "accumulation", "ema", "pruning"])
def test_it_composes(toy, what):
    """A rate of almost 0 freezes the lower layers and nothing else."""
    model, callbacks = net(), []
    optimizer = keras.optimizers.SGD(0.1)
    if what == "schedule":
        callbacks = [LearningRate(lambda step: 0.1 / (step + 1))]
    elif what == "loss scale":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1.0)
    elif what == "accumulation":
        optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    elif what == "ema":
        optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    else:
        callbacks = [Pruning(ConstantSparsity(0.5, 0, frequency=1), select=model.layers[-1])]
    model.compile(layerwise_decay(model, optimizer, 1e-9), loss())
    for path, change in moved(model, toy, callbacks=callbacks).items():
        assert (change > 1e-3) == ("high" in path), path


@pytest.mark.backends("tensorflow")
def test_under_mirrored_strategy(toy, mirrored):
    import tensorflow as tf

    ends = []
    for strategy in (tf.distribute.get_strategy(), mirrored):
        with strategy.scope():
            # Without the norm, whose statistics are those of a replica's half.
            model = keras.Sequential(
                [keras.Input((4,)), layers.Dense(5, name="low"), layers.Dense(3, name="high")]
            )
            rng = np.random.default_rng(1)
            model.set_weights([rng.normal(size=v.shape) for v in model.weights])
            optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
            model.compile(layerwise_decay(model, optimizer, 0.5), loss())
        fit(model, toy)
        ends.append(model.get_weights())
    for one, two in zip(*ends, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_files_hold_nothing_of_it_and_a_rate_of_1_takes_it_off(toy, tmp_path):
    model = net()
    plain = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    before = (plain.get_config(), set(vars(plain)))
    optimizer = layerwise_decay(model, layerwise_decay(model, plain, 0.7), 1e-9)
    assert optimizer is plain
    assert optimizer.get_config() == before[0]
    model.compile(optimizer, loss())
    fit(model, toy)
    assert optimizer.weight_decay == 0.1
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(loaded.optimizer.variables) == len(optimizer.variables)
    # It is gone from the file, as the documentation says, and is put on again.
    layerwise_decay(loaded, loaded.optimizer, 1e-9)
    assert all((c > 1e-3) == ("high" in path) for path, c in moved(loaded, toy).items())
    layerwise_decay(model, optimizer, 1.0)
    assert "_backend_update_step" not in vars(optimizer)


def test_a_layer_that_is_thawed_later_is_scaled_too(toy):
    model = net()
    model.get_layer("low").trainable = False
    optimizer = layerwise_decay(model, keras.optimizers.SGD(0.1), 1e-9)
    model.get_layer("low").trainable = True
    model.compile(optimizer, loss())
    assert all((c > 1e-3) == ("high" in path) for path, c in moved(model, toy).items())


def test_a_subclassed_model_takes_its_order_from_the_user(toy):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.high, self.low = layers.Dense(3, name="high"), layers.Dense(4, name="low")
            self.other = layers.Dense(4, name="other")

        def call(self, inputs):
            return self.high(self.low(inputs) + self.other(inputs))

    model = Own()
    optimizer = keras.optimizers.SGD(0.1)
    with pytest.raises(ValueError, match=r"Call it on a batch"):
        layerwise_decay(model, optimizer)
    model(toy[0])
    with pytest.raises(ValueError, match="cannot be read as a graph"):
        layerwise_decay(model, optimizer)
    layerwise_decay(model, optimizer, 1e-9, layers=[[model.low, model.other], model.high])
    model.compile(optimizer, loss())
    assert all((c > 1e-3) == ("high" in path) for path, c in moved(model, toy).items())
    with pytest.raises(ValueError, match="Received: 'low'"):
        layerwise_decay(model, optimizer, layers=["low", model.high])


@pytest.mark.parametrize("rate", [0, -0.5, 1.5, float("nan"), "0.5x"])
def test_a_rate_out_of_range_is_told(rate):
    with pytest.raises(ValueError, match="`rate` must be"):
        layerwise_decay(net(), keras.optimizers.SGD(0.1), rate)


def test_an_optimizer_whose_steps_cannot_be_scaled_is_told():
    multi = keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1))
    )
    for optimizer in (multi, keras.optimizers.ScheduleFreeAdamW(0.1), "adam"):
        with pytest.raises(ValueError, match="Received: optimizer="):
            layerwise_decay(net(), optimizer)
