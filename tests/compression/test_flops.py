"""FLOPs against published counts, other counters, and sums done by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_optkit.augmentation.rand_augment import RandAugment
from keras_optkit.augmentation.random_erasing import RandomErasing
from keras_optkit.compression.flops import count_flops
from keras_optkit.compression.structured.plan import Plan
from keras_optkit.compression.structured.rules import trace_channels

BACKEND = keras.backend.backend()

PUBLISHED = {
    # Millions of multiply-adds at 224 pixels, as the papers round them.
    # Howard et al., "MobileNets", 2017, table 4.
    "MobileNet": 569,
    # Sandler et al., "MobileNetV2", 2018, table 4.
    "MobileNetV2": 300,
    # Tan and Le, "EfficientNet", 2019, table 2.
    "EfficientNetB0": 390,
    # Howard et al., "Searching for MobileNetV3", 2019, table 3: 56.
    "MobileNetV3Small": 56,
    # Liu et al., "A ConvNet for the 2020s", 2022, table 1.
    "ConvNeXtTiny": 4_500,
    # He et al., "Deep Residual Learning", 2016, table 1 and section 4.1.
    "ResNet50": 3_800,
    "VGG16": 15_300,
}


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(name):
    # The dense layers of VGG16 are 1 % of its work and 90 % of its weights.
    top = name != "VGG16"
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(224, 224, 3), include_top=top)
    assert count_flops(model) / 2e6 == pytest.approx(PUBLISHED[name], rel=0.016)


def small(*stack, shape=(9, 7, 4)):
    return keras.Sequential([keras.Input(shape), *stack])


def attention_net():
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4, value_dim=3)(inputs, inputs)
    x = layers.LayerNormalization()(x + inputs)
    x = layers.Dense(16, activation="gelu")(x)
    x = layers.EinsumDense("abc,cd->abd", (6, 5), bias_axes="d")(x)
    return keras.Model(inputs, layers.Dot(axes=2)([x, x]))


def nested_net():
    block = keras.Sequential([keras.Input((8, 8, 4)), layers.Conv2D(4, 3, padding="same")])
    shared = layers.Dense(4)
    inputs = keras.Input((8, 8, 4))
    x = layers.add([block(block(inputs)), inputs])
    x = shared(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, shared(x))


# What only kernels do, so that all ways of counting mean the same.
KERNELS = {
    "dense": lambda: small(layers.Dense(5), layers.Dense(3), shape=(4,)),
    "dense on places": lambda: small(layers.Dense(5), shape=(6, 4)),
    "conv": lambda: small(layers.Conv2D(6, (3, 2), strides=(2, 1), padding="same")),
    "valid": lambda: small(layers.Conv2D(6, 3), layers.ReLU(), layers.Conv2D(5, 1)),
    "dilated": lambda: small(layers.Conv2D(6, 3, dilation_rate=2)),
    "grouped": lambda: small(layers.Conv2D(6, 3, groups=2)),
    "depthwise": lambda: small(layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2)),
    "separable": lambda: small(layers.SeparableConv2D(6, 3, depth_multiplier=2)),
    "transposed": lambda: small(layers.Conv2DTranspose(6, 3, strides=2, padding="same")),
    "nested": nested_net,
}


@pytest.mark.parametrize("net", KERNELS)
def test_agrees_with_the_plan_of_channel_pruning(net):
    plan = Plan(trace_channels(KERNELS[net]()))
    assert count_flops(plan.trace.model) == plan.flops(np.zeros(plan.size, bool)) > 0


@pytest.mark.backends("tensorflow")
# Its dilated convolutions pad, and it looks neither into grouped ones nor into attention.
@pytest.mark.parametrize("net", [net for net in KERNELS if net not in ("dilated", "grouped")])
def test_agrees_with_the_profiler_of_tensorflow(net):
    import tensorflow as tf

    model = KERNELS[net]()
    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]))
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph
    kinds = ["MatMul", "BatchMatMul.*", "Conv2D.*", "DepthwiseConv2dNative"]
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options.update(account_type_regexes=kinds, output="none")
    counted = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    assert count_flops(model) == counted.total_float_ops


@pytest.mark.backends("torch")
@pytest.mark.parametrize("net", [*KERNELS, "attention"])
def test_agrees_with_the_counter_of_torch(net):
    from torch.utils.flop_counter import FlopCounterMode

    model = attention_net() if net == "attention" else KERNELS[net]()
    with FlopCounterMode(display=False) as counter:
        model(np.ones((1, *model.inputs[0].shape[1:]), "float32"), training=False)
    assert count_flops(model) == counter.get_total_flops()


def on(inputs, function):
    return keras.Model(inputs, function(inputs))


def test_other_dimensions_by_hand():
    assert count_flops(small(layers.Conv1D(6, 3, padding="causal"), shape=(9, 4))) == (
        2 * 9 * 3 * 4 * 6
    )
    assert count_flops(small(layers.Conv3D(6, 2), shape=(4, 5, 6, 2))) == 2 * 60 * 8 * 2 * 6
    first = layers.Conv2D(6, 3, data_format="channels_first")
    assert count_flops(small(first, shape=(4, 9, 7))) == 2 * 7 * 5 * 9 * 4 * 6
    transposed = layers.Conv1DTranspose(6, 3, strides=2)
    assert count_flops(small(transposed, shape=(9, 4))) == 2 * 9 * 3 * 4 * 6


def test_attention_by_hand():
    # Queries and keys, values, scores, their sums, the way out; then what is behind.
    attention = 2 * 6 * 8 * 8 + 6 * 8 * 6 + 2 * 6 * 6 * 4 + 2 * 6 * 6 * 3 + 6 * 6 * 8
    behind = 6 * 8 * 16 + 6 * 16 * 5 + 6 * 6 * 5
    assert count_flops(attention_net()) == 2 * (attention + behind)


def test_recurrent_layers_at_each_step():
    inputs = keras.Input((10, 8))
    lstm = 10 * 2 * 4 * (8 * 5 + 5 * 5)
    gru = 10 * 2 * 3 * (8 * 5 + 5 * 5)
    assert count_flops(on(inputs, layers.LSTM(5))) == lstm
    assert count_flops(on(inputs, layers.GRU(5, return_sequences=True))) == gru
    assert count_flops(on(inputs, layers.Bidirectional(layers.LSTM(5)))) == 2 * lstm
    cells = [layers.SimpleRNNCell(5), layers.SimpleRNNCell(3)]
    stacked = 10 * 2 * (8 * 5 + 5 * 5 + 5 * 3 + 3 * 3)
    assert count_flops(on(inputs, layers.RNN(cells))) == stacked
    each = layers.TimeDistributed(layers.Dense(3))
    assert count_flops(on(inputs, each)) == 10 * 2 * 8 * 3
    frames = keras.Input((4, 6, 6, 2))
    kernels = 4 * 3 * 3 * (2 * 5 + 5 * 5)
    net = on(frames, layers.ConvLSTM2D(5, 3, padding="same"))
    assert count_flops(net) == 4 * 2 * 36 * kernels


class Head(layers.Layer):
    """A layer of a user's, with a layer inside and products of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)
        self.seed = keras.random.SeedGenerator(0)

    def build(self, shape):
        self.dense.build(shape)
        self.kernel = self.add_weight(shape=(4, 2))

    def call(self, x):
        noise = keras.random.normal(ops.shape(x), seed=self.seed)
        return self.dense(self.dense(x + noise)) @ self.kernel


def test_own_layers():
    assert count_flops(small(Head(), shape=(4,))) == 2 * (16 + 16 + 8)


@pytest.mark.parametrize(
    ("function", "flops"),
    [
        (lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1))), 2 * 5 * 5 * 3),
        (lambda x: ops.tensordot(x, x, axes=[[1, 2], [1, 2]]), 2 * 15),
        (lambda x: ops.tensordot(x, ops.ones((3, 4)), axes=1), 2 * 15 * 4),
        (lambda x: ops.dot(x, ops.ones((3, 4))), 2 * 15 * 4),
        (lambda x: ops.inner(x, ops.ones((4, 3))), 2 * 15 * 4),
        (lambda x: ops.einsum("bij,bkj->bik", x, x), 2 * 5 * 5 * 3),
        (lambda x: ops.einsum("...j,jk", x, ops.ones((3, 4))), 2 * 15 * 4),
        (lambda x: ops.einsum("bij,bij->bij", x, x), 0),
        # First (5, 3) with (3, 4), then (5, 4) with (4, 2).
        (
            lambda x: ops.einsum("bij,jk,kl->bil", x, ops.ones((3, 4)), ops.ones((4, 2))),
            2 * 5 * 3 * 4 + 2 * 5 * 4 * 2,
        ),
        (lambda x: ops.sum(ops.exp(x) * x, axis=1), 0),
    ],
)
def test_operations_that_are_no_layers(function, flops):
    assert count_flops(on(keras.Input((5, 3)), function)) == flops


def test_leaves_the_model_as_it_was():
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(2, 4)
    net = keras.Model(inputs, Head()(layers.Dense(4)(attention(inputs, inputs)) + 1.0))
    everything = [*net._flatten_layers(), *net.operations]
    notes = [(len(o._inbound_nodes), len(o._outbound_nodes)) for o in everything]
    kept = [set(vars(o)) for o in everything]
    values = [ops.convert_to_numpy(v).copy() for v in net.variables]
    seed = ops.convert_to_numpy(net.layers[-1].seed.state).copy()
    name = layers.Add().name
    count_flops(net)
    assert [(len(o._inbound_nodes), len(o._outbound_nodes)) for o in everything] == notes
    assert [set(vars(o)) for o in everything] == kept
    for before, variable in zip(values, net.variables, strict=True):
        np.testing.assert_array_equal(before, ops.convert_to_numpy(variable))
    np.testing.assert_array_equal(seed, ops.convert_to_numpy(net.layers[-1].seed.state))
    # The next name is the next one, as if nothing had been made in between.
    assert _number(layers.Add().name) == _number(name) + 1
    assert net.get_layer(attention.name).output is attention.output


def _number(name):
    return int(name.partition("_")[2] or 0)


def test_sizes_that_the_model_leaves_open():
    net = small(layers.Conv2D(4, 3, padding="same"), shape=(None, None, 3))
    assert count_flops(net, (10, 8, 3)) == 2 * 80 * 27 * 4
    inputs = [keras.Input((None, 3), name="a"), keras.Input((2,), name="b")]
    both = [layers.Dense(4)(inputs[0]), layers.Dense(5)(inputs[1])]
    net = keras.Model(inputs, both)
    want = 2 * 7 * 3 * 4 + 2 * 2 * 5
    assert count_flops(net, [(7, 3), (2,)]) == count_flops(net, {"b": (2,), "a": (7, 3)}) == want


def test_fixed_batch_size_counts_one_sample():
    inputs = keras.Input(batch_shape=(4, 6))
    x = ops.reshape(layers.Dense(6)(inputs), (8, 3))
    assert count_flops(keras.Model(inputs, layers.Dense(2)(x))) == 2 * 36 + 2 * 2 * 3 * 2


def test_other_attention_by_hand():
    q, k = keras.Input((6, 8)), keras.Input((9, 8))
    dot = 2 * 6 * 9 * 8
    assert count_flops(keras.Model([q, k], layers.Attention()([q, k]))) == 2 * dot
    assert count_flops(keras.Model([q, k], layers.AdditiveAttention()([q, k]))) == dot
    grouped = layers.GroupQueryAttention(head_dim=4, num_query_heads=4, num_key_value_heads=2)
    work = 6 * 8 * 16 + 2 * 9 * 8 * 8 + 2 * 4 * 6 * 9 * 4 + 6 * 16 * 8
    assert count_flops(keras.Model([q, k], grouped(q, k))) == 2 * work


def test_layers_that_only_training_knows_are_not_run():
    shape = (9, 7, 3)
    noise = [layers.RandomRotation(0.1), layers.GaussianNoise(0.1)]
    net = small(*noise, layers.Conv2D(2, 3), shape=shape)
    assert count_flops(net) == 2 * 7 * 5 * 9 * 3 * 2
    policies = [RandAugment(value_range=(0, 1)), RandomErasing()]
    augmented = small(*policies, layers.Conv2D(2, 3), shape=shape)
    assert count_flops(augmented) == count_flops(net)


def test_layers_that_keras_ops_does_not_make_count_nothing():
    inputs = keras.Input((8, 8, 3))
    x = layers.RandomFlip()(layers.Rescaling(1 / 255)(layers.Resizing(4, 4)(inputs)))
    x = layers.Activation("hard_silu")(layers.BatchNormalization(scale=False)(x))
    assert count_flops(keras.Model(inputs, layers.Conv2D(2, 3)(x))) == 2 * 4 * 27 * 2


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (None, r"Give them as `input_shapes`.*'a' of shape \(None, None, 3\)"),
        ((7, 3), r"must have 2 shape"),
        ([(7, 3), (2,), (2,)], r"must have 2 shape"),
        ([(7, 4), (2,)], r"'a' has the shape \(None, 3\)"),
        ([(7,), (2,)], r"'a' has the shape \(None, 3\)"),
        ({"a": (7, 3)}, r"each of the inputs \['a', 'b'\]"),
    ],
)
def test_shapes_that_do_not_fit(shapes, message):
    inputs = [keras.Input((None, 3), name="a"), keras.Input((2,), name="b")]
    net = keras.Model(inputs, [layers.Dense(4)(x) for x in inputs])
    with pytest.raises(ValueError, match=message) as error:
        count_flops(net, shapes)
    assert "Received: " in str(error.value)


class Foreign(layers.Layer):
    """A layer that computes with NumPy, so that what it does is in no graph."""

    def call(self, x):
        return np.asarray(x) * 2

    def compute_output_shape(self, shape):
        return shape


def test_what_cannot_be_counted_is_named():
    loop = on(keras.Input((5,)), lambda x: ops.fori_loop(0, 3, lambda i, y: y * 2.0, x))
    with pytest.raises(ValueError, match=r"'fori_loop.*runs its body.*Received: <"):
        count_flops(loop)
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), Foreign(name="alien")])
    net = keras.Sequential([keras.Input((4,)), inner])
    with pytest.raises(ValueError, match=r"FLOPs of 'alien' \(Foreign\) .*`keras.ops`.*Received"):
        count_flops(net)
    assert not any("symbolic_call" in vars(layer) for layer in net._flatten_layers())
    quantized = small(layers.Dense(4, name="whole"), shape=(4,))
    quantized.layers[0].quantize("int8")
    with pytest.raises(ValueError, match=r"'whole' .*quantized; count the model before"):
        count_flops(quantized)


def test_models_without_a_graph():
    with pytest.raises(ValueError, match=r"is not built.*Received"):
        count_flops(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match=r"must be a `keras.Model`.*Received"):
        count_flops(None)
