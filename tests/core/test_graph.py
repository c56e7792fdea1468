import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.core.graph import Graph, copy_layer, graphs, rebuild


def square(x):
    return x * x


class Scale(layers.Layer):
    """Not registered, with a layer, a function and a seed of its own."""

    def __init__(self, factor, function=square, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.function = factor, function
        self.inner = layers.Dense(3, name="inner")
        self.drop = layers.Dropout(0.5)

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, x, training=None):
        return self.drop(self.inner(self.function(x)) * self.factor, training=training)

    def get_config(self):
        function = keras.saving.serialize_keras_object(self.function)
        return {**super().get_config(), "factor": self.factor, "function": function}

    @classmethod
    def from_config(cls, config):
        config["function"] = keras.saving.deserialize_keras_object(config["function"])
        return cls(**config)


def branches():
    x = keras.Input((6, 6, 2), name="image")
    a = layers.Conv2D(4, 3, padding="same", activation=square, name="a")(x)
    b = layers.Conv2D(4, 1, name="b")(x)
    y = ops.concatenate([ops.relu(a + b), 2.0 * a, a[..., :1]], axis=-1)
    y = layers.Lambda(square, name="lambda")(y)
    y = layers.GlobalAveragePooling2D(name="pool")(y)
    return keras.Model(x, layers.Dense(3, name="head")(y), name="branches")


def shared():
    dense = layers.Dense(5, activation="relu", name="twice")
    activation = layers.ReLU(name="relu")
    x, y = keras.Input((5,), name="x"), keras.Input((5,), name="y")
    z = layers.Add(name="add")([activation(dense(x)), activation(dense(dense(y)))])
    return keras.Model([x, y], z)


def dictionaries():
    # The keys are in no alphabetical order, and neither are the arguments.
    inputs = {"b": keras.Input((2,), name="b"), "a": keras.Input((2,), name="a")}
    inner_in = {"q": keras.Input((2,), name="q"), "p": keras.Input((2,), name="p")}
    inner = keras.Model(inner_in, inner_in["q"] - 3.0 * inner_in["p"], name="inner")
    both = inner({"p": inputs["a"], "q": inputs["b"]})
    outputs = {"z": layers.Dense(2, name="z")(both), "y": [inputs["b"] * 2.0, both]}
    return keras.Model(inputs, outputs)


def nested():
    block = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(4, activation="relu", name="dense"),
            layers.BatchNormalization(name="norm"),
        ],
        name="block",
    )
    x = keras.Input((4,))
    inner = keras.Model(x, layers.Dense(4, name="dense")(block(x)), name="outer_block")
    x = keras.Input((4,), name="x")
    y = block(inner(block(x), training=False))
    return keras.Model(x, [y, inner(y)])


def recurrent():
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(11, 4, mask_zero=True, name="embedding")(tokens)
    sequence, state, _ = layers.LSTM(4, return_sequences=True, return_state=True, name="lstm")(x)
    x = layers.MultiHeadAttention(2, 2, name="attention")(sequence, value=x, key=x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(tokens, [layers.GlobalAveragePooling1D(name="pool")(x), state])


def stack():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Rescaling(0.5, name="rescale"),
            layers.Normalization(name="normalize"),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flatten"),
            Scale(2.0, name="scale"),
            layers.Dense(2, name="head"),
        ],
        name="stack",
    )


MODELS = [branches, shared, dictionaries, nested, recurrent, stack]


def data(model, samples=3):
    rng = np.random.default_rng(0)

    def draw(tensor):
        shape = (samples, *tensor.shape[1:])
        if "int" in tensor.dtype:
            return rng.integers(0, 5, shape).astype(tensor.dtype)
        return rng.normal(size=shape).astype(tensor.dtype)

    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    if isinstance(inputs, list) and len(inputs) == 1:
        return draw(inputs[0])
    return keras.tree.map_structure(draw, inputs)


def randomize(model, seed=0):
    """Gives every weight a value that no initializer gives."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed" not in weight.path:
            value = rng.uniform(0.5, 1.5, weight.shape) * rng.choice([-0.5, 0.5], weight.shape)
            if "variance" in weight.path:
                value = np.abs(value)
            weight.assign(value.astype(weight.dtype))
        if weight.path.endswith("count"):
            weight.assign(7)
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Normalization):
            layer.finalize_state()


def predict(model, x):
    return keras.tree.map_structure(ops.convert_to_numpy, model(x, training=False))


def assert_same(one, other):
    keras.tree.assert_same_structure(one, other)
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)


def snapshot(model):
    """All of a model that a function which returns a new one must leave alone."""
    return {
        "weights": [w.copy() for w in model.get_weights()],
        "variables": [id(v) for v in model.variables],
        "names": [layer.name for layer in model._flatten_layers()],
        "trainable": [layer.trainable for layer in model._flatten_layers()],
        "nodes": [
            (id(op), len(op._inbound_nodes), len(op._outbound_nodes))
            for graph in graphs(model)
            for op in (graph.model, *(node.operation for node in graph.nodes))
        ],
        "config": repr(model.get_config()),
        "compiled": (model.compiled, id(model.optimizer) if model.compiled else None),
    }


def assert_unchanged(before, after):
    for key, value in before.items():
        if key == "weights":
            for a, b in zip(value, after[key], strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            assert value == after[key], key


@pytest.mark.parametrize("make", MODELS)
def test_a_rebuilt_model_is_the_same_model_and_shares_nothing(make):
    model = make()
    randomize(model)
    x = data(model)
    before, expected = snapshot(model), predict(model, x)

    new = rebuild(model)

    assert_same(predict(new, x), expected)
    assert_unchanged(before, snapshot(model))
    assert type(new) is type(model)
    assert new.name == model.name
    assert [layer.name for layer in new.layers] == [layer.name for layer in model.layers]
    assert new.output_names == model.output_names if not isinstance(new, keras.Sequential) else True
    assert [t.name for t in new.inputs] == [t.name for t in model.inputs]
    old = {id(o) for g in graphs(model) for o in (g.model, *(n.operation for n in g.nodes))}
    assert not old & {
        id(o) for g in graphs(new) for o in (g.model, *(n.operation for n in g.nodes))
    }
    assert not {id(v) for v in model.variables} & {id(v) for v in new.variables}
    # As many layers and weights: what was shared is shared again.
    assert len(new.weights) == len(model.weights)
    for weight in new.weights:
        weight.assign(np.zeros(weight.shape))
    assert_same(predict(model, x), expected)


@pytest.mark.parametrize("make", [branches, shared, dictionaries, recurrent])
def test_a_rebuilt_model_can_be_saved_and_loaded(make, tmp_path):
    model = rebuild(make())
    model.save(tmp_path / "model.keras")
    with keras.saving.custom_object_scope({"square": square}):
        loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    x = data(model)
    assert_same(predict(loaded, x), predict(model, x))


def test_flags_and_seeds_are_carried_over():
    model = nested()
    model.get_layer("block").get_layer("dense").trainable = False
    new = rebuild(model)
    flags = [layer.trainable for layer in model._flatten_layers()]
    assert [layer.trainable for layer in new._flatten_layers()] == flags
    model.trainable = False
    model.get_layer("outer_block").trainable = True
    new = rebuild(model)
    flags = [layer.trainable for layer in model._flatten_layers()]
    assert [layer.trainable for layer in new._flatten_layers()] == flags

    model = stack()
    model.get_layer("scale").inner.trainable = False
    x = data(model)
    model(x, training=True)
    new = rebuild(model)
    assert not new.get_layer("scale").inner.trainable
    seeds, copied = (
        [
            ops.convert_to_numpy(g.state)
            for part in m._flatten_layers()
            for g in part._seed_generators
        ]
        for m in (model, new)
    )
    assert len(seeds) == 1
    assert_same(seeds, copied)


def test_the_nodes_come_in_order_with_who_takes_them():
    graph = Graph(shared())
    names = [node.name for node in graph.nodes]
    assert sorted(names) == ["add", "relu", "relu", "twice", "twice", "twice"]
    done = {id(t) for t in graph.inputs}
    for node in graph.nodes:
        assert all(id(t) in done for t in node.inputs)
        done |= {id(t) for t in node.outputs}
    last = graph.nodes[-1]
    assert last.name == "add" and graph.is_output(last.outputs[0])
    assert [graph.producer(t).name for t in last.inputs] == ["relu", "relu"]
    assert graph.producer(graph.inputs[0]) is None
    assert [node.name for node in graph.consumers(graph.inputs[0])] == ["twice"]
    assert not graph.is_output(last.inputs[0])


def test_calls_in_another_model_are_not_followed():
    model = branches()
    part = keras.Model(model.input, model.get_layer("a").output)
    assert [node.name for node in Graph(part).nodes] == ["a"]
    assert len(rebuild(part).layers) == 2


def test_layers_are_replaced_left_out_and_added():
    model = stack()
    randomize(model)
    x = data(model)

    def replace(node):
        if node.name == "norm":
            return []
        if node.name == "conv":
            return [node.operation, layers.ReLU(name="new")]
        return None

    new = rebuild(model, replace)
    assert isinstance(new, keras.Sequential)
    names = [layer.name for layer in model.layers]
    names[names.index("norm")] = "new"
    assert [layer.name for layer in new.layers] == names
    y = x
    for layer in model.layers:
        y = ops.relu(y) if layer.name == "norm" else layer(y)
    assert_same(predict(new, x), ops.convert_to_numpy(y))


def test_a_function_of_tensors_in_a_sequential_model():
    model = stack()
    x = data(model)
    new = rebuild(model, lambda n: [n.operation, lambda t: t + 1.0] if n.name == "head" else None)
    np.testing.assert_allclose(predict(new, x), predict(model, x) + 1, rtol=1e-6)


def test_only_one_call_of_a_shared_layer_is_replaced():
    model = shared()
    first = next(node.inputs[0] for node in Graph(model).nodes if node.name == "relu")

    def replace(node):
        return [] if node.name == "relu" and node.inputs[0] is first else None

    names = [node.name for node in Graph(rebuild(model, replace)).nodes]
    assert names.count("relu") == 1 and names.count("twice") == 3


def test_optional_inputs_their_dtypes_and_names_stay():
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y", dtype="int32", optional=True)
    model = keras.Model([x, y], layers.Dense(2)(x))
    new = rebuild(model)
    assert [(t.dtype, t._keras_history.operation.optional) for t in new.inputs] == [
        ("float32", False),
        ("int32", True),
    ]
    # The tensor of an input without a name has another one than its layer.
    model = keras.Model(z := keras.Input((3,)), layers.Dense(2)(z))
    assert rebuild(model).inputs[0].name == model.inputs[0].name


def test_a_subclass_with_a_graph_keeps_its_class():
    class Trained(keras.Model):
        def train_step(self, data):
            return {"loss": 0.0}

    class Made(keras.Model):
        def __init__(self, units):
            x = keras.Input((4,))
            super().__init__(x, layers.Dense(units)(x))

    x = keras.Input((4,))
    assert type(rebuild(Trained(x, layers.Dense(2)(x)))).train_step is Trained.train_step
    assert rebuild(Made(2)).output_shape == (None, 2)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_what_has_no_graph_is_refused():
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    with pytest.raises(ValueError, match=r"written in Python \(Subclassed\).*keras.Model\(inputs"):
        Graph(model)
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="Subclassed"):
        rebuild(keras.Model(x, model(x)))
    with pytest.raises(ValueError, match="'raw' is not built.*keras.Input"):
        Graph(keras.Sequential([layers.Dense(2)], name="raw"))
    with pytest.raises(ValueError, match="`model` must be a `keras.Model`.*Received"):
        Graph("model")

    class Odd(keras.Sequential):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs)

    with pytest.raises(ValueError, match="written in Python"):
        Graph(Odd([keras.Input((2,)), layers.Dense(2)]))


def test_a_layer_that_cannot_be_copied_is_named():
    class Closed(layers.Layer):
        def __init__(self, table):
            super().__init__(name="closed")
            self.table = table

        def call(self, x):
            return x

    x = keras.Input((4,))
    with pytest.raises(ValueError, match=r"(?s)'closed' \(Closed\) cannot be copied.*get_config"):
        rebuild(keras.Model(x, Closed({"a": np.ones(3)})(x)))


def test_a_variable_between_the_layers_is_refused():
    x = keras.Input((4,))
    y = ops.multiply(x, keras.Variable(np.ones(4, "float32")))
    with pytest.raises(ValueError, match="takes a variable that no layer holds"):
        rebuild(keras.Model(x, y))


def test_copy_layer_changes_entries_of_the_config():
    layer = layers.Conv2D(4, 3, activation=lambda t: t + 1, name="conv")
    new = copy_layer(layer, use_bias=False, name="other")
    assert (new.use_bias, new.name, new.built) == (False, "other", False)
    assert new.activation is layer.activation
    layer = layers.Lambda(lambda t: t + 1, output_shape=(3,), name="lambda")
    new = copy_layer(layer)
    assert (new.function, new.name, new._output_shape) == (layer.function, "lambda", (3,))
