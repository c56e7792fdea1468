"""Runs the benchmarks one after the other and writes RESULTS.md: each command and what it printed.

Run it on a machine that does nothing else. It needs the three backends (`make test-backends` sets
them up) and the peers (`pip install ".[bench]"`). With parts of titles or commands it runs these
only, and leaves the other sections as they are. What needs Fashion-MNIST is left out without
`--data-dir`, the folder of TFDS that holds it.

Usage: python benchmarks/results.py [--data-dir DATA] [TITLE ...]
"""

import argparse
import os
import pathlib
import platform
import re
import subprocess
import sys

import keras

HERE = pathlib.Path(__file__).parent
BACKENDS = ("tensorflow", "jax", "torch")
RUNS = [
    ("What an import costs", "tensorflow", "import_time.py"),
    *((f"What a training step costs, {name}", name, "step_time.py") for name in BACKENDS),
    *((f"A step under each schedule, {name}", name, "schedules.py") for name in BACKENDS),
    ("Folding BatchNorm", "tensorflow", "batchnorm.py"),
    ("A step with each BatchNorm, tensorflow", "tensorflow", "batchnorm_step.py"),
    *((f"Pruning: steps and refreshes, {name}", name, "pruning.py") for name in BACKENDS),
    ("Pruning: accuracy", "tensorflow", "pruning.py accuracy --data-dir DATA"),
    *(
        (f"Distillation: seconds per epoch, {name}", name, "distillation.py speed --data-dir DATA")
        for name in BACKENDS
    ),
    ("Distillation: accuracy", "tensorflow", "distillation.py accuracy --data-dir DATA"),
    ("Channel pruning: exactness", "tensorflow", "channel_exactness.py"),
    ("Channel pruning: accuracy", "tensorflow", "channel_pruning.py --seeds 1 --data-dir DATA"),
    ("Channel pruning: latency", "tensorflow", "channel_latency.py --data-dir DATA"),
    ("Export: norms folded first", "tensorflow", "export_fold.py"),
    ("Export: sparse files", "tensorflow", "export_sparse.py"),
    ("Tuning: seconds a suggestion", "tensorflow", "tuning.py suggestions"),
    (
        "Tuning: test functions",
        "tensorflow",
        "tuning.py functions --seeds 20 --peer-seeds 4 --keep outputs/peers.json",
    ),
    ("Tuning: epochs saved", "tensorflow", "tuning_pruning.py --data-dir DATA"),
    *(
        (f"Distribution: {what}, {name}", name, f"distribution.py{part}")
        for what, part in (
            ("images per second", ""),
            ("exactness", " exact"),
            ("bytes per device", " bytes"),
        )
        for name in ("tensorflow", "jax")
    ),
    *(
        (f"Distribution: images per second in processes, {n}", n, "distribution.py processes")
        for n in BACKENDS
    ),
    ("Resuming after kills", "tensorflow", "resume_kill.py"),
    ("What Resume costs", "tensorflow", "resume_kill.py --cost"),
    ("Augmentation, images per second", "tensorflow", "augmentation.py --seconds 1"),
    ("Augmentation, peak memory", "tensorflow", "augmentation.py --memory"),
    *(
        (f"A step with augmentation in the model, {name}", name, "augmentation_step.py")
        for name in ("tensorflow", "jax")
    ),
]


def measure(backend: str, script: str, data: str | None) -> str:
    """Returns what a benchmark prints."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    name, *arguments = script.split()
    command = [sys.executable, str(HERE / name), *(data if a == "DATA" else a for a in arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Writes RESULTS.md beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="TITLE")
    parser.add_argument("--data-dir", help="the folder of TFDS that holds fashion_mnist")
    args = parser.parse_args()
    path = HERE / "RESULTS.md"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    head = [
        "# Results",
        f"Written by `python benchmarks/results.py`, Keras {keras.__version__}, on {machine}. "
        "Ratios are of medians of one run; another machine gives other numbers.",
    ]
    for title, backend, script in RUNS:
        command = f"KERAS_BACKEND={backend} python benchmarks/{script}"
        wanted = not args.names or any(name in f"{title} {command}" for name in args.names)
        if not wanted or ("DATA" in script and args.data_dir is None):
            continue
        print(f"{title} ...", flush=True)
        found = measure(backend, script, args.data_dir)
        # Another run may have written since.
        parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)[1:] if path.exists() else []
        sections = {part.split("\n", 1)[0]: f"## {part.strip()}" for part in parts}
        sections[title] = f"## {title}\n\n`{command}`\n\n```\n{found}\n```"
        ordered = [sections[title] for title, _, _ in RUNS if title in sections]
        path.write_text("\n\n".join(head + ordered) + "\n")


if __name__ == "__main__":
    main()
