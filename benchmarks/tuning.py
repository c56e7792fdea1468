"""How fast and how well a Bayesian search looks for a minimum, ours beside its peers.

`suggestions`: seconds until the next trial is known, by the number of trials so far, 6 parameters.
`functions`: how far from the minimum of a test function a search is after a number of trials.
KerasTuner takes about a second for each suggestion: `--peer-seeds` is for it alone, and with
`--keep FILE` its searches are written to a file as they end, and are not repeated.

Usage: python benchmarks/tuning.py suggestions
       python benchmarks/tuning.py functions [--seeds 20] [--peer-seeds 5] [--keep FILE]
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import pathlib
import statistics
import sys
import tempfile
import time
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One process for each core does better than two threads in each process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import numpy as np
from tuning_functions import FUNCTIONS, make_oracle, search


def suggestions(args):
    """Prints the median seconds of a suggestion."""
    function, bounds, _ = FUNCTIONS["Hartmann 6"]
    print(
        f"{'trials so far':<14} {'ours':>10} {'KerasTuner':>12}   seconds, median of {args.repeats}"
    )
    for count in (10, 50, 100, 200):
        row = []
        for method in ("ours", "KerasTuner"):
            with tempfile.TemporaryDirectory() as folder:
                oracle = make_oracle(method, bounds, 0, folder)
                oracle.num_initial_points = 5
                rng = np.random.default_rng(0)
                seconds = []
                for i in range(count + args.repeats + 1):
                    if i < count:
                        # These are given, not suggested: only their place and value matter.
                        suggest = oracle.populate_space
                        point = {f"x{k}": float(v) for k, v in enumerate(rng.random(6))}
                        oracle.populate_space = lambda trial_id, point=point: {
                            "status": "RUNNING",
                            "values": point,
                        }
                    start = time.perf_counter()
                    trial = oracle.create_trial("tuner0")
                    # The first one suggested also pays for imports.
                    if i > count:
                        seconds.append(time.perf_counter() - start)
                    if i < count:
                        oracle.populate_space = suggest
                    floats = [trial.hyperparameters.values[f"x{k}"] for k in range(6)]
                    oracle.update_trial(trial.trial_id, {"y": float(function(np.array(floats)))})
                    trial.status = "COMPLETED"
                    oracle.end_trial(trial)
                row.append(statistics.median(seconds))
        print(f"{count:<14} {row[0]:>10.3f} {row[1]:>12.3f}", flush=True)


def functions(args):
    """Prints the distance to the minimum."""
    seeds = {method: args.seeds for method in ("ours", "random", "Optuna TPE")}
    seeds["KerasTuner"] = args.peer_seeds
    tasks = [
        (method, name, seed, args.trials)
        for method, count in seeds.items()
        for name in FUNCTIONS
        for seed in range(count)
    ]
    found = kept_searches(args.keep)
    # The slow ones first, so that no process is left alone with them.
    left = sorted((t for t in tasks if t not in found), key=lambda task: task[0] != "KerasTuner")
    context = multiprocessing.get_context("spawn")
    with context.Pool(args.processes) as pool:
        for task, curve in zip(left, pool.imap(search, left), strict=True):
            found[task] = curve
            if args.keep and task[0] == "KerasTuner":
                keep_search(args.keep, task, curve)
    after = sorted({args.trials // 2, args.trials})
    print(f"Distance to the minimum after {' and '.join(map(str, after))} trials: median, mean")
    for name, (_, _, minimum) in FUNCTIONS.items():
        print(f"\n{name}")
        for method, count in seeds.items():
            if not count:
                continue
            curves = np.array([found[method, name, seed, args.trials] for seed in range(count)])
            left = [curves[:, n - 1] - minimum for n in after]
            cells = [f"{np.median(each):9.4f} {each.mean():9.4f}" for each in left]
            print(f"  {method:<12} {'   '.join(cells)}   ({count} seeds)")


def kept_searches(path):
    """Returns the searches by KerasTuner's present version that a file holds."""
    if path is None or not path.exists():
        return {}
    version = importlib.metadata.version("keras-tuner")
    entries = map(json.loads, path.read_text().splitlines())
    return {tuple(e["task"]): np.array(e["best"]) for e in entries if e["version"] == version}


def keep_search(path, task, curve):
    """Adds a search to a file."""
    version = importlib.metadata.version("keras-tuner")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        entry = {"task": task, "version": version, "best": [float(value) for value in curve]}
        file.write(json.dumps(entry) + "\n")


def main():
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["suggestions", "functions"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--peer-seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--keep", type=pathlib.Path, help="a file of KerasTuner's searches")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    {"suggestions": suggestions, "functions": functions}[args.what](args)


if __name__ == "__main__":
    main()
