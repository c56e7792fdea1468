"""Seconds per training step with the callbacks, over the same step without them.

Each round trains every variant for a few epochs in turn, so that drift of the machine hits all
alike; the first epoch of each `fit`, in which the step is compiled, is left out. The table shows
the median over all epochs and its ratio to the plain step, and beside it what a callback that sets
the rate from Python at every batch costs.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/step_time.py [ROUNDS]
"""

import statistics
import sys
import time
from collections.abc import Callable

import keras
import numpy as np

from keras_optkit.callbacks import EarlyStopping, LearningRate, Pruning
from keras_optkit.pruning import PolynomialDecay
from keras_optkit.schedules import CosineDecay

STEPS, BATCH, EPOCHS = 60, 32, 4


class SetsRate(keras.callbacks.Callback):
    """What people write by hand: the rate is assigned before every batch."""

    def on_train_batch_begin(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.001 * (1 - batch / STEPS)

    def on_train_batch_end(self, batch, logs=None):
        pass


VARIANTS = {
    "plain": list,
    "LearningRate": lambda: [LearningRate(CosineDecay(0.001))],
    "EarlyStopping": lambda: [EarlyStopping("loss", patience=99)],
    "Pruning": lambda: [Pruning(PolynomialDecay(0.0, 0.8, 0.1, 0.9, frequency=100))],
    "a rate set by hand": lambda: [SetsRate()],
}


class Times(keras.callbacks.Callback):
    """Seconds of each epoch's steps but the first epoch's."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0:
            self.seconds.append((time.perf_counter() - self.start) / self.params["steps"])


def conv_net() -> keras.Model:
    """A small convolutional net of 0.3 million weights on 32 pixels."""
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def compare(fits: dict[str, Callable[[Times], object]], base: str, rounds: int) -> None:
    """Prints one line a variant: its median step, and the ratio to that of `base`.

    Args:
        fits: For each variant a function that trains it once, with the callback that it is given.
        base: The name of the variant that the others are compared with.
        rounds: Integer, how often each is trained, in turn.
    """
    seconds = {name: [] for name in fits}
    for _ in range(rounds):
        for name, fit in fits.items():
            times = Times()
            fit(times)
            seconds[name] += times.seconds
    plain = statistics.median(seconds[base])
    print(f"Keras {keras.__version__}, {keras.backend.backend()}, {rounds} rounds")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:20} {1000 * median:8.2f} ms/step   x {median / plain:.3f}")


def main() -> None:
    """Trains the net with each of the variants."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, STEPS * BATCH)
    kwargs = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    fits = {
        name: lambda times, make=make: conv_net().fit(x, y, callbacks=[*make(), times], **kwargs)
        for name, make in VARIANTS.items()
    }
    compare(fits, "plain", int(sys.argv[1]) if len(sys.argv) > 1 else 5)


if __name__ == "__main__":
    main()
