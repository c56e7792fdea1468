"""A chief and two workers on loopback, one of which is killed in a trial; run by the test.

Usage: python chief_and_workers.py DIRECTORY
Prints the chief's trials as JSON.
"""

import json
import os
import pathlib
import signal
import socket
import sys
import time

import keras_tuner

from keras_optkit import tuning
from keras_optkit.tuning import grid_search

assert grid_search


class Tuner(tuning.GridSearch):
    """Searches a function of two numbers."""

    def run_trial(self, trial, *args, **kwargs):
        folder = pathlib.Path(self.directory)
        (folder / f"begun-{self.tuner_id}").touch()
        # No worker ends before all have begun: a chief that has gone is waited for, for an hour.
        while len(list(folder.glob("begun-*"))) < 2:
            time.sleep(0.05)
        if self.tuner_id == "worker1" and not (folder / "killed").exists():
            (folder / "killed").write_text(trial.trial_id)
            os.kill(os.getpid(), signal.SIGKILL)
        # Long enough that the one that is started again gets its share.
        time.sleep(0.2)
        with (folder / "log").open("a") as log:
            log.write(f"{self.tuner_id} {trial.trial_id}\n")
        hp = trial.hyperparameters
        if abs(hp["a"] - 0.3) < 1e-6 and hp["b"] == 2:
            raise ArithmeticError("this point fails")
        return hp["a"] + hp["b"]


def start(name, port, folder):
    """Starts a chief or a worker in a process of its own."""
    child = os.fork()
    if child:
        return child
    try:
        os.environ.update(
            KERASTUNER_TUNER_ID=name,
            KERASTUNER_ORACLE_IP="127.0.0.1",
            KERASTUNER_ORACLE_PORT=str(port),
        )
        hp = keras_tuner.HyperParameters()
        hp.Float("a", 0.1, 0.5, step=0.1)
        hp.Int("b", 1, 2)
        tuner = Tuner(hyperparameters=hp, directory=str(folder), project_name="p", seed=0)
        tuner.search(verbose=0)
        if name == "chief":
            trials = [
                [t.trial_id, t.hyperparameters.values, t.status, t.score, t.message]
                for t in tuner.oracle.trials.values()
            ]
            (folder / "result").write_text(json.dumps(trials))
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{name}: {error!r}\n")
        os._exit(1)


def main(folder):
    """Runs the search, and prints its trials."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = {start(name, port, folder): name for name in ("chief", "worker0", "worker1")}
    while running:
        child, status = os.wait()
        name = running.pop(child)
        if os.WIFSIGNALED(status):
            running[start(name, port, folder)] = name
        elif status:
            raise SystemExit(f"{name} failed")
    sys.stdout.write((folder / "result").read_text())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
