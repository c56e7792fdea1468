"""Distribution: one script on one device, on several, on several processes, and layer by layer.

    python tutorials/09_distribution.py                  # a minute or two on two cores
    python -m keras_optkit.distribution launch --workers 2 tutorials/09_distribution.py
    KERAS_BACKEND=jax python tutorials/09_distribution.py

The first and the last print a table of all variants: accuracy, loss, the largest difference of a
weight to one device, seconds, and the bytes of weights on each device. They start the second by
themselves. On one CPU nothing of it is faster: the devices share the cores.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers

from keras_optkit import data, distribution
from keras_optkit.distribution.environment import read_environment

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/distribution"))
parser.add_argument("--epochs", type=int, default=5)
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)
backend = keras.backend.backend()

# 1. What trains -----------------------------------------------------------------------------------
#
# Nothing here knows of devices. Batches of 32 leave 29 digits for the last one, which four devices
# cannot share evenly; the result is that of one device all the same.


def arrays(split):
    """The digits of scikit-learn as arrays, 8 by 8 pixels from 0 to 255."""
    x, y = zip(*data.load(split=split, shuffle=False).as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


def build():
    """A small convolutional net, compiled."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, padding="same", activation="relu", name="conv"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, metrics=["accuracy"])
    return model


# 2. Where it trains -------------------------------------------------------------------------------
#
# A line around it says so: the model is built and compiled in a scope, or its layers are placed.


def on(spread):
    """Builds the model on a distribution, and returns both."""
    with spread.scope():
        return build(), spread


def placed(**kwargs):
    """Builds the model, and puts its layers on two devices."""
    model = build()
    return model, distribution.place_layers(model, **kwargs)


VARIANTS = {"one device": lambda: on(distribution.data_parallel(["cpu:0"]))}
if backend != "torch":  # Where a process has one device.
    VARIANTS["4 devices"] = lambda: on(distribution.data_parallel(4))
# `auto()` takes what is there: one device, several, or the processes that the launcher started.
VARIANTS["2 processes"] = None
if backend == "tensorflow":
    halves = {"cpu:0": ["conv", "logits"], "cpu:1": ["hidden"]}
    VARIANTS["layers placed"] = lambda: placed(devices=halves)
    VARIANTS["layers balanced"] = lambda: placed(devices=["cpu:0", "cpu:1"], balance="parameters")
if backend == "jax":
    VARIANTS["weights split"] = lambda: on(distribution.model_parallel(4, min_size=0))


# 3. One variant -----------------------------------------------------------------------------------


def train(make):
    """Trains what a function makes, and returns its row, its weights, and what it was on."""
    keras.utils.set_random_seed(0)
    model, spread = make()
    start = time.perf_counter()
    model.fit(*train_set, batch_size=32, epochs=args.epochs, shuffle=False, verbose=0)
    seconds = time.perf_counter() - start
    loss, accuracy = model.evaluate(*test_set, verbose=0)
    memory = distribution.memory_per_device(model)
    row = {"accuracy": accuracy, "loss": loss, "seconds": seconds}
    row["bytes"] = [held["weights"] for held in memory.values() if held["weights"]]
    return row, model.get_weights(), spread


if read_environment().count > 1:
    # The launcher started this process. Each of them runs all of this, and one writes the files.
    spread = distribution.auto()
    train_set, test_set = arrays("train"), arrays("test")
    row, weights, spread = train(lambda: on(spread))
    if spread.is_chief:
        print(spread.describe())
        print(f"accuracy {row['accuracy']:.3f}, loss {row['loss']:.4f}")
        (args.output / "row.json").write_text(json.dumps(row))
        np.savez(args.output / "weights.npz", *weights)
    sys.exit()


def launched():
    """Has this script run in two processes, and returns what the chief wrote."""
    script = [__file__, "--output", str(args.output), "--epochs", str(args.epochs)]
    launch = ["-m", "keras_optkit.distribution", "launch", "--workers", "2"]
    subprocess.run([sys.executable, *launch, *script], check=True)
    with np.load(args.output / "weights.npz") as weights:
        return json.loads((args.output / "row.json").read_text()), list(weights.values())


# 4. All of them -----------------------------------------------------------------------------------

if backend != "torch":
    distribution.split_cpu(4)  # One CPU that looks like four devices.
train_set, test_set = arrays("train"), arrays("test")
rows, first = {}, None
for name in VARIANTS:
    print(f"\n{name}")
    if VARIANTS[name] is None:
        rows[name], weights = launched()
    else:
        rows[name], weights, spread = train(VARIANTS[name])
        print(spread.describe())
    first = weights if first is None else first
    gaps = [abs(a - b).max() for a, b in zip(first, weights, strict=True)]
    rows[name]["difference"] = float(max(gaps))

print("\nvariant          accuracy    loss  difference  seconds  bytes of weights on each device")
for name, row in rows.items():
    held = " ".join(f"{size:,}" for size in row["bytes"])
    print(
        f"{name:17}{row['accuracy']:8.3f}{row['loss']:8.4f}{row['difference']:12.1e}"
        f"{row['seconds']:9.1f}  {held}"
    )
