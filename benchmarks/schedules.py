"""Seconds per training step under each schedule, over the same step at a constant rate.

Every variant trains a model of its own through `model.fit`, each `fit` in a thread of its own. The
threads take turns, one epoch each, so that drift of the machine hits all alike: a ratio is that of
an epoch to the constant rate's epochs of the same round, and the table shows the median over the
rounds. The first epoch, in which the step is compiled, is left out. "again" is the constant rate a
second time: what its ratio differs from 1 is noise. Beside it, what people write by hand: a
callback that assigns the rate before each batch.

`logs` says whether a step's logs stay on the device ("async") or every step waits for them, which
Keras 3.15 does on TensorFlow whatever the callbacks.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/schedules.py [ROUNDS]
"""

import math
import statistics
import sys
import threading
import time

import keras
import numpy as np

from keras_optkit import schedules
from keras_optkit.callbacks import LearningRate, ReduceOnPlateau

STEPS, BATCH = 40, 64
RATE = 0.01
SCHEDULES = {
    "Constant": lambda: schedules.Constant(RATE),
    "StepDecay": lambda: schedules.StepDecay(RATE, "2ep"),
    "MultiStepDecay": lambda: schedules.MultiStepDecay(RATE, [0.3, 0.6, 0.9]),
    "ExponentialDecay": lambda: schedules.ExponentialDecay(RATE, "1ep", 0.9),
    "LinearDecay": lambda: schedules.LinearDecay(RATE),
    "PolynomialDecay": lambda: schedules.PolynomialDecay(RATE, power=2),
    "CosineDecay": lambda: schedules.CosineDecay(RATE),
    "CosineDecay, warm-up": lambda: schedules.CosineDecay(RATE).with_warmup("1ep"),
    "CosineRestarts": lambda: schedules.CosineRestarts(RATE, "2ep", t_mul=2, m_mul=0.5),
    "OneCycle": lambda: schedules.OneCycle(RATE),
    "OneCycle, momentum": lambda: schedules.OneCycle(RATE, cycle_momentum=True),
    "Cyclic": lambda: schedules.Cyclic(RATE / 10, RATE, "2ep"),
    "WarmupStableDecay": lambda: schedules.WarmupStableDecay(RATE),
    "InverseSqrt": lambda: schedules.InverseSqrt(RATE, 20),
    "Sequence": lambda: schedules.Sequence(
        [schedules.Constant(RATE), schedules.CosineDecay(RATE)], [0.5]
    ),
    "Product": lambda: schedules.Product(
        schedules.CosineDecay(RATE), schedules.StepDecay(1.0, "2ep", 0.5)
    ),
}


class SetsRate(keras.callbacks.Callback):
    """What people write by hand: the rate is assigned before every batch."""

    def on_train_begin(self, logs=None):
        self.step = 0

    def on_train_batch_begin(self, batch, logs=None):
        share = self.step / (STEPS * self.params["epochs"])
        self.model.optimizer.learning_rate = RATE * (1 + math.cos(math.pi * share)) / 2
        self.step += 1

    def on_train_batch_end(self, batch, logs=None):
        pass


VARIANTS = {
    "a constant rate": list,
    "again": list,
    **{name: lambda make=make: [LearningRate(make())] for name, make in SCHEDULES.items()},
    "ReduceOnPlateau": lambda: [ReduceOnPlateau("loss")],
    "set by hand per batch": lambda: [SetsRate()],
}


class Turns(keras.callbacks.Callback):
    """Lets the epochs of several `fit` calls take turns, and times them."""

    turn = 0
    changed = threading.Condition()

    def __init__(self, index: int):
        super().__init__()
        self.index = index
        self.seconds: list[float] = []

    def _wait(self):
        with Turns.changed:
            Turns.changed.wait_for(lambda: Turns.turn == self.index)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self._wait()
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)
        with Turns.changed:
            Turns.turn = (self.index + 1) % len(VARIANTS)
            Turns.changed.notify_all()
        if epoch + 1 < self.params["epochs"]:
            self._wait()


def make_model() -> keras.Model:
    """A small convolutional net with momentum."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu"),
            keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), loss)
    return model


def measure(rounds: int) -> None:
    """Trains all variants in turn and prints the table."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, STEPS * BATCH)
    turns, threads, logs = {}, [], {}
    for index, (name, make) in enumerate(VARIANTS.items()):
        model, parts = make_model(), make()
        turns[name] = Turns(index)
        made = keras.callbacks.CallbackList(parts, model=make_model())
        logs[name] = "async" if made._async_train else "every step waits"
        kwargs = {"batch_size": BATCH, "epochs": rounds + 1, "verbose": 0}
        kwargs["callbacks"] = [*parts, turns[name]]
        threads.append(threading.Thread(target=model.fit, args=(x, y), kwargs=kwargs))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain = [turns[name].seconds[1:] for name in ("a constant rate", "again")]
    print(f"Keras {keras.__version__}, {keras.backend.backend()}, {rounds} rounds of {STEPS} steps")
    print(f"{'':24}{'ms a step':>10}{'ratio':>8}   logs")
    for name in VARIANTS:
        seconds = turns[name].seconds[1:]
        own = name in ("a constant rate", "again")
        base = plain[0] if own else [(a + b) / 2 for a, b in zip(*plain, strict=True)]
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        step = statistics.median(seconds) / STEPS * 1000
        print(f"{name:24}{step:10.3f}{ratio:8.3f}   {logs[name]}")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
