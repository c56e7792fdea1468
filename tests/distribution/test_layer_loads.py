"""What layers cost, against sums made by hand."""

import keras
import pytest

from keras_optkit.distribution.layer_loads import layer_loads
from keras_optkit.distribution.model_units import model_units
from keras_optkit.export import count_flops

L = keras.layers


@pytest.fixture
def net():
    """A nested model, a layer that is called twice, a sum that is no layer."""
    inputs = keras.Input((6, 6, 2), name="x")
    block = keras.Sequential(
        [keras.Input((6, 6, 2)), L.Conv2D(2, 3, padding="same", name="conv"), L.ReLU(name="relu")],
        name="block",
    )
    x = block(inputs)
    x = L.Flatten(name="flat")(x + inputs)
    twice = L.Dense(72, name="twice")
    return keras.Model(inputs, L.Dense(3, name="head")(twice(twice(x))))


def loads(net, *args, **kwargs):
    units = model_units(net)
    found = layer_loads(net, units, *args, **kwargs)
    names = [unit.path.replace("_1", "") for unit in units]
    assert names[:2] == ["block/conv", "block/relu"]
    assert [name for name in names if not name.startswith("add")] == [
        "block/conv",
        "block/relu",
        "flat",
        "twice",
        "head",
    ]
    return found


def test_parameters(net):
    conv, twice, head = 3 * 3 * 2 * 2 + 2, 72 * 72 + 72, 72 * 3 + 3
    assert loads(net, "parameters") == [conv, 0, 0, 0, twice, head]


def test_flops_of_all_calls(net):
    found = loads(net, "flops")
    assert found == [2 * 36 * 9 * 2 * 2, 0, 0, 0, 2 * 2 * 72 * 72, 2 * 72 * 3]
    assert sum(found) == count_flops(net)


def test_memory_has_weights_slots_and_a_batch_of_outputs(net):
    found = loads(net, "memory", batch_size=10, slots=2)
    conv, twice, head = 3 * 3 * 2 * 2 + 2, 72 * 72 + 72, 72 * 3 + 3
    numbers = [3 * conv + 720, 720, 720, 720, 3 * twice + 2 * 720, 3 * head + 30]
    assert found == [4 * n for n in numbers]


def test_sizes_that_the_model_leaves_open():
    inputs = keras.Input((None, 4))
    model = keras.Model(inputs, L.Dense(3)(inputs))
    units = model_units(model)
    assert layer_loads(model, units, "parameters") == [15]
    assert layer_loads(model, units, "memory", 2, 0, (5, 4)) == [4 * (15 + 2 * 15)]
    for kind in ("flops", "memory"):
        with pytest.raises(ValueError, match=r"Give them as `input_shapes`.*Received: input"):
            layer_loads(model, units, kind)
