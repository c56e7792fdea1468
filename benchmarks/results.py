"""Runs the benchmarks one after the other and writes RESULTS.md: each command and what it printed.

Run it on a machine that does nothing else. It needs the three backends (`make test-backends` sets
them up) and the peers (`pip install ".[bench]"`). With names of scripts it runs these only, and
leaves the other sections as they are.

Usage: python benchmarks/results.py [SCRIPT ...]
"""

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
    ("Augmentation, images per second", "tensorflow", "augmentation.py"),
    *(
        (f"A step with augmentation in the model, {name}", name, "augmentation_step.py")
        for name in ("tensorflow", "jax")
    ),
]


def measure(backend: str, script: str) -> str:
    """Returns what a benchmark prints."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(HERE / script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(names: list[str]) -> None:
    """Writes RESULTS.md beside this file."""
    path = HERE / "RESULTS.md"
    parts = re.split(r"^## ", path.read_text(), flags=re.MULTILINE)[1:] if path.exists() else []
    sections = {part.split("\n", 1)[0]: f"## {part.strip()}" for part in parts}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    head = [
        "# Results",
        f"Written by `python benchmarks/results.py`, Keras {keras.__version__}, on {machine}. "
        "Ratios are of medians of one run; another machine gives other numbers.",
    ]
    for title, backend, script in RUNS:
        if names and script not in names:
            continue
        print(f"{title} ...", flush=True)
        command = f"KERAS_BACKEND={backend} python benchmarks/{script}"
        sections[title] = f"## {title}\n\n`{command}`\n\n```\n{measure(backend, script)}\n```"
        ordered = [sections[title] for title, _, _ in RUNS if title in sections]
        path.write_text("\n\n".join(head + ordered) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
