"""Small nets of every kind, converted once for all tests: a child process costs seconds."""

import functools

import keras
import numpy as np
from exported_layers import CentredBatch, FrozenNoise, InverseError
from keras import layers

from keras_optkit.compression.export.check import Request
from keras_optkit.compression.export.litert import convert_and_check
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.signature import input_specs

MODES = (None, "sparse", "float16", "dynamic", "int8")


def randomize(model, seed=0):
    """Gives every weight, BatchNorm statistics among them, a value of its own."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed" in weight.path or "count" in weight.path:
            continue
        low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.5
        weight.assign(rng.uniform(low, low + 1.0, weight.shape).astype("float32"))
    return model


def conv_net():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(16, 5),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return randomize(model)


def pruned_net():
    """`conv_net` with three quarters of its kernels set to zero."""
    model = conv_net()
    rng = np.random.default_rng(1)
    for layer in model.layers:
        for weight in layer.trainable_weights:
            if "kernel" in weight.path:
                values = keras.ops.convert_to_numpy(weight)
                weight.assign(values * (rng.random(values.shape) < 0.25))
    return model


def several_net():
    """Inputs and outputs of one shape whose order is neither alphabetical nor reversed."""
    inputs = [keras.Input((4,), name=name) for name in ("zeta", "alpha", "mid-x")]
    scaled = [x * scale for x, scale in zip(inputs, (1.0, 10.0, 100.0), strict=True)]
    x = layers.Concatenate()(scaled)
    outputs = [layers.Dense(3, name="second")(x), layers.Dense(3, name="first")(x)]
    return randomize(keras.Model(inputs, outputs))


def dict_net():
    inputs = {"b": keras.Input((3,), name="b"), "a": keras.Input((2,), dtype="int32", name="a")}
    embedded = layers.Flatten()(layers.Embedding(5, 4)(inputs["a"]))
    x = layers.Dense(6, activation="relu")(layers.Concatenate()([inputs["b"], embedded]))
    shared = layers.Dense(2, name="shared")
    return randomize(keras.Model(inputs, {"v": shared(x), "u": shared(2 * x)}))


def augmented_net():
    """Random layers, an adapted normalization, a model in a model, computed in mixed precision."""
    policy = "mixed_float16"
    body = keras.Sequential(
        [keras.Input((4, 4, 2)), layers.Conv2D(4, 3, dtype=policy), layers.Flatten(dtype=policy)]
    )
    inputs = keras.Input((4, 4, 2))
    norm = layers.Normalization(mean=[2.1, 3.3], variance=[4.7, 1.3], dtype=policy)
    x = norm(layers.RandomFlip(dtype=policy)(inputs))
    x = layers.GaussianNoise(0.5, dtype=policy)(layers.RandomRotation(0.3, dtype=policy)(x))
    x = layers.Dropout(0.5, dtype=policy)(body(x))
    outputs = layers.Dense(3, dtype="float32")(x)
    return randomize(keras.Model(inputs, outputs))


def adapted_net():
    """A `Normalization` whose statistics are variables, in mixed precision."""
    norm = layers.Normalization(dtype="mixed_float16")
    norm.adapt(np.random.default_rng(0).normal(5.0, 3.0, (64, 4)).astype("float32"))
    dense = layers.Dense(3, dtype="mixed_float16")
    model = keras.Sequential([keras.Input((4,)), norm, dense])
    return model


def half_net():
    """All in float16, its weights and its input too."""
    half = "float16"
    inputs = keras.Input((4,), dtype=half)
    x = layers.Dense(5, activation="relu", dtype=half)(inputs)
    return randomize(keras.Model(inputs, layers.Dense(3, dtype=half)(x)))


def norm_first_net():
    """BatchNorms in front of convolutions, as in residual nets of the second kind."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="x"),
            *(
                layer
                for _ in range(2)
                for layer in (layers.BatchNormalization(), layers.Conv2D(8, 3))
            ),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    return randomize(model)


def float_net():
    """A net with an activation that has no int8 kernel."""
    dense = [layers.Dense(8), layers.ELU(name="mine"), layers.Dense(3)]
    return randomize(keras.Sequential([keras.Input((6,), name="x"), *dense]))


def sample(model, count=32, seed=0):
    """Inputs for a model, by name, of the size that its embeddings allow."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for spec in input_specs(model):
        shape = (count, *spec.shape[1:])
        is_int = "int" in spec.dtype
        arrays[spec.name] = rng.integers(0, 5, shape) if is_int else rng.normal(size=shape)
        arrays[spec.name] = arrays[spec.name].astype(spec.dtype)
    return arrays


class Converted:
    """A model, data for it, and its `.tflite` files by quantization."""

    def __init__(self, model, data):
        self.model, self.data, self.files = model, data, {}


def local_layer():
    class Local(layers.Layer):
        def call(self, x):
            return 2 * x

    return Local()


def refused():
    """Requests for models that cannot be converted, or not faithfully, or not everywhere."""
    inputs, sequence = keras.Input((6,)), keras.Input((5, 3))
    offset = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    offset.set_weights([np.full((4, 1), 0.01, "float32"), np.full((1,), 100.0, "float32")])
    return {
        "operation": Request(keras.Model(inputs, keras.ops.erfinv(inputs)), None, None),
        "layer": Request(keras.Sequential([inputs, InverseError(name="odd")]), None, None),
        "dense": Request(conv_net(), "sparse", None),
        "float": Request(float_net(), "int8_full", sample(float_net())),
        "noise": Request(keras.Sequential([inputs, FrozenNoise()]), None, None),
        "batch": Request(keras.Sequential([inputs, CentredBatch()]), None, None),
        "offset": Request(offset, "int8", sample(offset)),
        "loop": Request(keras.Model(sequence, layers.LSTM(4)(sequence)), None, None),
        "own": Request(keras.Sequential([inputs, local_layer()]), None, None),
    }


@functools.cache
def converted_nets():
    """Returns a `Converted` for each net by its name, and the results of `refused`."""
    nets = {
        "conv": (conv_net(), (None, "int8", "int8_full")),
        "pruned": (pruned_net(), MODES),
        "several": (several_net(), (None, "int8")),
        "dict": (dict_net(), (None, "int8", "int8_full")),
        "augmented": (augmented_net(), (None, "int8")),
        "adapted": (adapted_net(), (None,)),
        "half": (half_net(), (None,)),
        "before": (norm_first_net(), (None, "int8")),
    }
    found = {name: Converted(model, sample(model)) for name, (model, _) in nets.items()}
    plan = [(name, mode) for name, (_, modes) in nets.items() for mode in modes]
    requests = [Request(found[name].model, mode, found[name].data) for name, mode in plan]
    others = refused()
    results = convert_and_check([*requests, *others.values()])
    for (name, mode), content in zip(plan, results, strict=False):
        assert isinstance(content, bytes), content
        found[name].files[mode] = LiteRTModel.from_bytes(content)
    return found, dict(zip(others, results[len(plan) :], strict=True))
