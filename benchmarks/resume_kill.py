"""Trainings that are killed at random moments, against the same trainings that never were.

A process that trains is sent SIGKILL, one to four times in a row, each time at a random moment
after its start, and is started again by the same script. In the end its weights, its optimizer, its
history, its CSV log and the next random numbers are compared with those of a run that was never
killed, byte for byte. Every kill of a training that ends the same counts.

All of it is on: Dropout, BatchNorm, momentum, moving averages, shuffling, Pruning, EarlyStopping,
ReduceLROnPlateau, ModelCheckpoint, CSVLogger.

With `--cost` it measures instead what `Resume` costs: seconds per save, and the step away from
saves.

Usage: python benchmarks/resume_kill.py [--kills 100] [--backends tensorflow jax] [--cost]
"""

import argparse
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# The training that the tests kill too.
sys.path[:0] = [str(HERE.parent / "tests" / "stopping" / "resume"), str(HERE)]

LONG = {"samples": 128, "epochs": 6, "patience": 4}
CASES = {
    "arrays": {**LONG, "every": "7step"},
    "arrays, save at each step": {**LONG, "every": "1step", "units": 256},
    "tf.data, shuffled": {**LONG, "input": "tf.data", "every": "0.05s"},
    "PyDataset": {**LONG, "input": "py_dataset", "every": "1ep"},
    "accumulated gradients": {**LONG, "optimizer": "accumulating", "every": "2step"},
    "loss scaling, 2 steps at once": {
        **LONG,
        "optimizer": "scaled",
        "steps_per_execution": 2,
        "every": "5step",
    },
}


def kill(process, connection, rng: random.Random, seconds: float) -> tuple | None:
    """Kills a training at a random moment; returns its end if it came to one before."""
    # Most of the time in a start is spent compiling, so most kills wait for the first step.
    awaited = "begun" if rng.random() < 0.2 else "stepping"
    moment = rng.uniform(0, seconds)
    end = None
    try:
        while (received := connection.recv()) != awaited:
            end = received if not isinstance(received, str) else None
            if end is not None:
                return end
        if connection.poll(moment) and not isinstance(received := connection.recv(), str):
            return received
        process.kill()
        while end is None:
            received = connection.recv()
            end = received if not isinstance(received, str) else None
    except (EOFError, ConnectionResetError):
        pass
    return end


def kills(backend: str, wanted: int, seed: int) -> bool:
    """Prints a line for each kind of training; returns whether all ended the same."""
    import keras
    from resume_run import differences, forks, run, start

    context, rng = forks(), random.Random(seed)
    print(f"Keras {keras.__version__}, {backend}, seed {seed}")
    print(f"{'training':32}{'kills':>6}{'in a save':>10}{'same':>6}{'runs':>6}{'s per start':>12}")
    total, good = 0, 0
    for i, (name, case) in enumerate(CASES.items()):
        share = (wanted - total) // (len(CASES) - i)
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            want, seconds = whole(start(context, case, folder / "whole"))
            counts = {"kills": 0, "in a save": 0, "same": 0, "runs": 0}
            started, began = 0, time.perf_counter()
            while counts["kills"] < share:
                counts["runs"] += 1
                place, chain = folder / str(counts["runs"]), 0
                end = None
                for _ in range(min(rng.randint(1, 4), share - counts["kills"])):
                    process, connection = start(context, case, place)
                    started += 1
                    end = kill(process, connection, rng, 0.5 * seconds)
                    process.join()
                    if end is not None:
                        break
                    chain += 1
                    counts["in a save"] += any(place.glob("resume/*.partial"))
                if end is None:
                    started += 1
                    end = run(context, case, place)
                counts["kills"] += chain
                other = differences(want, end)
                counts["same"] += chain if not other else 0
                if other:
                    print(f"  {name}: differs in {other}", flush=True)
            each = (time.perf_counter() - began) / max(started, 1)
        total, good = total + counts["kills"], good + counts["same"]
        numbers = f"{counts['kills']:6}{counts['in a save']:10}{counts['same']:6}{counts['runs']:6}"
        print(f"{name:32}{numbers}{each:12.1f}", flush=True)
    print(f"{good} of {total} kills left the same end as no kill.")
    return good == total


def whole(started: tuple) -> tuple[tuple, float]:
    """Returns the end of a training that runs to it, and its seconds from the first step on."""
    process, connection = started
    while (received := connection.recv()) != "stepping":
        pass
    begun = time.perf_counter()
    received = connection.recv()
    process.join()
    return received, time.perf_counter() - begun


def cost(rounds: int = 5) -> None:
    """Prints what a step and a save cost."""
    import keras
    import numpy as np
    from step_time import BATCH, STEPS, compare, conv_net

    from keras_optkit.stopping.resume.resume import Resume

    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, STEPS * BATCH)
    used, epochs = [], []

    def fit(callbacks, times):
        kwargs = {"batch_size": BATCH, "epochs": 4, "verbose": 0}
        conv_net().fit(x, y, callbacks=[*callbacks, times], **kwargs)

    def fit_with_resume(times):
        with tempfile.TemporaryDirectory() as folder:
            used.append(Resume(folder, callbacks=[], verbose=0))
            fit(used[-1:], times)
            epochs.extend(each * STEPS for each in times.seconds)

    fits = {"plain": lambda times: fit([], times), "Resume, between saves": fit_with_resume}
    compare(fits, "plain", rounds)
    saves = [seconds for resume in used for seconds in resume.save_seconds]
    share = statistics.median(saves) / statistics.median(epochs)
    print(f"{'a save':20} {1000 * statistics.median(saves):8.2f} ms   {share:.1%} of an epoch")
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    with tempfile.TemporaryDirectory() as folder:
        resume = Resume(folder, verbose=0)
        model.fit(x[:2], y[:2], batch_size=1, epochs=4, callbacks=[resume], verbose=0)
        size = max(file.stat().st_size for file in pathlib.Path(folder).iterdir())
    seconds = statistics.median(resume.save_seconds)
    print(f"a save of ResNet50 with Adam, {size / 1e6:.0f} MB: {seconds:.2f} s")


def main() -> int:
    """Runs each backend in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--backends", nargs="+", default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", action="store_true")
    args = parser.parse_args()
    if args.backends is None:
        if args.cost:
            cost()
            return 0
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        return 0 if kills(backend, args.kills, args.seed) else 1
    codes = []
    for backend in args.backends:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, __file__, "--kills", str(args.kills), "--seed", str(args.seed)]
        command += ["--cost"] if args.cost else []
        codes.append(subprocess.run(command, env=environment).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
