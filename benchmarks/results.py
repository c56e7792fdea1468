"""Runs the benchmarks one after the other and writes RESULTS.md: each command and what it printed.

Run it on a machine that does nothing else. It needs the three backends (`make test-backends` sets
them up).

Usage: python benchmarks/results.py
"""

import os
import pathlib
import platform
import subprocess
import sys

import keras

HERE = pathlib.Path(__file__).parent
RUNS = [
    ("What an import costs", "tensorflow", "import_time.py"),
    *(
        (f"What a training step costs, {name}", name, "step_time.py")
        for name in ("tensorflow", "jax", "torch")
    ),
    ("Augmentation, images per second", "tensorflow", "augmentation.py"),
]


def measure(backend: str, script: str) -> str:
    """Returns what a benchmark prints."""
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(HERE / script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> None:
    """Writes RESULTS.md beside this file."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    sections = [
        "# Results",
        f"Written by `python benchmarks/results.py`, Keras {keras.__version__}, on {machine}. "
        "Ratios are of medians of one run; another machine gives other numbers.",
    ]
    for title, backend, script in RUNS:
        print(f"{title} ...", flush=True)
        command = f"KERAS_BACKEND={backend} python benchmarks/{script}"
        sections.append(f"## {title}\n\n`{command}`\n\n```\n{measure(backend, script)}\n```")
    (HERE / "RESULTS.md").write_text("\n\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
