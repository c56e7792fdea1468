import math
import random

import keras
import numpy as np
import pytest
from keras import ops

from keras_optkit.schedules import ExponentialDecay, find_lr
from keras_optkit.schedules.range_finder import _Batches

BACKEND = keras.backend.backend()
FAST = {"steps": 12, "batch_size": 16}


def array(value):
    return np.array(ops.convert_to_numpy(value))


def all_variables(model):
    found = [*model.variables, *model.metrics_variables, *model.optimizer.variables]
    return list({id(v): v for v in found}.values())


def everything(model):
    """All that a training depends on, as bytes."""
    state = {f"{i} {v.path}": array(v.value).tobytes() for i, v in enumerate(all_variables(model))}
    state["python"] = random.getstate()
    state["numpy"] = str(np.random.get_state())
    state["flags"] = [layer.trainable for layer in model._flatten_layers()]
    for name in ("train_function", "stop_training", "steps_per_execution", "history"):
        state[name] = getattr(model, name, "missing")
    state["methods"] = sorted(
        n for n in vars(model.optimizer) if callable(vars(model.optimizer)[n])
    )
    state["fit"] = "make_train_function" in vars(model)
    if BACKEND == "torch":
        import torch

        state["torch"] = torch.get_rng_state().numpy().tobytes()
        state["modes"] = [module.training for module in model.modules()]
        state["gradients"] = [p.grad is None for p in model.parameters()]
    return state


def rich_model(**kwargs):
    """Not built, with all that has a state: statistics, random numbers, metrics, EMA."""
    model = keras.Sequential(
        [
            keras.layers.Dense(8, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.3),
            keras.layers.GaussianNoise(0.1, seed=3),
            keras.layers.Dense(3, kernel_regularizer="l2"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(1e-2, use_ema=True)
    model.compile(**{"optimizer": optimizer, "loss": loss, "metrics": ["accuracy"], **kwargs})
    return model


def trained(toy, test, before):
    keras.utils.set_random_seed(7)
    # On JAX, Keras itself can't `fit` twice with a moving average.
    ema = BACKEND != "jax" or not before
    model = rich_model(optimizer=keras.optimizers.Adam(1e-2, use_ema=ema))
    if before:
        model.fit(*toy, batch_size=16, epochs=before, verbose=0)
    if test:
        find_lr(model, *toy, **FAST)
    history = model.fit(*toy, batch_size=16, epochs=2, verbose=0)
    return [array(v) for v in all_variables(model)], history.history, np.random.random()


@pytest.mark.parametrize("before", [0, 1], ids=["new", "trained"])
def test_training_is_bit_for_bit_that_without_the_test(toy, before):
    plain, history, draw = trained(toy, False, before)
    tested, tested_history, tested_draw = trained(toy, True, before)
    assert [a.tobytes() for a in plain] == [b.tobytes() for b in tested]
    assert (history, draw) == (tested_history, tested_draw)


@pytest.mark.parametrize("rate", [0.1, ExponentialDecay(0.1, 10, gamma=0.5)])
def test_nothing_is_left_changed(make_model, toy, rate):
    model = make_model(keras.optimizers.SGD(rate, momentum=0.9))
    model.fit(*toy, batch_size=16, verbose=0)
    before, own, config = everything(model), model.history, model.optimizer.get_config()
    find_lr(model, *toy, **FAST)
    assert everything(model) == before
    assert model.history is own and model.optimizer.get_config() == config


def test_a_new_optimizer_is_left_in_its_first_state(make_model, toy):
    # Its accumulators start at 0.1, not at zero.
    model = make_model(keras.optimizers.Adagrad(0.1))
    find_lr(model, *toy, **FAST)
    fresh = keras.optimizers.Adagrad(0.1)
    fresh.build(model.trainable_variables)
    for own, expected in zip(model.optimizer.variables, fresh.variables, strict=True):
        np.testing.assert_array_equal(array(own), array(expected))
    assert not hasattr(model, "history") or model.history is None


class Breaks(keras.losses.Loss):
    """Raises in the step itself."""

    def call(self, y_true, y_pred):
        raise KeyboardInterrupt


def test_an_interrupt_while_the_step_is_compiled(make_model, toy):
    model = make_model()
    model.fit(*toy, batch_size=16, verbose=0)
    model.compile("adam", loss=Breaks())
    before = [array(v).tobytes() for v in model.variables]
    numpy = str(np.random.get_state())
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        find_lr(model, *toy, **FAST)
    assert [array(v).tobytes() for v in model.variables] == before
    assert str(np.random.get_state()) == numpy
    assert "make_train_function" not in vars(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupt_in_mid_test(make_model, toy, error):
    class Batches(keras.utils.PyDataset):
        breaks = False
        reads = 0

        def __len__(self):
            return 4

        def __getitem__(self, index):
            self.reads += 1
            np.random.random()
            if self.breaks and self.reads > 7:
                raise error("unplugged")
            return toy[0][:16], toy[1][:16]

    data, model = Batches(), make_model()
    model.fit(*toy, batch_size=16, verbose=0)
    before = everything(model)
    data.breaks = True
    # TensorFlow raises an error of its own for one in its input pipeline.
    with pytest.raises(BaseException, match="unplugged"):
        find_lr(model, data, steps=40)
    after = everything(model)
    assert {k: v for k, v in after.items() if v != before[k]} == {}
    data.breaks = False
    assert len(find_lr(model, data, steps=12).losses) == 12


def reference(x, y, rates, weights, bias):
    """Gradient descent on a linear model, in float64 NumPy: the loss before each update."""
    losses = []
    for i, rate in enumerate(rates):
        at = slice(16 * (i % 4), 16 * (i % 4) + 16)
        error = x[at] @ weights + bias - y[at]
        losses.append(np.mean(error**2))
        weights = weights - rate * 2 * x[at].T @ error / error.size
        bias = bias - rate * 2 * error.sum(axis=0) / error.size
    return losses


def linear_model(optimizer, **kwargs):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", **kwargs)
    return model


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_the_curve_is_that_of_gradient_descent_in_numpy(toy, mode):
    """So the rate changes with every update, and each loss is that of its own batch."""
    x, y = toy[0], toy[1][:, None].astype("float32")
    model = linear_model("sgd", metrics=["mae"])
    weights = [array(v).astype("float64") for v in model.trainable_variables]
    found = find_lr(
        model, x, y, start=1e-4, end=0.3, steps=20, mode=mode, shuffle=False, batch_size=16
    )
    rates = np.geomspace(1e-4, 0.3, 20) if mode == "exponential" else np.linspace(1e-4, 0.3, 20)
    np.testing.assert_allclose(found.learning_rates, rates, rtol=1e-12)
    expected = reference(x.astype("float64"), y.astype("float64"), rates, *weights)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-4)
    assert found.stopped == "the sweep is complete"


def test_one_rate_for_each_update_under_accumulation(toy):
    x, y = toy[0], toy[1][:, None].astype("float32")
    whole, parts = (
        linear_model(keras.optimizers.SGD(gradient_accumulation_steps=n)) for n in (None, 4)
    )
    parts.set_weights(whole.get_weights())
    arguments = {"start": 1e-4, "end": 0.3, "steps": 12, "shuffle": False}
    expected = find_lr(whole, x, y, batch_size=64, **arguments)
    found = find_lr(parts, x, y, batch_size=16, **arguments)
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4)
    np.testing.assert_array_equal(found.learning_rates, expected.learning_rates)


def test_a_smaller_last_batch_has_its_own_loss(toy):
    x, y = toy[0][:20], toy[1][:20, None].astype("float32")
    model = linear_model("sgd")
    found = find_lr(
        model, x, y, start=1e-12, end=1e-11, steps=10, batch_size=16, shuffle=False, smoothing=0
    )
    losses = [np.mean((array(model(x[at])) - y[at]) ** 2) for at in (slice(16), slice(16, 20))]
    np.testing.assert_allclose(found.losses, losses * 5, rtol=1e-5)


def test_steps_per_execution_and_a_left_over_initial_epoch(make_model, toy):
    if BACKEND == "torch":
        model = make_model()
    else:
        model = make_model(steps_per_execution=3)
    model._initial_epoch = 5
    assert len(find_lr(model, *toy, **FAST).losses) == 12
    assert model._initial_epoch == 5
    assert model.steps_per_execution == (1 if BACKEND == "torch" else 3)


def test_divergence_ends_the_test(make_model, toy):
    found = find_lr(linear_model("sgd"), *toy, steps=60, batch_size=16)
    assert found.stopped == "the loss has diverged" and len(found.losses) < 60
    assert np.isfinite(found.losses).all()
    assert found.smoothed[-1] > 4 * found.smoothed.min() >= found.smoothed[-2]


def test_a_loss_that_is_not_finite_ends_the_test(toy):
    x, y = toy[0], toy[1][:, None].astype("float32")
    model = linear_model("sgd")
    before = everything(model)
    del before["history"]
    found = find_lr(
        model, x, y, start=1e-3, end=1e30, steps=40, batch_size=16, divergence=None, smoothing=0.5
    )
    assert not math.isfinite(found.losses[-1]) and np.isfinite(found.losses[:-1]).all()
    assert found.stopped in ("the loss is nan", "the loss is inf")
    assert all(rate is None or rate < 1e3 for rate in found.suggestions.values())
    after = everything(model)
    assert [after[k] for k in before if "dense" in k] == [before[k] for k in before if "dense" in k]


def test_nan_from_the_start(toy):
    found = find_lr(linear_model("sgd"), toy[0] * np.nan, toy[1], **FAST)
    assert len(found.losses) == 1 and math.isnan(found.losses[0])
    assert set(found.suggestions.values()) == {None}
    assert "finite losses" in found.reasons["valley"]


class Batches(keras.utils.PyDataset):
    """Four batches, and hooks that change the object."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y, self.passes = x, y, 0

    def __len__(self):
        return 4

    def __getitem__(self, index):
        at = slice(16 * index, 16 * index + 16)
        return self.x[at], self.y[at]

    def on_epoch_end(self):
        self.passes += 1
        self.x = self.x[::-1]


def kinds(x, y):
    """The same four batches in every form."""
    import tensorflow as tf

    batches = Batches(x, y)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    return {
        "pydataset": lambda: batches,
        "dataset": lambda: dataset,
        "unknown length": lambda: dataset.filter(lambda *_: True),
        "endless": dataset.repeat,
        "loader": lambda: loader(x, y),
        "function": lambda: lambda: (batches[i] for i in range(4)),
    }


def loader(*arrays, **kwargs):
    """The arrays in torch's own batches of 16, where torch is installed."""
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(*map(torch.tensor, arrays))
    return torch.utils.data.DataLoader(pairs, batch_size=16, **kwargs)


@pytest.mark.parametrize(
    "kind", ["pydataset", "dataset", "unknown length", "endless", "loader", "function"]
)
def test_every_kind_of_data_gives_the_curve_of_its_arrays(toy, kind):
    x, y = toy[0], toy[1][:, None].astype("float32")
    model = linear_model("sgd")
    arguments = {"start": 1e-4, "end": 0.3, "steps": 10, "shuffle": False}
    expected = find_lr(model, x, y, batch_size=16, **arguments)
    data = kinds(x, y)[kind]()
    for _ in range(2):
        found = find_lr(model, data, **arguments)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    if kind == "pydataset":
        assert data.passes == 0 and data.x is x


def test_a_shuffled_pydataset_has_each_batch_once_in_a_pass(toy):
    data = Batches(np.arange(64), np.arange(64))
    view = _Batches(data, 10, shuffle=True)
    order = [int(view[i][0][0]) // 16 for i in range(view.num_batches)]
    assert sorted(order[:4]) == sorted(order[4:8]) == [0, 1, 2, 3]
    assert order[:4] != order[4:8] and len(order) == 10
    view = _Batches(data, 10, shuffle=False)
    assert [int(view[i][0][0]) // 16 for i in range(10)] == [*range(4), *range(4), 0, 1]


def test_a_shuffled_dataset_goes_on_in_its_own_order(toy):
    import tensorflow as tf

    orders = []
    for test in (False, True):
        keras.utils.set_random_seed(3)
        x, y = toy[0], toy[1][:, None]
        data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(64, seed=1).batch(16)
        if test:
            find_lr(linear_model("sgd"), data, steps=12)
        orders.append([batch.numpy() for _ in range(2) for batch, _ in data])
    np.testing.assert_array_equal(*orders)
    assert not np.array_equal(orders[0][:4], orders[0][4:])


def test_a_dataset_that_cannot_be_copied(toy):
    import tensorflow as tf

    values = tf.lookup.KeyValueTensorInitializer([0, 1, 2], [0.0, 1.0, 2.0], "int32", "float32")
    table = tf.lookup.StaticHashTable(values, 0.0)
    data = tf.data.Dataset.from_tensor_slices((toy[0], toy[1].astype("int32")))
    data = data.map(lambda x, y: (x, table.lookup(y)[None])).batch(16)
    assert len(find_lr(linear_model("sgd"), data, start=1e-5, end=1e-3, steps=12).losses) == 12


def test_a_loader_s_own_generator_is_put_back(toy):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(3)
    data = loader(*toy, shuffle=True, generator=generator)
    before = generator.get_state().clone()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    find_lr(model, data, steps=12)
    assert torch.equal(generator.get_state(), before)


def test_dictionaries_outputs_weights(toy):
    inputs = {name: keras.Input((4,), name=name) for name in ("a", "b")}
    both = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    outputs = {name: keras.layers.Dense(1, name=name)(both) for name in ("p", "q")}
    model = keras.Model(inputs, outputs)
    model.compile("sgd", {"p": "mse", "q": "mae"}, metrics={"p": ["mae"]})
    x = {"a": toy[0], "b": -toy[0]}
    y = {"p": toy[1][:, None], "q": -toy[1][:, None]}
    arguments = {"steps": 10, "batch_size": 16, "shuffle": False, "start": 1e-9, "end": 1e-8}
    found = find_lr(model, x, y, **arguments)
    total = sum(model.evaluate(x, y, verbose=0, return_dict=True)[f"{k}_loss"] for k in "pq")
    assert np.mean(found.losses[:4]) == pytest.approx(total, rel=1e-4)
    model = linear_model("sgd")
    doubled, plain = (
        find_lr(model, *toy, sample_weight=weight, **arguments).losses
        for weight in (np.full(64, 2.0, "float32"), None)
    )
    np.testing.assert_allclose(doubled, 2 * plain, rtol=1e-5)


@pytest.mark.backends("tensorflow", "torch")
def test_a_train_step_that_returns_the_loss_of_the_batch(toy):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            logs = super().train_step(data)
            return {"loss": logs["loss"] * 2}

    model = Own()
    model.compile("sgd", "mse")
    arguments = {"start": 1e-9, "end": 1e-8, "steps": 10, "batch_size": 64}
    found = find_lr(model, toy[0], toy[1][:, None], **arguments)
    error = array(model(toy[0])) - toy[1][:, None]
    np.testing.assert_allclose(found.losses, [2 * np.mean(error**2)] * 10, rtol=1e-5)

    class Silent(Own):
        def train_step(self, data):
            return {"cost": super().train_step(data)["loss"]}

    model = Silent()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"'loss' that `train_step` returns.*\['cost'\]"):
        find_lr(model, toy[0], toy[1][:, None], **arguments)

    class Idle(Own):
        def train_step(self, data):
            return self.test_step(data)

    model = Idle()
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`train_step` made no update"):
        find_lr(model, toy[0], toy[1][:, None], **arguments)


@pytest.mark.filterwarnings("ignore:.*float16")
def test_loss_scaling(toy):
    """The first updates overflow and are skipped; they are made up for, and the scale is back."""
    model = linear_model(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=2.0**127)
    )
    found = find_lr(model, toy[0], toy[1][:, None], start=1e-4, end=0.1, **FAST)
    np.testing.assert_allclose(found.learning_rates, np.geomspace(1e-4, 0.1, 12))
    assert float(array(model.optimizer.dynamic_scale)) == 2.0**127
    assert int(array(model.optimizer.iterations)) == 0


@pytest.mark.backends("tensorflow")
def test_mirrored_strategy(toy, mirrored):
    with mirrored.scope():
        model = rich_model(optimizer="sgd")
    model.fit(*toy, batch_size=16, verbose=0)

    def replicas():
        return [
            copy.numpy().tobytes()
            for variable in all_variables(model)
            for copy in getattr(variable.value, "values", [variable.value])
        ]

    before = replicas()
    found = find_lr(model, *toy, **FAST)
    assert len(found.losses) == 12 and replicas() == before


BAD = {
    "start=0": ({"start": 0}, "`start` must be a finite number > 0. Received: start=0"),
    "start=nan": ({"start": math.nan}, "`start` must be a finite"),
    "end=inf": ({"end": math.inf}, "`end` must be a finite"),
    "start=end": ({"start": 1.0, "end": 1.0}, "`start` must be below `end`.*start=1.0, end=1.0"),
    "steps": ({"steps": 9}, "`steps` must be an integer of at least 10.*Received: steps=9"),
    "mode": ({"mode": "exponental"}, "Did you mean 'exponential'.*Received: mode='exponental'"),
    "smoothing": ({"smoothing": 1.0}, r"`smoothing` must be in \[0, 1\).*smoothing=1.0"),
    "divergence": ({"divergence": 1}, "`divergence` must be above 1.*divergence=1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(make_model, toy, name):
    arguments, message = BAD[name]
    model = make_model()
    with pytest.raises(ValueError, match=message):
        find_lr(model, *toy, **arguments)
    assert not model.optimizer.built


def test_bad_models(make_model, toy):
    sgd = keras.optimizers.SGD
    with pytest.raises(ValueError, match="`find_lr` needs a model that is compiled"):
        find_lr(keras.Sequential([keras.layers.Dense(1)]), *toy)
    with pytest.raises(ValueError, match="MultiOptimizer has several"):
        find_lr(make_model(keras.optimizers.MultiOptimizer(sgd())), *toy)
    with pytest.raises(ValueError, match="relative_step=False"):
        find_lr(make_model(keras.optimizers.Adafactor()), *toy)
    model = make_model()
    model.trainable = False
    with pytest.raises(ValueError, match="no trainable weights"):
        find_lr(model, *toy)


def test_bad_data(make_model, toy):
    model = make_model()
    with pytest.raises(ValueError, match="can't be rewound.*lambda: batches"):
        find_lr(model, (batch for batch in [toy]))
    with pytest.raises(ValueError, match="at least one sample"):
        find_lr(model, toy[0][:0], toy[1][:0])
    with pytest.raises(ValueError, match="arrays or batches of them. Received: data=None"):
        find_lr(model, None)
    with pytest.raises(ValueError, match="`y` goes with arrays only"):
        find_lr(model, Batches(*toy), toy[1])
    with pytest.raises(ValueError, match="`batch_size` goes with arrays only"):
        find_lr(model, Batches(*toy), batch_size=16)
