import keras
import pytest

from keras_optkit.compression.pruning.select import select_kernels
from keras_optkit.layers import ConvBNAct

L = keras.layers


def paths(model, select=None):
    return [variable.path for variable in select_kernels(model, select)]


@pytest.fixture
def zoo():
    """One of every kind of layer that matters here."""
    image = keras.Input((8, 8, 4), name="image")
    words = keras.Input((5,), name="words")
    x = L.Conv2D(8, 3, name="conv")(image)
    x = ConvBNAct(8, 3, name="block")(x)
    x = L.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = L.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    x = L.BatchNormalization(name="norm")(x)
    x = L.GlobalAveragePooling2D()(x)
    y = L.Embedding(10, 8, name="embedding")(words)
    y = L.MultiHeadAttention(2, 4, name="attention")(y, y)
    y = L.GRU(8, name="gru")(y)
    outputs = L.Dense(2, name="head")(L.concatenate([x, y]))
    return keras.Model([image, words], outputs)


def test_the_default_takes_plain_kernels_only(zoo):
    found = paths(zoo)
    wanted = ("conv/kernel", "block/conv/kernel", "separable/pointwise_kernel", "head/kernel")
    assert [p for p in found if not p.startswith("attention")] == list(wanted)
    attention = {p.split("/")[1] for p in found if p.startswith("attention")}
    assert attention == {"query", "key", "value", "attention_output"}


def test_what_is_left_out_can_be_asked_for(zoo):
    assert paths(zoo, L.Embedding) == ["embedding/embeddings"]
    assert paths(zoo, zoo.get_layer("depthwise")) == ["depthwise/kernel"]
    assert paths(zoo, lambda layer: layer.name == "head") == ["head/kernel"]
    assert paths(zoo, [L.DepthwiseConv2D, zoo.get_layer("head")]) == [
        "depthwise/kernel",
        "head/kernel",
    ]
    assert paths(zoo, "gru.*recurrent") == ["gru/gru_cell/recurrent_kernel"]


def test_a_shared_layer_is_pruned_once():
    shared = L.Dense(4)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert len(select_kernels(model)) == 1


def test_nested_and_subclassed_models():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.body = keras.Sequential([L.Dense(4), L.Dense(4)])
            self.heads = [L.Dense(2), L.Dense(1)]

        def call(self, inputs):
            x = self.body(inputs)
            return [head(x) for head in self.heads]

    model = Own()
    with pytest.raises(ValueError, match="no weights yet"):
        select_kernels(model)
    model(keras.ops.ones((1, 4)))
    assert len(select_kernels(model)) == 4


def test_frozen_layers_are_left_alone(zoo):
    zoo.get_layer("conv").trainable = False
    assert "conv/kernel" not in paths(zoo)


@pytest.mark.parametrize("select", ["convv", L.LSTM, lambda layer: False])
def test_nothing_selected_lists_what_could_be(zoo, select):
    with pytest.raises(ValueError, match="matches no trainable variable.*head/kernel"):
        select_kernels(zoo, select)


def test_what_is_no_selection_is_told(zoo):
    with pytest.raises(ValueError, match="Received: select=3"):
        select_kernels(zoo, 3)
