"""What the models of `channel_pruning.py` take on LiteRT, beside what is left of their operations.

The models of the first seed, trained, are written in float32 and in int8, and all files are timed
in turn, one sample on one thread of this machine. The accuracies are those of `channel_pruning.py`.
The picture, channel_pruning.png beside this file, shows both.

Usage: python benchmarks/channel_pruning.py --data-dir FOLDER
       python benchmarks/channel_latency.py --data-dir FOLDER [--runs N]
"""

import argparse
import json
import pathlib

import keras
import numpy as np
from channel_pruning import FOLDER, ORIGINAL, WAYS, path_of
from pruning import fashion_mnist

from keras_optkit.export import Report, compare

NAMES = (ORIGINAL, *WAYS)
KINDS = ("float32", "int8")
PICTURE = pathlib.Path(__file__).parent / "channel_pruning.png"
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"


def show(report: Report, flops: dict[str, float]) -> None:
    """Prints the table: what is left of the original."""
    print("| | FLOPs | latency, float32 | latency, int8 | bytes, float32 | bytes, int8 |")
    print("|---|---|---|---|---|---|")
    base = report.models[ORIGINAL].files
    for name in NAMES:
        files = report.models[name].files
        times = [files[k].latency.median_ms / base[k].latency.median_ms for k in KINDS]
        sizes = [files[k].bytes / base[k].bytes for k in KINDS]
        shares = [flops[name], *times, *sizes]
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    print()
    for note in report.notes:
        if note.startswith("Latency"):
            print(f"- {note}")


def draw(report: Report, accuracies: dict[str, list[float]], flops: dict[str, float]) -> None:
    """Draws the accuracy of each seed, and what is left of operations and latency."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(NAMES))[::-1]
    base = np.mean(accuracies[ORIGINAL])
    left.axvspan(base - 0.5, base + 0.5, color=BLUE, alpha=0.12, label="original ± 0.5 points")
    for place, name in zip(places, NAMES, strict=True):
        values = accuracies[name]
        seeds, mean = ("one seed", "mean") if name == ORIGINAL else (None, None)
        left.plot(values, [place] * len(values), "o", color=BLUE, alpha=0.7, label=seeds)
        left.plot(np.mean(values), place, "|", color="black", markersize=24, label=mean)
    files = report.models
    first = {kind: files[ORIGINAL].files[kind].latency.median_ms for kind in KINDS}
    bars = [("FLOPs", [flops[name] for name in NAMES], BLUE)]
    for kind, color in zip(KINDS, (ORANGE, GREEN), strict=True):
        times = [files[name].files[kind].latency.median_ms for name in NAMES]
        bars.append((f"latency, {kind}", np.array(times) / first[kind], color))
    for i, (label, shares, color) in enumerate(bars):
        widths = 100 * np.array(shares)
        right.barh(places + 0.27 * (1 - i), widths, 0.25, color=color, label=label)
    right.axvline(50, color="black", linewidth=1, linestyle=":")
    left.set_yticks(places, NAMES, fontsize=14)
    left.set_xlabel("test accuracy after training, %", fontsize=15)
    right.set_xlabel("left of the original, %", fontsize=15)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=13)
        axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=14, loc="outside upper center", ncols=3)
    figure.savefig(PICTURE, dpi=90)


def main() -> None:
    """Times, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="TFDS' folder that holds fashion_mnist")
    parser.add_argument("--runs", type=int, default=300)
    args = parser.parse_args()
    rows = json.loads((FOLDER / "finished.json").read_text())["rows"]
    seeds = [seed for seed in range(100) if f"{seed} {NAMES[-1]}" in rows]
    accuracies = {n: [rows[f"{seed} {n}"]["trained"] for seed in seeds] for n in NAMES}
    flops = {name: rows[f"0 {name}"]["flops"] for name in NAMES}
    models = {n: keras.models.load_model(path_of(0, n), compile=False) for n in NAMES}
    data = fashion_mnist(args.data_dir, 500)
    sample = data["x_test"][:200], data["y_test"][:200]
    report = compare(models, sample, representative_data=data["x"], runs=args.runs, warmup=20)
    print(f"Keras {keras.__version__}. What is left of the original, which takes", end=" ")
    first = report.models[ORIGINAL].files
    print(f"{' and '.join(f'{first[k].latency.median_ms:.3f} ms in {k}' for k in KINDS)}.\n")
    show(report, flops)
    draw(report, accuracies, flops)


if __name__ == "__main__":
    main()
