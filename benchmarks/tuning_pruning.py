"""How many epochs a search takes to find what KerasTuner found, with and without trial pruning.

KerasTuner's Bayesian search runs on part of Fashion-MNIST with its defaults; its best validation
accuracy is the goal. Then ours runs with the same seed until a trial reaches it, without and with
`SuccessiveHalving`. All epochs of all trials count.

Usage: python benchmarks/tuning_pruning.py --data-dir DATA [--seeds 3] [--trials 16] [--epochs 9]
"""

import argparse
import os
import statistics
import tempfile
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import keras_tuner
from pruning import fashion_mnist

from keras_optkit import tuning


class Reached(keras_tuner.errors.FatalError):
    """Ends a search."""


class Count(keras.callbacks.Callback):
    """Counts the epochs of all trials, until one reaches the goal."""

    def __init__(self, goal=None):
        super().__init__()
        self.goal, self.epochs, self.values = goal, 0, []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1
        self.values.append(logs["val_accuracy"])
        if self.goal is not None and self.values[-1] >= self.goal:
            raise Reached

    def __deepcopy__(self, memo):
        # KerasTuner copies the callbacks for each trial; all trials are counted together.
        return self


def build(hp):
    """Returns a net of one or two hidden layers."""
    model = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    for _ in range(hp.Int("layers", 1, 2)):
        units = hp.Int("units", 16, 256, sampling="log")
        model.add(keras.layers.Dense(units, activation="relu"))
        model.add(keras.layers.Dropout(hp.Float("dropout", 0.0, 0.6)))
    model.add(keras.layers.Dense(10))
    rate = hp.Float("learning_rate", 1e-5, 1e-1, sampling="log")
    kinds = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    optimizer = kinds[hp.Choice("optimizer", list(kinds))](rate)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    return model


def count(tuner, data, epochs, goal, seed):
    """Returns how many epochs a search took, whether it reached the goal, and all values."""
    keras.utils.set_random_seed(seed)
    counter = Count(goal)
    tuner.oracle.verbose = 0
    try:
        tuner.search(
            data["x"],
            data["y"],
            # Enough of them that the best of all epochs is not the luckiest one.
            validation_data=(data["x_test"][:4000], data["y_test"][:4000]),
            epochs=epochs,
            batch_size=64,
            verbose=0,
            callbacks=[counter],
        )
    except Reached:
        return counter.epochs, True, counter.values
    return counter.epochs, False, counter.values


def main():
    """Prints a line for each seed, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="TFDS' folder that holds fashion_mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--images", type=int, default=3000)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    data = fashion_mnist(args.data_dir, args.images)
    ratios = {"ours": [], "ours, pruned": []}
    for seed in range(1, args.seeds + 1):
        kwargs = {"objective": "val_accuracy", "seed": seed}
        with tempfile.TemporaryDirectory() as folder:
            theirs = keras_tuner.BayesianOptimization(
                build, max_trials=args.trials, directory=folder, **kwargs
            )
            _, _, values = count(theirs, data, args.epochs, None, seed)
        goal = max(values)
        first = values.index(goal) + 1
        print(
            f"seed {seed}: KerasTuner's best of {args.trials} trials is {goal:.4f}, "
            f"reached after {first} of {len(values)} epochs",
            flush=True,
        )
        for name, pruner in (("ours", None), ("ours, pruned", tuning.SuccessiveHalving())):
            with tempfile.TemporaryDirectory() as folder:
                # Pruned trials are short: there may be more of them in as many epochs.
                tuner = tuning.BayesianOptimization(
                    build,
                    max_trials=args.trials * (3 if pruner else 1),
                    directory=folder,
                    trial_pruner=pruner,
                    **kwargs,
                )
                epochs, reached, _ = count(tuner, data, args.epochs, goal, seed)
            ratios[name].append(epochs / len(values))
            told = "reached" if reached else "NOT reached"
            print(f"  {name:<13} {told} after {epochs} epochs", flush=True)
    for name, found in ratios.items():
        print(f"{name}: median {statistics.median(found):.2f} of the epochs of KerasTuner's search")


if __name__ == "__main__":
    main()
