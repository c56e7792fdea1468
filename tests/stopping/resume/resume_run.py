"""A small training that may be killed and started again: what tests and benchmarks run in a child.

A case is a dictionary of plain values; `train` runs its script once, from the model to the result.
"""

import multiprocessing
import os
import pathlib
import random
import signal

import keras
import numpy as np

from keras_optkit.callbacks import LearningRate, Pruning
from keras_optkit.pruning import PolynomialDecay
from keras_optkit.schedules import CosineDecay
from keras_optkit.stopping.resume.resume import Resume

BATCH = 16


def data(samples=80):
    """Vectors of 6 numbers, and which of 3 classes each is in, seen through noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 6)).astype("float32")
    noisy = x + rng.normal(0, 0.5, x.shape)
    y = (noisy[:, 0] > 0).astype("int32") + (noisy[:, 1] > 0.5)
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


def inputs(kind, x, y):
    """Returns the arguments of `fit` for a kind of input."""
    if kind == "arrays":
        return {"x": x, "y": y, "batch_size": BATCH}
    if kind == "arrays, steps":
        return {"x": x, "y": y, "batch_size": BATCH, "steps_per_epoch": 3}
    if kind == "py_dataset":
        return {"x": Shuffled(x, y), "shuffle": True}
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=1)
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


class Report(keras.callbacks.Callback):
    """Tells whoever started the process that training has begun, and that a step was made."""

    def __init__(self, tell):
        super().__init__()
        self._tell = tell

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def on_train_begin(self, logs=None):
        self._tell("begun")
        self._stepped = False

    def on_train_batch_begin(self, batch, logs=None):
        if not self._stepped:
            self._tell("stepping")
        self._stepped = True


def train(case, folder, tell=None):
    """Runs the training of a case once, as its script would.

    Returns a dictionary of plain values and a list of arrays: whatever the end of the training is
    made of, for two runs to be compared. The position that it was resumed from comes third.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(case.get("seed", 0))
    if case.get("kill_in"):
        kill_in(*case["kill_in"])
    x, y = data(case.get("samples", 80))
    net = model(case)
    used = callbacks(case, folder) + ([Report(tell)] if tell else [])
    history = net.fit(
        **inputs(case.get("input", "arrays"), x, y),
        epochs=case.get("epochs", 6),
        validation_data=(x[:32], y[:32]),
        callbacks=used,
        verbose=0,
    )
    variables = [*net.variables, *net.optimizer.variables]
    arrays = [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
    log = folder / "log.csv"
    end = {
        "history": history.history,
        "epochs": history.epoch,
        "stopped": [c.stopped_epoch for c in used if isinstance(c, keras.callbacks.EarlyStopping)],
        "draws": [random.random(), float(np.random.random())],
        "csv": log.read_text() if log.exists() else "",
    }
    return end, arrays, next(c.resumed_from for c in used if isinstance(c, Resume))


def differences(one, other):
    """Returns what differs between the ends of two runs: names, and indices of arrays."""
    found = [name for name in one[0] if one[0][name] != other[0][name]]
    found += ["number of variables"] if len(one[1]) != len(other[1]) else []
    for i, (a, b) in enumerate(zip(one[1], other[1], strict=False)):
        if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes()):
            found.append(i)
    return found


def _child(case, folder, connection):
    connection.send(train(case, folder, lambda text: connection.send(text)))


def forks():
    """Returns where processes are started from: one that has Keras imported, and nothing run."""
    # Many small processes beside each other: one thread each.
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
    context = multiprocessing.get_context("forkserver")
    # By names that are found from any folder: Python 3.11 tells the server no path of this module.
    parts = ("stopping.resume.resume", "callbacks", "pruning", "schedules")
    context.set_forkserver_preload(["keras", *(f"keras_optkit.{part}" for part in parts)])
    return context


def start(context, case, folder):
    """Starts a case in a process of its own; returns it and the end of a pipe to listen at."""
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(case, str(folder), there))
    process.start()
    there.close()
    return process, here


def run(context, case, folder):
    """Runs a case in a process of its own; returns its end, or `None` if it was killed."""
    process, connection = start(context, case, folder)
    end = None
    try:
        while end is None:
            received = connection.recv()
            end = received if not isinstance(received, str) else None
    except EOFError:
        pass
    process.join()
    connection.close()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"The training failed with exit code {process.exitcode}: {case}")
    return end
