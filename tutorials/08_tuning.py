"""Tuning: what to search, a search in one call, a grid, and what it is worth on new data.

    python tutorials/08_tuning.py                    # a minute or two on two cores
    KERAS_BACKEND=jax python tutorials/08_tuning.py

It writes two folders, bayesian/ and grid/, each with the best model, a JSON and pictures, and
prints tables. Ctrl-C ends a search and loses no trial; started again, the script goes on.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers

from keras_optkit import data, tuning

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/tuning"))
parser.add_argument("--trials", type=int, default=16)
parser.add_argument("--epochs", type=int, default=6)
args = parser.parse_args()

# 1. A model that trains already -------------------------------------------------------------------
#
# Nothing in it knows of tuning. 1,257 digits are searched on; the others are for the very end.

train, test = (
    [np.concatenate(parts) for parts in zip(*data.load(split=split, shuffle=False), strict=True)]
    for split in ("train[:1257]", "test")
)


def build():
    """Returns the compiled model, as one would write it without a search."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    return model


# 2. What to search --------------------------------------------------------------------------------
#
# The default space is small on purpose: the learning rate, its schedule and weight decay. Two more
# are named here. `True` takes the usual range; (low, high) is a range, [a, b, c] are choices.

space = {**tuning.DEFAULT_SPACE, "batch_norm": True, "dropout": (0.0, 0.3)}
print(tuning.OptkitHyperModel(build, space))

# 3. A search in one call --------------------------------------------------------------------------
#
# A share of the data is held out, and trials are compared by it. Each suggestion is made from all
# trials so far. `minutes=10` instead of `trials` ends it by the clock.

keras.utils.set_random_seed(0)
print(f"\nBayesian, {args.trials} trials of {args.epochs} epochs")
bayesian = tuning.tune(
    build,
    train,
    space=space,
    trials=args.trials,
    epochs=args.epochs,
    directory=args.output,
    project_name="bayesian",
)

# 4. A grid ----------------------------------------------------------------------------------------
#
# A grid is for few choices of which each shall be seen. What is settled by now is a single value in
# the space: every trial has it. Another way to train is added with each name.

print("\nGrid: batch size by label smoothing, all else as found above")
grid = tuning.tune(
    build,
    train,
    space={**bayesian.best.values, "batch_size": [16, 64], "label_smoothing": [0.0, 0.1]},
    tuner="grid",
    epochs=args.epochs,
    directory=args.output,
    project_name="grid",
)

# 5. What it is worth ------------------------------------------------------------------------------
#
# The best of many trials looks better than it is: it was chosen by the digits that were held out.
# Those were drawn from among the ones that trained; the digits of the test stand behind all of them
# in the file, differ more, and have not been looked at so far.

keras.utils.set_random_seed(0)
plain = build()
plain.fit(*train, epochs=args.epochs, verbose=0)
print("\nmodel               held out   test")
models = {"as it was written": plain, "bayesian": bayesian.model, "grid": grid.model}
chosen_by = {"bayesian": f"{bayesian.best.score:.3f}", "grid": f"{grid.best.score:.3f}"}
accuracies = {}
for name, model in models.items():
    accuracies[name] = model.evaluate(*test, verbose=0, return_dict=True)["accuracy"]
    print(f"{name:20}{chosen_by.get(name, ''):>8}  {accuracies[name]:.3f}")

print(f"\nWrote the pictures and models in {args.output}/bayesian and {args.output}/grid")
