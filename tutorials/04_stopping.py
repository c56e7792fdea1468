"""Stopping and resuming: stop for the right reason, end with the best weights, survive a kill.

    python tutorials/04_stopping.py                  # about a minute on two cores
    KERAS_BACKEND=jax python tutorials/04_stopping.py

It prints two tables, and writes the report of one run: report/training.png and training.json.
"""

import argparse
import os
import pathlib
import shutil
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers

from keras_optkit import callbacks, data, schedules

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/stopping"))
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--budget", default="6s", help="the time in section 2")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)

# Few digits to train on, so that the net overfits and stopping matters.
train, valid, test = (
    [np.concatenate(parts) for parts in zip(*data.load(split=split, shuffle=False), strict=True)]
    for split in ("train[:20%]", "train[20%:50%]", "train[50%:]")
)


def make_model():
    """A plain convolutional net for 8 x 8 digits."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.2, seed=1),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def train_with(parts, seed=0, epochs=args.epochs):
    """Trains from a seed; returns the model and the number of epochs that were run."""
    keras.utils.set_random_seed(seed)
    model = make_model()
    history = model.fit(
        *train,
        validation_data=valid,
        batch_size=64,
        epochs=epochs,
        verbose=0,
        callbacks=parts,
    )
    return model, len(history.epoch)


def error(model):
    """The error on held-out digits in percent."""
    return 100 * (1 - model.evaluate(*test, verbose=0, return_dict=True)["accuracy"])


# 1. When to stop ----------------------------------------------------------------------------------
#
# `EarlyStopping` takes the arguments of Keras' own. What is new can be combined: a patience in
# steps, an average over several epochs, an improvement in percent, a target, a value that gives up,
# several metrics, and the criteria of Prechelt's "Early Stopping - But When?".

STOPS = {
    "no stop": lambda: None,
    "patience of 3 epochs": lambda: callbacks.EarlyStopping(
        patience="3ep", restore_best_weights=True
    ),
    "patience, mean of 3 epochs": lambda: callbacks.EarlyStopping(
        patience=3, window=3, restore_best_weights=True
    ),
    "target of 95 %": lambda: callbacks.EarlyStopping(
        "val_accuracy", patience=10, target=0.95, restore_best_weights=True
    ),
    "GL5": lambda: callbacks.EarlyStopping(criterion="GL5", restore_best_weights=True),
    "PQ0.5": lambda: callbacks.EarlyStopping(criterion="PQ0.5", restore_best_weights=True),
}

print(f"{'When to stop':28}{'epochs':>8}{'error':>8}  reason")
for name, make in STOPS.items():
    stop = make()
    model, epochs = train_with([stop] if stop else [])
    reason = stop.stopped_reason.value if stop else ""
    print(f"{name:28}{epochs:8}{error(model):8.2f}  {reason}")
print(f"\nThe last one in a line: {stop.explanation}")

# 2. No longer than a time -------------------------------------------------------------------------
#
# The budget is kept: what another epoch would take, with its validation, is judged by the longest.

budget = callbacks.TimeBudget(args.budget)
train_with([budget], epochs=10_000)
print(f"\nA budget of {args.budget}: {budget.explanation}")

# 3. The average of the weights --------------------------------------------------------------------
#
# What is validated, saved and left at the end is the average; what is trained are the weights. The
# rate is constant here: its noise is what an average removes.

AVERAGES = {
    "last weights": lambda: [],
    "EMA": lambda: [callbacks.WeightAveraging("ema", decay=0.98)],
    "SWA, from half of the run": lambda: [callbacks.WeightAveraging("swa", start=0.5)],
    "LAWA, the latest 6": lambda: [callbacks.WeightAveraging("lawa", last=6)],
}

print(f"\nError on held-out digits in %, the median of {args.seeds} seeds, {args.epochs} epochs")
for name, make in AVERAGES.items():
    errors = [error(train_with(make(), seed)[0]) for seed in range(args.seeds)]
    print(f"{name:28}{statistics.median(errors):8.2f}")

# 4. A run that is killed --------------------------------------------------------------------------
#
# `Resume` saves what `fit` needs to go on as if nothing had happened, and goes on by itself when
# the same script is started again. Here an exception takes the place of the kill.


class Kill(keras.callbacks.Callback):
    """Breaks a run off in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.doomed, self.epoch = epoch, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.doomed and batch == 3:
            raise KeyboardInterrupt


def parts(folder):
    """What every run below trains with."""
    return [
        callbacks.LearningRate(schedules.CosineDecay(0.1)),
        callbacks.EarlyStopping(patience=5, restore_best_weights=True),
        callbacks.WeightAveraging("ema", decay=0.98),
        callbacks.TrainingReport(folder / "report"),
    ]


shutil.rmtree(args.output / "resume", ignore_errors=True)
few = max(args.epochs // 4, 2)
whole, _ = train_with(parts(args.output / "whole"), epochs=few)
for extra in ([Kill(few // 2)], []):
    # So that the layers have the names that they would have in a new process.
    keras.utils.clear_session()
    ours = parts(args.output)
    resume = callbacks.Resume(args.output / "resume", callbacks=ours, every="1ep")
    try:
        resumed, _ = train_with([*ours, resume, *extra], epochs=few)
    except KeyboardInterrupt:
        print(f"\nBroken off in epoch {few // 2 + 1}")
pairs = zip(whole.get_weights(), resumed.get_weights(), strict=True)
same = all(np.array_equal(a, b) for a, b in pairs)
print(f"Started again: {resume.resumed_from}. The same weights as in one go: {same}")

# 5. The report ------------------------------------------------------------------------------------
#
# It was among the callbacks above. It is written while training runs, and knows of every event.

print(f"\nWrote {args.output}/report/training.png and {args.output}/report/training.json")
