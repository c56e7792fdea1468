"""Learning rates: what each schedule looks like, which rate to take, and what a schedule buys.

    python tutorials/03_schedules.py                  # about a minute on two cores
    KERAS_BACKEND=jax python tutorials/03_schedules.py

It writes two pictures, schedules.png and range_test.png, and prints two tables.
"""

import argparse
import os
import pathlib
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers
from matplotlib.figure import Figure

from keras_optkit import callbacks, data, schedules

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/schedules"))
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--optimizers", nargs="+", help="some of those in the table; default all")
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)

# 1. Every schedule in one picture -----------------------------------------------------------------
#
# Durations are epochs ("30ep"), steps ("500step" or 500) or a share of the run (0.3), and a warm-up
# can be put in front of any schedule. Without durations a schedule lasts as long as the run does.

PICTURE = {
    "Constant": schedules.Constant(0.1).with_warmup("10ep"),
    "StepDecay": schedules.StepDecay(0.1, "30ep", gamma=0.5),
    "MultiStepDecay": schedules.MultiStepDecay(0.1, ["50ep", "75ep"], gamma=0.2),
    "ExponentialDecay": schedules.ExponentialDecay(0.1, "20ep", 0.5),
    "LinearDecay": schedules.LinearDecay(0.1),
    "PolynomialDecay": schedules.PolynomialDecay(0.1, power=2),
    "CosineDecay": schedules.CosineDecay(0.1).with_warmup("10ep"),
    "CosineRestarts": schedules.CosineRestarts(0.1, "14ep", t_mul=2, m_mul=0.7),
    "OneCycle": schedules.OneCycle(0.1),
    "Cyclic": schedules.Cyclic(0.01, 0.1, "25ep", mode="triangular2"),
    "WarmupStableDecay": schedules.WarmupStableDecay(0.1, warmup=0.1, decay=0.2),
    "InverseSqrt": schedules.InverseSqrt(0.1, "10ep").with_warmup("10ep"),
    "Sequence": schedules.Sequence(
        [schedules.Constant(0.1), schedules.CosineDecay(0.05)], milestones=["50ep"]
    ),
    "Product": schedules.Product(
        schedules.CosineDecay(0.1), schedules.StepDecay(1.0, "25ep", gamma=0.6)
    ),
}


def draw_schedules(path):
    """Plots the rates of a run of 100 epochs of 10 steps under each schedule."""
    run = schedules.Run(epochs=100, steps_per_epoch=10)
    figure = Figure(figsize=(14, 8), layout="constrained")
    axes = figure.subplots(3, 5, sharex=True, sharey=True).flatten()
    for ax, (name, schedule) in zip(axes, PICTURE.items(), strict=False):
        rates = keras.ops.convert_to_numpy(schedule.resolve(run).table(run.steps))
        ax.plot(np.arange(run.steps) / 10, rates, linewidth=2)
        ax.set_title(name, fontsize=15)
        ax.tick_params(labelsize=13)
        ax.grid(alpha=0.3)
    # The last place shows what a plateau does to a schedule: a factor from some epoch on.
    rates = keras.ops.convert_to_numpy(PICTURE["CosineDecay"].resolve(run).table(run.steps))
    axes[14].plot(np.arange(1000) / 10, np.where(np.arange(1000) < 400, rates, rates / 2), "C1")
    axes[14].set_title("CosineDecay and\nReduceOnPlateau", fontsize=13)
    axes[14].tick_params(labelsize=13)
    axes[14].grid(alpha=0.3)
    figure.supxlabel("epoch", fontsize=15)
    figure.supylabel("learning rate", fontsize=15)
    figure.savefig(path, dpi=80)


draw_schedules(args.output / "schedules.png")

# 2. Which rate? The range test --------------------------------------------------------------------
#
# It trains for some steps while the rate rises, and puts everything back: the model, the optimizer
# and the seeds are as they were.

train, test = (
    [np.concatenate(parts) for parts in zip(*data.load(split=split, shuffle=False), strict=True)]
    for split in ("train[:70%]", "train[70%:]")
)


def make_model(optimizer):
    """A plain convolutional net for 8 x 8 digits."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


keras.utils.set_random_seed(0)
model = make_model("adam")
found = schedules.find_lr(model, *train, start=1e-5)
found.plot(args.output / "range_test.png")
print(found)

# 3. What a schedule buys, optimizer by optimizer --------------------------------------------------
#
# The optimizers are those of Keras. Each trains at a constant rate and, at three times that rate,
# under two schedules which `LearningRate` puts into the compiled step.

OPTIMIZERS = {
    "SGD": (keras.optimizers.SGD, 0.05, {"momentum": 0.9}),
    "Adam": (keras.optimizers.Adam, 0.001, {}),
    "AdamW": (keras.optimizers.AdamW, 0.001, {"weight_decay": 0.05}),
    "Nadam": (keras.optimizers.Nadam, 0.001, {}),
    "RMSprop": (keras.optimizers.RMSprop, 0.001, {}),
    "Lion": (keras.optimizers.Lion, 0.0003, {}),
}
COLUMNS = {
    "constant": lambda rate: [],
    "CosineDecay, warm-up": lambda rate: [
        callbacks.LearningRate(schedules.CosineDecay(3 * rate).with_warmup(0.05))
    ],
    "OneCycle": lambda rate: [callbacks.LearningRate(schedules.OneCycle(3 * rate))],
}


def error_after(optimizer, parts, seed):
    """Trains from a seed; returns the error on held-out images in percent."""
    keras.utils.set_random_seed(seed)
    model = make_model(optimizer)
    model.fit(*train, batch_size=64, epochs=args.epochs, verbose=0, callbacks=parts)
    return 100 * (1 - model.evaluate(*test, verbose=0, return_dict=True)["accuracy"])


print(f"\nError on held-out digits in %, the median of {args.seeds} seeds, {args.epochs} epochs")
print(f"{'':10}" + "".join(f"{name:>22}" for name in COLUMNS))
for name in args.optimizers or OPTIMIZERS:
    kind, rate, extra = OPTIMIZERS[name]
    row = [
        statistics.median(
            error_after(kind(rate, **extra), make(rate), seed) for seed in range(args.seeds)
        )
        for make in COLUMNS.values()
    ]
    print(f"{name:10}" + "".join(f"{error:22.2f}" for error in row))

# 4. When nothing is known: cut on a plateau -------------------------------------------------------
#
# `ReduceOnPlateau` is a factor on whatever rate is there, a schedule included.

keras.utils.set_random_seed(0)
model = make_model(keras.optimizers.SGD(0.15, momentum=0.9))
plateau = callbacks.ReduceOnPlateau("loss", factor=0.3, patience=1, min_delta=0.01)
history = model.fit(*train, epochs=args.epochs, batch_size=64, verbose=0, callbacks=[plateau])
print("\nReduceOnPlateau: the rate of each epoch")
print(" ".join(f"{rate:.3g}" for rate in history.history["learning_rate"]))

# 5. Fine-tuning: smaller steps for lower layers ---------------------------------------------------

optimizer = schedules.layerwise_decay(model, keras.optimizers.AdamW(1e-3), rate=0.5)
model.compile(optimizer, model.loss, metrics=["accuracy"])
print("\nlayerwise_decay(rate=0.5): the share of the rate that each layer gets")
for layer, height in sorted(schedules.layer_heights(model).items(), key=lambda pair: -pair[1]):
    print(f"  {layer.name:12} {0.5**height:.3f}")

print(f"\nWrote {args.output}/schedules.png and {args.output}/range_test.png")
