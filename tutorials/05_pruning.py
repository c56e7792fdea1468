"""Pruning: which layers can lose weights, training with zeros, and what they are worth in a file.

    python tutorials/05_pruning.py                    # about a minute on two cores
    KERAS_BACKEND=jax python tutorials/05_pruning.py

It writes two pictures, sensitivity.png and sparsity.png, three pairs of files, and prints tables.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure

from keras_optkit import callbacks, data, export, pruning

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/pruning"))
parser.add_argument("--epochs", type=int, default=15)
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)

# 1. A model to prune ------------------------------------------------------------------------------

train, test = (
    [np.concatenate(parts) for parts in zip(*data.load(split=split, shuffle=False), strict=True)]
    for split in ("train[:70%]", "train[70%:]")
)


def compiled(model):
    """Compiles a model anew, as each part of this script starts with a fresh optimizer."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


keras.utils.set_random_seed(0)
dense = compiled(
    keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv1"),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv2"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="hidden"),
            layers.Dense(10, name="head"),
        ],
        name="digits",
    )
)
dense.fit(*train, batch_size=64, epochs=args.epochs, verbose=0)
dense.save(args.output / "dense.keras")

# 2. Which layers can lose weights? ----------------------------------------------------------------
#
# One kernel after the other is pruned, without training, and the model is evaluated. The weights
# are put back each time. Use images that are not those of the final test.

found = pruning.sensitivity(dense, tuple(part[-300:] for part in train))
found.plot(args.output / "sensitivity.png")
print(found)
print(f"\nEach kernel up to a loss of 2 points: {found.targets(max_drop=0.02)}\n")

# 3. Training with zeros ---------------------------------------------------------------------------
#
# `Pruning` is one more callback. Durations are epochs ("2ep"), steps, or a share of the run (0.6).
# Each way of pruning starts from the dense model.

RAMP = pruning.PolynomialDecay(0.0, 0.8, begin_step=0, end_step=0.6, frequency=20)
WAYS = {
    "80 % of each layer": lambda: callbacks.Pruning(RAMP),
    "80 % of all": lambda: callbacks.Pruning(RAMP, scope="global"),
    "2:4": lambda: callbacks.Pruning(pruning.OneShot(0.5), structure=pruning.NMSparsity(2, 4)),
    "blocks of 1 x 4": lambda: callbacks.Pruning(
        RAMP, select=["conv2", "hidden"], structure=pruning.BlockSparsity((1, 4))
    ),
}
models = {"dense": dense}
for name, make in WAYS.items():
    keras.utils.set_random_seed(0)
    models[name] = model = compiled(keras.models.load_model(args.output / "dense.keras"))
    model.fit(*train, batch_size=64, epochs=args.epochs, verbose=0, callbacks=[make()])

# The first layer has one input, of which 2:4 takes nothing.
print(pruning.sparsity(models["2:4"]))

figure = Figure(figsize=(9, 5), layout="constrained")
axes = figure.subplots()
for place, name in enumerate(WAYS):
    rows = pruning.sparsity(models[name]).rows
    heights = [100 * row.sparsity for row in rows]
    bars = axes.bar(np.arange(len(rows)) + 0.2 * (place - 1.5), heights, 0.2, label=name)
    axes.bar_label(bars, fmt="%.0f", fontsize=11)
kernels = [f"{row.path.split('/')[-2]}\n{row.size:,} weights" for row in rows]
axes.set_xticks(np.arange(len(rows)), kernels, fontsize=14)
axes.set_ylabel("zeros, %", fontsize=16)
axes.set_ylim(0, 118)
axes.set_yticks(range(0, 101, 20))
axes.tick_params(axis="y", labelsize=14)
axes.legend(fontsize=13, ncols=4, loc="upper center", columnspacing=1, handlelength=1)
figure.savefig(args.output / "sparsity.png", dpi=80)

# 4. Going on, with the zeros kept -----------------------------------------------------------------
#
# A later `fit` lets zeros grow again, unless it is told not to.

kept = compiled(models["80 % of all"])
kept.fit(*train, batch_size=64, verbose=0, callbacks=[pruning.keep_zeros(kept)])
print(f"\nAfter one more epoch with keep_zeros: {pruning.sparsity(kept).sparsity:.1%} zeros")

# 5. What is it worth? -----------------------------------------------------------------------------
#
# A file holds a zero as it holds any other number: its size stays, and so does the time that an
# ordinary processor takes. The zeros are worth something where the file is compressed (an app
# package, a download), and on hardware and kernels that skip 2:4 or blocks.

for name, file in {"dense": "dense", "80 % of all": "sparse", "2:4": "two_of_four"}.items():
    export.to_litert(models[name], args.output / f"{file}.tflite")
report = export.compare(
    {name: models[name] for name in ("dense", "80 % of all", "2:4")}, tuple(test)
)
report.print()
smaller = {
    name: report.models["dense"].keras_gzip_bytes / report.models[name].keras_gzip_bytes
    for name in ("80 % of all", "2:4")
}
print("\nCompressed, the file is smaller by:")
for name, factor in smaller.items():
    print(f"  {name:12} {factor:.2f} times")
print(f"\nWrote {args.output}/sensitivity.png, sparsity.png and the files of three models")
