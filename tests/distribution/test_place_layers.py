"""Layers on two logical devices of TensorFlow, against the same model on one."""

import re

import keras
import numpy as np
import pytest
from distribution_cases import CASES, X, Y, difference, train

from keras_optkit.distribution import memory_per_device, place_layers

BACKEND = keras.backend.backend()
L = keras.layers
tensorflow = pytest.mark.backends("tensorflow")
TWO = ["cpu:0", "cpu:1"]
EXACT = [
    "uneven last batch",
    "masks",
    "accumulation, averages",
    "loss scaling, global_clipnorm",
    "batch norm",
    "several outputs",
    "embedding, clipnorm",
    "steps_per_execution",
]


def device_of(thing):
    return thing.device.rpartition(":")[0][-3:].lower() + thing.device[-2:]


@tensorflow
@pytest.mark.parametrize("name", EXACT)
def test_two_devices_equal_one(name):
    """The cases of `data_parallel`: loss, metrics, weights and outputs."""
    found = []
    for placed in (False, True):
        place = (lambda model: place_layers(model, TWO)) if placed else None
        found.append(train(name, place=place))
    assert difference(*found) < 1e-6
    assert set(CASES) >= set(EXACT)


class Adds(L.Layer):
    """A layer that has a loss of its own, and returns more than tensors with gradients."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = L.Dense(4)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x, other=None):
        self.add_loss(0.1 * keras.ops.mean(keras.ops.square(self.inner(x))))
        return {
            "y": self.inner(x) * keras.ops.mean(keras.ops.square(other)),
            "n": keras.ops.argmax(x),
        }


def everything():
    """A nested model called twice, a shared layer, two inputs, masks, seeds, one tensor twice."""
    keras.utils.set_random_seed(5)
    tokens = keras.Input((5,), dtype="int32", name="tokens")
    numbers = keras.Input((5, 6), name="numbers")
    block = [keras.Input((5, 6)), L.SimpleRNN(6, return_sequences=True, name="rnn"), L.ReLU()]
    encoder = keras.Sequential([*block, L.Dense(6, name="inner")], name="encoder")
    shared = L.Dense(6, name="shared")
    left = encoder(shared(L.Embedding(10, 6, mask_zero=False, name="embedding")(tokens)))
    right = encoder(shared(numbers))
    both = L.MultiHeadAttention(2, 3, name="attention")(right, right) + left
    both = L.Flatten(name="flat")(L.LayerNormalization(name="norm")(both))
    out = Adds(name="adds")(L.Dropout(0.3, seed=1)(both), other=both)
    ends = {"a": L.Dense(3, name="a")(out["y"]), "b": L.Dense(1, name="b")(both)}
    return keras.Model({"tokens": tokens, "numbers": numbers}, ends)


RNG = np.random.default_rng(0)
DATA = {
    "x": {"tokens": RNG.integers(0, 10, (46, 5)), "numbers": RNG.normal(size=(46, 5, 6))},
    "y": {"a": Y, "b": Y[:, :1]},
    "batch_size": 20,
    "shuffle": False,
    "verbose": 0,
}
PLACES = {
    "cpu:0": ["encoder", "embedding", "attention", "a"],
    "cpu:1": ["shared", "norm", "encoder/inner", "adds", "b"],
}


@tensorflow
def test_everything_that_a_graph_has(tmp_path):
    found, models = [], []
    for placed in (False, True):
        model = everything()
        if placed:
            # Compiled afterwards, and with a file that has the optimizer's state.
            distribution = place_layers(model, PLACES)
        model.compile(keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01), "mse")
        losses = model.fit(**DATA, epochs=2).history["loss"]
        found.append((losses, model.predict(DATA["x"], verbose=0)))
        models.append(model)
    assert difference(*found) < 1e-6
    for one, other in zip(models[0].weights, models[1].weights, strict=True):
        # What a key's bias adds cancels out, so that its gradient is rounding.
        if "key/bias" not in one.path:
            assert difference(one.numpy(), other.numpy()) < 1e-6, one.path
    # Every variable, and all that the optimizer keeps for it.
    placement = distribution.placement
    assert placement["encoder/rnn"] == "cpu:0" and placement["encoder/inner"] == "cpu:1"
    for layer in model.layers:
        for variable in [] if layer.name == "encoder" else layer.variables:
            assert device_of(variable.value) == placement[layer.name], variable.path
    assert device_of(model.get_layer("encoder").layers[0].variables[0].value) == "cpu:0"
    slots = {v.name: device_of(v.value) for v in model.optimizer.variables if "momentum" in v.name}
    assert len(slots) == len(model.trainable_variables)
    for variable in model.trainable_variables:
        of = [slots[name] for name in slots if name == _slot(variable)]
        assert of == [device_of(variable.value)], variable.path
    text = distribution.describe()
    assert re.search(r"cpu:1: [\d,]+ bytes of weights, [\d,]+ of the .*: shared, .*, adds, b", text)
    # A file is an ordinary one, and what is loaded is on one device.
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Adds": Adds})
    assert list(memory_per_device(loaded)) == ["cpu:0"]
    assert not {"fit", "train_step", "call"} & set(vars(loaded))
    assert not [layer for layer in model._flatten_layers() if "call" in vars(layer)]
    assert difference(loaded.predict(DATA["x"], verbose=0), found[1][1]) == 0
    # With an optimizer that is built, the training goes on, and its state moves along.
    plain = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Adds": Adds})
    place_layers(loaded, PLACES)
    assert {device_of(v.value) for v in loaded.optimizer.variables} == {"cpu:0", "cpu:1"}
    one, two = [each.fit(**DATA).history["loss"] for each in (plain, loaded)]
    assert one == pytest.approx(two, rel=1e-6)


def _slot(variable):
    return f"{variable.path.replace('/', '_')}_momentum"


def small(**kwargs):
    keras.utils.set_random_seed(2)
    layers = [L.Dense(8, activation="tanh", name="a"), L.Dense(8, name="b"), L.ReLU(name="r")]
    model = keras.Sequential([keras.Input((6,)), *layers, L.Dense(3, name="c")])
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": "mse", **kwargs})
    return model


@tensorflow
def test_the_work_is_where_the_weights_are():
    """Forward, backward and update: the device of each operation in the traced step."""
    import tensorflow as tf

    model = small()
    distribution = place_layers(model, {"cpu:1": ["a", "c"], "cpu:0": ["b"]})
    model.fit(X, Y, verbose=0)
    with distribution.scope():
        step = tf.function(model.train_step)
        graph = step.get_concrete_function((tf.constant(X), tf.constant(Y))).graph
    where = {"a": set(), "b": set(), "c": set(), "r": set()}
    backward = {name: set() for name in where}
    for op in graph.get_operations():
        found = re.match(r"(gradient_tape/)?sequential[\w]*/(\w)(_\d+)?/", op.name)
        if found and op.type in ("MatMul", "BiasAdd", "BiasAddGrad", "Tanh", "TanhGrad", "Relu"):
            (backward if found[1] else where)[found[2]].add((op.type, op.device[-5:].lower()))
    assert where == {
        "a": {("MatMul", "cpu:1"), ("BiasAdd", "cpu:1"), ("Tanh", "cpu:1")},
        "b": {("MatMul", "cpu:0"), ("BiasAdd", "cpu:0")},
        "c": {("MatMul", "cpu:1"), ("BiasAdd", "cpu:1")},
        "r": {("Relu", "cpu:0")},
    }
    for name, device in {"a": "cpu:1", "b": "cpu:0", "c": "cpu:1"}.items():
        assert {"MatMul", "BiasAddGrad"} <= {kind for kind, _ in backward[name]}
        assert {d for _, d in backward[name]} == {device}
    updates = [op for op in graph.get_operations() if re.match(r"adam\w*/Sqrt", op.name)]
    # The roots of the second moments; that of the step is a number.
    found = sorted(op.device[-5:].lower() for op in updates if op.outputs[0].shape.rank)
    assert found == ["cpu:0"] * 2 + ["cpu:1"] * 4
    # Nothing gathers the gradients of both devices on one of them.
    assert not [op for op in graph.get_operations() if re.match(r"adam\w*/IdentityN", op.name)]


# With 56, 72, 0 and 27 weights of 4 bytes; Adam's state is twice that, and a batch of 32 comes out.
SHARED = {
    "parameters": ([56, 99], 1, 56),
    "flops": ([96, 176], 1, 56),
    "memory": ([12 * 128 + 2048, 12 * 27 + 1024 + 384], 2, 128),
}


@tensorflow
@pytest.mark.parametrize("balance", SHARED)
def test_layers_are_shared_out(balance):
    loads, cut, first = SHARED[balance]
    model = small()
    distribution = place_layers(model, 2, balance)
    assert list(distribution.placement.values()) == ["cpu:0"] * cut + ["cpu:1"] * (4 - cut)
    assert list(distribution.loads.values()) == loads
    assert distribution.num_devices == 1 and distribution.global_batch_size(8) == 8
    # The optimizer is not built yet.
    assert memory_per_device(model)["cpu:0"]["weights"] == 4 * first
    model.fit(X, Y, verbose=0)
    held = {"weights": 4 * (155 - first), "optimizer": 8 * (155 - first)}
    assert memory_per_device(model)["cpu:1"] == held


@tensorflow
def test_placed_again_and_back():
    model = small()
    place_layers(model, TWO)
    model.fit(X, Y, verbose=0)
    place_layers(model, {"cpu:1": [model]})
    assert memory_per_device(model)["cpu:1"] == {"weights": 4 * 155, "optimizer": 8 * 155}
    model.fit(X, Y, verbose=0)
    place_layers(model, ["cpu:0"])
    assert list(memory_per_device(model)) == ["cpu:0"] and "fit" not in vars(model)
    one = small()
    for _ in range(2):
        one.fit(X, Y, verbose=0)
    assert difference(one.get_weights(), model.get_weights()) < 1e-6


class Own(keras.Model):
    """A subclassed model with a `train_step` of its own."""

    def __init__(self):
        super().__init__()
        self.hidden, self.act, self.head = L.Dense(8, name="h"), L.ReLU(), L.Dense(3, name="head")

    def call(self, x):
        return self.head(self.act(self.hidden(x)))

    def train_step(self, data):
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            out = self(data[0], training=True)
            losses = [self.compute_loss(y=data[1], y_pred=out), tf.reduce_mean(out**2)]
        # The tape is asked twice.
        grads = [tape.gradient(loss, self.trainable_variables) for loss in losses]
        sums = [a + 0.1 * b for a, b in zip(*grads, strict=True)]
        self.optimizer.apply_gradients(zip(sums, self.trainable_variables, strict=True))
        return {"loss": losses[0]}


@tensorflow
@pytest.mark.parametrize("eagerly", [False, True])
def test_a_subclassed_model_with_a_step_of_its_own(eagerly):
    keras.utils.set_random_seed(1)
    start, found = None, []
    for placed in (False, True):
        model = Own()
        model(X[:1])
        start = start or model.get_weights()
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=eagerly)
        if placed:
            place_layers(model, {"cpu:0": ["h"], "cpu:1": [model.head]})
        found.append((model.fit(X, Y, shuffle=False, verbose=0).history, model.get_weights()))
    assert difference(*found) < 1e-6
    with pytest.raises(ValueError, match="cannot be read as a graph"):
        place_layers(model, TWO)


def unbuilt():
    return keras.Sequential([L.Dense(2)])


def quantized():
    model = small()
    model.layers[0].quantize("int8")
    return model


def mirrored():
    import tensorflow as tf

    reduce = tf.distribute.ReductionToOneDevice()
    with tf.distribute.MirroredStrategy(TWO, cross_device_ops=reduce).scope():
        return small()


A, BC = ["a"], ["b", "c"]
REFUSED = {
    "no such device": ({"cpu:0": A, "cpu:7": BC}, "There is no device 'cpu:7'.*Did you mean"),
    "a device twice": ({"cpu:0": A, "CPU:0": BC}, "can be used once only"),
    "too many devices": (3, "There are 2 devices.* Received: devices=3"),
    "empty": ({}, "Received: devices="),
    "no such layer": ({"cpu:0": A, "cpu:1": ["b", "cc"]}, "no such layer. .*Received: 'cc'"),
    "left out": ({"cpu:0": A, "cpu:1": ["b"]}, "needs a device. Received: none for 'c'"),
    "twice": ({"cpu:0": ["a", "b"], "cpu:1": BC}, "one device only. Received: 'b' for 'cpu:0'"),
    "a bare name": ({"cpu:0": "a", "cpu:1": BC}, "must be a list of .* Received: 'a' for 'cpu:0'"),
    "a layer of another model": ({"cpu:0": [L.Dense(2)], "cpu:1": BC}, "computes something"),
    "a number": ({"cpu:0": [3], "cpu:1": BC}, "Received: 3"),
}


@tensorflow
@pytest.mark.parametrize("name", REFUSED)
def test_bad_places(name):
    devices, message = REFUSED[name]
    model = small()
    with pytest.raises(ValueError, match=message):
        place_layers(model, devices)
    assert list(memory_per_device(model)) == ["cpu:0"] and "fit" not in vars(model)


@tensorflow
@pytest.mark.parametrize(
    ("make", "kwargs", "message"),
    [
        (unbuilt, {}, "must have its weights .*whose '.*' is not built"),
        (quantized, {}, "before `quantize`.* is quantized"),
        (mirrored, {}, "outside of `strategy.scope\\(\\)`.*Received: <"),
        (lambda: small(jit_compile=True), {}, "`jit_compile='auto'`.* Received: jit_compile=True"),
        (
            small,
            {"balance": "params"},
            "'parameters', 'flops', 'memory'. Received: balance='params",
        ),
        (small, {"batch_size": 0}, "Received: batch_size=0"),
        (lambda: "net", {}, "`model` must be a `keras.Model`. Received: model='net'"),
        (lambda: keras.Sequential([keras.Input((2,)), L.Dense(1)]), {}, "has 1 layers, fewer"),
    ],
)
def test_models_that_cannot_be_placed(make, kwargs, message):
    with pytest.raises(ValueError, match=message) as error:
        place_layers(make(), TWO, **kwargs)
    assert "\n" not in str(error.value)


@tensorflow
def test_told_at_fit():
    model = small()
    place_layers(model, TWO)
    model.compile("sgd", "mse", jit_compile=True)
    with pytest.raises(ValueError, match="XLA compiles a step for one device"):
        model.fit(X, Y, verbose=0)
    model = small()
    with pytest.raises(ValueError, match="`balance` shares .* Received: balance='flops'"):
        place_layers(model, {"cpu:0": [model]}, "flops")


@pytest.mark.backends("jax", "torch")
def test_other_backends_say_so():
    with pytest.raises(ValueError, match=f"tensorflow backend only.*Received: the {BACKEND} back"):
        place_layers(keras.Sequential([keras.Input((6,)), L.Dense(3)]), 2)
