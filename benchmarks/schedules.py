"""Seconds per training step under each schedule, over the same step at a constant rate.

Every variant trains a model of its own through `model.fit` in a process of its own. The processes
take turns, one epoch each, so that drift of the machine hits all alike: a ratio is that of an epoch
to the constant rate's epochs of the same round, and the table shows the median over the rounds. The
first epoch, in which the step is compiled, is left out. "again" is the constant rate a second time:
what its ratio differs from 1 is noise. Beside it, what people write by hand: a callback that
assigns the rate before each batch.

"alone" is what the rate itself costs in microseconds: reading `optimizer.learning_rate` as the step
does, compiled on TensorFlow and JAX, over reading a constant one. It is far below the noise of the
ratios, and bounds what a schedule can add to a step.

`logs` says whether a step's logs stay on the device ("async") or every step waits for them, which
Keras 3.15 does on TensorFlow whatever the callbacks.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/schedules.py [ROUNDS]
"""

import math
import multiprocessing
import statistics
import sys
import time

import keras
import numpy as np

from keras_optkit import schedules
from keras_optkit.callbacks import LearningRate, ReduceOnPlateau

STEPS, BATCH = 15, 256
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
    """Lets the epochs of the `fit` calls of several processes take turns, and times them."""

    def __init__(self, index: int, turn, changed):
        super().__init__()
        self.index = index
        self.turn = turn
        self.changed = changed
        self.seconds: list[float] = []

    def _wait(self):
        with self.changed:
            self.changed.wait_for(lambda: self.turn.value == self.index)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self._wait()
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)
        if epoch == 0:
            self.alone = seconds_of_a_rate(self.model.optimizer)
        with self.changed:
            self.turn.value = (self.index + 1) % len(VARIANTS)
            self.changed.notify_all()
        if epoch + 1 < self.params["epochs"]:
            self._wait()


def seconds_of_a_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Returns the median seconds of one reading of the learning rate, as the step reads it."""
    read = rate = lambda: keras.ops.convert_to_tensor(optimizer.learning_rate)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        read = tf.function(rate)
    elif keras.backend.backend() == "jax":
        import jax

        def stateless(made):
            with keras.StatelessScope([(optimizer._iterations, made)]):
                return rate()

        compiled, made = jax.jit(stateless), optimizer._iterations.value
        read = lambda: compiled(made).block_until_ready()  # noqa: E731
    samples = []
    for _ in range(30):
        start = time.perf_counter()
        for _ in range(50):
            read()
        samples.append((time.perf_counter() - start) / 50)
    return statistics.median(samples)


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


def train(name: str, rounds: int, turn, changed, results) -> None:
    """Trains one variant in its turns, and reports its times."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 28, 28, 1)).astype("float32")
    y = rng.integers(0, 10, STEPS * BATCH)
    model, parts = make_model(), VARIANTS[name]()
    turns = Turns(list(VARIANTS).index(name), turn, changed)
    made = keras.callbacks.CallbackList(parts, model=make_model())
    logs = "async" if made._async_train else "every step waits"
    callbacks = [*parts, turns]
    model.fit(x, y, batch_size=BATCH, epochs=rounds + 1, verbose=0, callbacks=callbacks)
    results.put((name, turns.seconds[1:], turns.alone, logs))


def measure(rounds: int) -> None:
    """Trains all variants in turn and prints the table."""
    context = multiprocessing.get_context("spawn")
    shared = context.Value("i", 0), context.Condition(), context.Queue()
    processes = [context.Process(target=train, args=(name, rounds, *shared)) for name in VARIANTS]
    for process in processes:
        process.start()
    found = {name: rest for name, *rest in (shared[2].get() for _ in VARIANTS)}
    for process in processes:
        process.join()
    plain = [found[name][0] for name in ("a constant rate", "again")]
    print(f"Keras {keras.__version__}, {keras.backend.backend()}, {rounds} rounds of {STEPS} steps")
    print(f"{'':24}{'ms a step':>10}{'ratio':>8}{'alone, us':>11}   logs")
    for name in VARIANTS:
        seconds, alone, logs = found[name]
        own = name in ("a constant rate", "again")
        base = plain[0] if own else [(a + b) / 2 for a, b in zip(*plain, strict=True)]
        ratio = statistics.median(a / b for a, b in zip(seconds, base, strict=True))
        step = statistics.median(seconds) / STEPS * 1000
        alone = (alone - found["a constant rate"][1]) * 1e6
        print(f"{name:24}{step:10.3f}{ratio:8.3f}{alone:11.1f}   {logs}")


if __name__ == "__main__":
    measure(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
