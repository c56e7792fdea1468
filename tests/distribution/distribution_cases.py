"""Trainings that one device and several must end alike: a row each.

A row is what the model is made of, what goes to `compile`, and what goes to `fit`.
"""

import contextlib

import keras
import numpy as np

L = keras.layers
RNG = np.random.default_rng(0)
X = RNG.normal(size=(46, 6)).astype("float32")
Y = RNG.normal(size=(46, 3)).astype("float32")
C = RNG.integers(0, 3, size=(46,))
W = RNG.uniform(0.1, 3, size=(46,)).astype("float32")
# Sequences whose lengths differ much between the parts of a batch.
S = RNG.normal(size=(46, 5, 6)).astype("float32")
S[np.arange(5)[None] >= (1 + np.arange(46) % 12 // 3)[:, None]] = 0
IMAGES = RNG.normal(2.0, 3.0, size=(46, 6, 6, 2)).astype("float32")
TOKENS = RNG.integers(0, 10, size=(46, 4))


def dense(**kwargs):
    """A small network; the arguments go to its hidden layer."""
    hidden = L.Dense(8, activation="tanh", **kwargs)
    return keras.Sequential([keras.Input((6,)), hidden, L.Dense(3)])


def unbuilt():
    return keras.Sequential([L.Dense(8, activation="tanh"), L.Dense(3)])


def two_outputs():
    inputs = keras.Input((6,))
    hidden = L.Dense(8, activation="tanh")(inputs)
    return keras.Model(
        inputs, {"a": L.Dense(3, name="a")(hidden), "b": L.Dense(1, name="b")(hidden)}
    )


def masked():
    inputs = keras.Input((5, 6))
    return keras.Model(inputs, L.Dense(3)(L.Masking()(inputs)))


def norm(layer=L.BatchNormalization):
    parts = [L.Conv2D(4, 3, use_bias=False), layer(momentum=0.5), L.ReLU(), L.Flatten(), L.Dense(3)]
    return keras.Sequential([keras.Input((6, 6, 2)), *parts])


def embedding():
    return keras.Sequential([keras.Input((4,)), L.Embedding(10, 5), L.Flatten(), L.Dense(3)])


class Adding(L.Layer):
    """A layer that adds a mean over samples to the loss."""

    def call(self, x):
        self.add_loss(keras.ops.mean(x**2))
        return x


def adding():
    return keras.Sequential([keras.Input((6,)), L.Dense(4), Adding(), L.Dense(3)])


class OwnStep(keras.Model):
    """A model with a `train_step` that uses Keras' loss."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, x):
        return self.dense(x)

    def train_step(self, *args):
        return super().train_step(*args)


def two_inputs():
    inputs = {name: keras.Input((6,), name=name) for name in ("left", "right")}
    x = L.concatenate([L.Dense(8, activation="relu")(i) for i in inputs.values()])
    return keras.Model(inputs, L.Dense(3, activation="softmax")(x))


class Subclassed(keras.Model):
    """A model that has no weights before its first call."""

    def __init__(self):
        super().__init__()
        self.hidden = L.Dense(8, activation="relu")
        self.head = L.Dense(3)

    def call(self, inputs, training=False):
        return self.head(self.hidden(inputs))


def mixed():
    """A network in mixed precision, which scripts set for all layers.

    Without biases: they begin at zero, and so are nothing but sums of rounded gradients.
    """
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        hidden = L.Dense(8, activation="tanh", use_bias=False)
        return keras.Sequential([keras.Input((6,)), hidden, L.Dense(3, use_bias=False)])
    finally:
        keras.config.set_dtype_policy("float32")


def sgd(**kwargs):
    return lambda: keras.optimizers.SGD(0.1, **kwargs)


def scaled():
    return keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1, global_clipnorm=0.5), initial_scale=8.0
    )


def generator():
    for i in range(0, 46, 12):
        yield X[i : i + 12], Y[i : i + 12]


def repeating():
    while True:
        yield from generator()


def dataset(*arrays, size=20):
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


DATA = {"x": X, "y": Y}
PICTURES = {"x": IMAGES, "y": Y}
EVEN = {"x": X[:32], "y": Y[:32], "batch_size": 16}
# Batches of 20, 20 and 6: of the last, four devices get 1, 2, 1 and 2.
ODD = {"batch_size": 20}
EMA = {"use_ema": True, "ema_momentum": 0.5}


def _class_loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


# name: (model, optimizer, what else goes to compile, what goes to fit)
CASES = {
    "even batches": (dense, sgd(momentum=0.9), {"metrics": ["mae"]}, EVEN),
    "uneven last batch": (
        dense,
        sgd(),
        {"metrics": ["mae"]},
        {**DATA, **ODD, "validation_data": (X[:21], Y[:21], W[:21])},
    ),
    "last batch of one": (dense, sgd(), {"metrics": ["mae"]}, {"x": X[:33], "y": Y[:33]}),
    "sample weights": (
        dense,
        sgd(),
        {"metrics": ["mae"], "weighted_metrics": ["mse"]},
        {**DATA, **ODD, "sample_weight": W},
    ),
    "class weights": (
        dense,
        sgd(),
        {"loss": _class_loss, "metrics": ["accuracy"]},
        {"x": X, "y": C, **ODD, "class_weight": {0: 0.2, 1: 1.0, 2: 5.0}},
    ),
    "mean by sample weight": (
        dense,
        sgd(),
        {"loss": lambda: keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")},
        {**DATA, **ODD, "sample_weight": W},
    ),
    "sum of losses": (
        dense,
        lambda: keras.optimizers.SGD(0.005),
        {"loss": lambda: keras.losses.MeanSquaredError(reduction="sum")},
        {**DATA, **ODD},
    ),
    "masks": (masked, sgd(), {}, {"x": S, "y": np.repeat(Y[:, None], 5, 1), **ODD}),
    "regularizers": (
        lambda: dense(kernel_regularizer="l2", activity_regularizer="l1"),
        sgd(),
        {},
        {**DATA, **ODD},
    ),
    "clipnorm": (dense, sgd(clipnorm=0.1), {}, {**DATA, **ODD}),
    "clipvalue": (dense, sgd(clipvalue=0.05), {}, {**DATA, **ODD}),
    "accumulation, averages": (
        dense,
        sgd(gradient_accumulation_steps=2, momentum=0.9, weight_decay=0.01, clipnorm=0.2, **EMA),
        {},
        {**DATA, **ODD},
    ),
    "ema_overwrite_frequency": (dense, sgd(ema_overwrite_frequency=2, **EMA), {}, {**DATA, **ODD}),
    "loss scaling, global_clipnorm": (dense, scaled, {}, {**DATA, **ODD}),
    "batch norm": (norm, sgd(), {}, {**PICTURES, **ODD}),
    "several outputs": (
        two_outputs,
        sgd(),
        {"loss": {"a": "mse", "b": "mae"}, "loss_weights": {"a": 1.0, "b": 0.3}},
        {"x": X, "y": {"a": Y, "b": Y[:, :1]}, **ODD},
    ),
    "embedding, clipnorm": (embedding, sgd(clipnorm=0.05), {}, {"x": TOKENS, "y": Y, **ODD}),
    "steps_per_execution": (dense, sgd(), {"steps_per_execution": 3}, {**DATA, "batch_size": 8}),
    "Python generator": (
        unbuilt,
        sgd(),
        {"metrics": ["mae"]},
        lambda: {"x": repeating(), "steps_per_epoch": 4},
    ),
    "unknown length, steps_per_execution": (
        dense,
        sgd(),
        {"steps_per_execution": 2},
        lambda: {"x": dataset(X, Y).filter(lambda *batch: True)},
    ),
    "tf.data": (unbuilt, sgd(), {}, lambda: {"x": dataset(X, Y)}),
    "own train_step, eagerly": (OwnStep, sgd(clipnorm=0.1), {"run_eagerly": True}, {**DATA, **ODD}),
}


# What several processes train, too. On torch a case costs a part of a second; on JAX all cases are
# one program over all devices, which four devices of one process run as well.
PROCESS_CASES = {
    "tensorflow": [
        "even batches",
        "uneven last batch",
        "sample weights",
        "accumulation, averages",
        "batch norm",
        "steps_per_execution",
        "Python generator",
    ],
    "jax": [
        "uneven last batch",
        "last batch of one",
        "class weights",
        "batch norm",
        "steps_per_execution",
    ],
    # Keras' trainer of torch makes one step at a time.
    "torch": [name for name in CASES if "steps_per_execution" not in name],
}
# Rows as in scripts that know nothing of processes.
FOREIGN = {
    "two inputs": (
        two_inputs,
        keras.optimizers.Adam,
        {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]},
        {"x": {"left": X, "right": X[::-1].copy()}, "y": C, **ODD},
    ),
    "subclassed": (Subclassed, sgd(), {}, {**DATA, **ODD}),
    "mixed precision": (mixed, sgd(), {"metrics": ["mae"]}, {**DATA, **ODD}),
    "unknown length": (
        dense,
        sgd(),
        # Keras' trainer of torch makes one at a time.
        {"steps_per_execution": 1 if keras.backend.backend() == "torch" else 2},
        lambda: {"x": dataset(X, Y).filter(lambda *batch: True)},
    ),
}


def train(name, scope=contextlib.nullcontext, epochs=2, place=None):
    """Returns the history, the weights and the predictions of one case.

    Args:
        name: The row.
        scope: A function that returns the context in which the model is made.
        epochs: How long.
        place: A function that puts the compiled model on devices.
    """
    make, optimizer, compiled, data = {**CASES, **FOREIGN}[name]
    keras.utils.set_random_seed(3)
    loss = compiled.get("loss", "mse")
    with scope():
        model = make()
        model.compile(
            optimizer=optimizer(), **{**compiled, "loss": loss() if callable(loss) else loss}
        )
    if place is not None:
        place(model)
    data = data() if callable(data) else data
    history = model.fit(**data, epochs=epochs, shuffle=False, verbose=0).history
    predicts = "validation_data" in data
    outputs = model.predict(data["x"][:31], batch_size=20, verbose=0) if predicts else ()
    return history, model.get_weights(), outputs


def difference(one, several):
    """The largest difference of two trainings, relative to the largest number of each array."""
    worst = 0.0
    for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(several), strict=True):
        a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
        gap = np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)
        worst = max(worst, float(gap) if np.isfinite(gap) else float("inf"))
    return worst
