"""Searches that are killed at every one of their writes, and in a trial; run by the test.

Usage: python killed_searches.py TUNER ...
Prints, as JSON, how many ways of being killed there were for each tuner, and those after which a
search that was started again was not the search that was never killed.
"""

import json
import os
import pathlib
import signal
import sys
import tempfile

import keras_tuner

from keras_optkit import tuning
from keras_optkit.tuning import bayesian_optimization, grid_search, hyperband, random_search

assert bayesian_optimization and grid_search and hyperband and random_search

ARGUMENTS = {
    "BayesianOptimization": {"max_trials": 5, "num_initial_points": 3},
    "GridSearch": {"max_trials": 3},
    "Hyperband": {"max_epochs": 2, "factor": 2},
    "RandomSearch": {"max_trials": 4},
}
# The writes are the same in each: one tuner is killed at all of them, the others at some.
EVERY = {"GridSearch": 1}


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def search(name, folder, kill=None):
    """Runs the search in a process of its own; returns whether it came to its end."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        _search(name, folder, kill)
        os._exit(0)
    except BaseException as error:
        (folder / "log").open("a").write(json.dumps(["error", repr(error)]) + "\n")
        os._exit(1)


def _search(name, folder, kill):
    def log(*entry):
        with (folder / "log").open("a") as file:
            file.write(json.dumps(entry) + "\n")

    class Tuner(getattr(tuning, name)):
        def run_trial(self, trial, *args, **kwargs):
            log("begin", trial.trial_id)
            if kill == ("in", trial.trial_id):
                die()
            hp = trial.hyperparameters
            if hp["a"] == 1 and hp["b"] == 1:
                raise ArithmeticError("this point fails")
            return hp["a"] + hp["b"] ** 2

        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            log("end", trial.trial_id)

    replace, count = os.replace, 0

    def counted(source, target):
        nonlocal count
        count += 1
        if kill == ("before", count):
            die()
        replace(source, target)
        # Once the trial's own file says so, the trial is finished.
        if target.endswith("trial.json"):
            state = json.loads(pathlib.Path(target).read_text())
            if state["status"] in ("COMPLETED", "FAILED"):
                log("finished", state["trial_id"])
        if kill == ("after", count):
            die()

    os.replace = counted
    hp = keras_tuner.HyperParameters()
    hp.Choice("a", [1, 2])
    hp.Int("b", 0, 2)
    tuner = Tuner(
        hyperparameters=hp, directory=str(folder), project_name="p", seed=1, **ARGUMENTS[name]
    )
    tuner.search(verbose=0)
    trials = [[t.trial_id, t.hyperparameters.values, t.score] for t in tuner.oracle.trials.values()]
    log("result", trials, [tuner.oracle.start_order, tuner.oracle.end_order], count)


def kill_all(name, root):
    """Returns how many ways of being killed were tried, and what went wrong in them."""
    wrong = []
    whole = root / "whole"
    whole.mkdir(parents=True)
    if not search(name, whole):
        raise RuntimeError((whole / "log").read_text())
    *_, (_, trials, orders, writes) = read_log(whole)
    kills = [(when, n) for n in range(1, writes + 1) for when in ("before", "after")]
    kills += [("in", trial_id) for trial_id in orders[0]]
    # A trial that completes takes 14: these come upon another moment each time.
    kills = kills[:: EVERY.get(name, 5)]
    for i, kill in enumerate(kills):
        folder = root / str(i)
        folder.mkdir()
        killed = not search(name, folder, kill)
        again = search(name, folder)
        entries = read_log(folder)
        if not killed or not again:
            wrong.append([kill, f"killed {killed}, ended {again}", entries[-1]])
        elif entries[-1][1:3] != [trials, orders]:
            wrong.append([kill, "another result", entries[-1][1], trials])
        finished = set()
        for what, *rest in entries:
            if what == "finished":
                finished.add(rest[0])
            if what == "begin" and rest[0] in finished:
                wrong.append([kill, "a finished trial ran again", rest])
    return {"kills": len(kills), "wrong": wrong}


def read_log(folder):
    with (folder / "log").open() as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        found = {name: kill_all(name, pathlib.Path(root) / name) for name in sys.argv[1:]}
    sys.stdout.write(json.dumps(found))
