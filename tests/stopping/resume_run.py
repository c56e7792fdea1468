"""A small training that may be killed and started again: what tests and benchmarks run in a child.

A case is a dictionary of plain values; `train` runs its script once, from the model to the result.
"""

import os
import pathlib
import random
import signal

import keras
import numpy as np

from keras_optkit.callbacks import LearningRate, Pruning
from keras_optkit.pruning import PolynomialDecay
from keras_optkit.schedules import CosineDecay
from keras_optkit.stopping.resume import Resume

SAMPLES, BATCH = 80, 16


def data():
    """80 vectors of 6 numbers, and which of 3 classes each is in."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 6)).astype("float32")
    y = (x[:, 0] > 0).astype("int32") + (x[:, 1] > 0.5)
    return x, y


class Shuffled(keras.utils.PyDataset):
    """Data that shuffles its indices after every epoch and adds noise to its items."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y
        self.indices = np.arange(len(x))
        self.order, self.noise = np.random.default_rng(1), np.random.default_rng(2)

    def __len__(self):
        return len(self.x) // BATCH

    def __getitem__(self, index):
        rows = self.indices[index * BATCH : (index + 1) * BATCH]
        x = self.x[rows]
        return x + self.noise.normal(0, 0.1, x.shape).astype("float32"), self.y[rows]

    def on_epoch_end(self):
        self.order.shuffle(self.indices)


def inputs(kind):
    """Returns the arguments of `fit` for a kind of input."""
    x, y = data()
    if kind == "arrays":
        return {"x": x, "y": y, "batch_size": BATCH}
    if kind == "arrays, steps":
        return {"x": x, "y": y, "batch_size": BATCH, "steps_per_epoch": 3}
    if kind == "py_dataset":
        return {"x": Shuffled(x, y), "shuffle": True}
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(SAMPLES, seed=1)
    if kind == "tf.data":
        return {"x": dataset.batch(BATCH).prefetch(2)}
    if kind == "tf.data, repeated":
        return {"x": dataset.repeat().batch(BATCH), "steps_per_epoch": 7}
    if kind == "tf.data, unknown length":
        return {"x": dataset.batch(BATCH).filter(lambda x, y: True)}
    raise ValueError(kind)


def optimizer(kind):
    """Returns an optimizer with as much state as there is."""
    if kind == "sgd":
        return keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9)
    if kind == "accumulating":
        return keras.optimizers.AdamW(0.02, gradient_accumulation_steps=3, use_ema=True)
    if kind == "scaled":
        inner = keras.optimizers.Adam(0.02)
        return keras.optimizers.LossScaleOptimizer(inner, initial_scale=4, dynamic_growth_steps=3)
    raise ValueError(kind)


def model(case):
    """Returns a compiled classifier with Dropout and BatchNorm."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(case.get("units", 12)),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(
        optimizer(case.get("optimizer", "sgd")),
        loss,
        metrics=["accuracy"],
        steps_per_execution=case.get("steps_per_execution", 1),
    )
    return built


class Kill(keras.callbacks.Callback):
    """Kills its own process before a batch, counted over the process."""

    def __init__(self, batch):
        super().__init__()
        self.left = batch

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


def kill_in(function, call):
    """Kills the process at a call of a function of `os`, as in the middle of a save."""
    own, calls = getattr(os, function), [0]

    def wrapped(*args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return own(*args, **kwargs)

    setattr(os, function, wrapped)


def callbacks(case, folder):
    """Returns the callbacks of a case, with `Resume` at its place."""
    keras_callbacks = keras.callbacks
    found = {
        "stop": lambda: keras_callbacks.EarlyStopping(
            "val_loss", patience=case.get("patience", 3), restore_best_weights=True
        ),
        "stop on loss": lambda: keras_callbacks.EarlyStopping("loss", patience=4),
        "plateau": lambda: keras_callbacks.ReduceLROnPlateau(
            "val_loss", factor=0.5, patience=1, cooldown=1
        ),
        "scheduler": lambda: keras_callbacks.LearningRateScheduler(lambda e, rate: rate * 0.9),
        "best": lambda: keras_callbacks.ModelCheckpoint(
            str(folder / "best.weights.h5"), save_best_only=True, save_weights_only=True
        ),
        "csv": lambda: keras_callbacks.CSVLogger(str(folder / "log.csv")),
        "pruning": lambda: Pruning(PolynomialDecay(0.0, 0.6, 2, 20, frequency=3)),
        "rate": lambda: LearningRate(CosineDecay(0.05)),
    }
    resume = Resume(folder / "resume", every=case.get("every", "1ep"), verbose=0)
    names = case.get("callbacks", ["stop", "plateau", "pruning", "csv", "best", "resume"])
    made = [resume if name == "resume" else found[name]() for name in names]
    return made + ([Kill(case["kill_at"])] if case.get("kill_at") is not None else [])


def train(case, folder):
    """Runs the training of a case once; returns its result as arrays and plain values."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(case.get("seed", 0))
    if case.get("kill_in"):
        kill_in(*case["kill_in"])
    x, y = data()
    net = model(case)
    used = callbacks(case, folder)
    history = net.fit(
        **inputs(case.get("input", "arrays")),
        epochs=case.get("epochs", 6),
        validation_data=(x[:32], y[:32]),
        callbacks=used,
        verbose=0,
    )
    resumed = [c.resumed_from for c in used if isinstance(c, Resume)]
    result = {"history": history.history, "epochs": history.epoch}
    arrays = [np.array(keras.ops.convert_to_numpy(v)) for v in net.variables]
    arrays += [np.array(keras.ops.convert_to_numpy(v)) for v in net.optimizer.variables]
    result["draws"] = [random.random(), float(np.random.random())]
    log = folder / "log.csv"
    result["csv"] = log.read_text() if log.exists() else ""
    return result, arrays, resumed[0] if resumed else None
