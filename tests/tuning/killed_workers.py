"""A search with two workers that waits in its third trials; run, and killed, by the test.

Usage: python killed_workers.py DIRECTORY
"""

import os
import pathlib
import sys
import time

import keras_tuner

from keras_optkit import tuning


class Tuner(tuning.GridSearch):
    """Searches a function of two numbers."""

    def run_trial(self, trial, *args, **kwargs):
        folder = pathlib.Path(self.directory)

        def log(what):
            with (folder / "log").open("a") as file:
                file.write(f"{what} {os.getpid()} {trial.trial_id}\n")

        log("begin")
        hp = trial.hyperparameters
        while hp["a"] == 2 and not (folder / "go").exists():
            time.sleep(0.01)
        log("end")
        return float(hp["a"] + hp["b"])


if __name__ == "__main__":
    hp = keras_tuner.HyperParameters()
    # The first two points end, and the next ones wait.
    hp.Int("b", 0, 2)
    hp.Choice("a", [1, 2])
    folder = sys.argv[1]
    tuner = Tuner(hyperparameters=hp, directory=folder, project_name="search", seed=0, workers=2)
    tuner.search(verbose=0)
