"""What `import keras_optkit` adds to `import keras`: the median of 10 fresh processes.

Usage: python benchmarks/import_time.py [RUNS]
"""

import statistics
import subprocess
import sys

CODE = """
import time
start = time.perf_counter()
import keras
middle = time.perf_counter()
import keras_optkit
print(middle - start, time.perf_counter() - middle)
"""


def measure() -> tuple[float, float]:
    """Returns the seconds of the two imports in one fresh process."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    keras, optkit = map(float, done.stdout.split())
    return keras, optkit


def main() -> None:
    """Prints the medians in milliseconds."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    measure()  # fills the file cache
    keras, optkit = zip(*(measure() for _ in range(runs)), strict=True)
    print(f"import keras         {1000 * statistics.median(keras):8.1f} ms")
    print(f"import keras_optkit  {1000 * statistics.median(optkit):8.1f} ms more")


if __name__ == "__main__":
    main()
