"""Trains two scripts on the same data from several seeds, measures them, and reports.

This is the plumbing of quickstart.py: command line, data, progress, table, curves.
"""

import argparse
import dataclasses
import json
import math
import os
import pathlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_optkit as optkit

COLORS = ("#555555", "#d1495b")


class UserError(Exception):
    """Something that the user can put right, told in one line."""


@dataclasses.dataclass
class Data:
    """The images that both scripts get.

    Args:
        name: What they are called in the report.
        train: `tf.data.Dataset` of batches of (images in [0, 255], labels).
        validation: Arrays (images, labels) that a script may look at while it trains.
        test: Arrays (images, labels) that no script sees.
        image_shape: Tuple (height, width, channels).
        num_classes: Integer.
        skipped: Names of files that could not be read.
    """

    name: str
    train: Any
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    image_shape: tuple[int, int, int]
    num_classes: int
    skipped: list[str]

    @property
    def filters(self) -> list[int]:
        """The widths of the network's stages: one halving of the size each, down to 4 pixels."""
        stages = max(1, min(4, round(math.log2(min(self.image_shape[:2]) / 4))))
        return [32 * 2 ** min(stage, 2) for stage in range(stages)]


@dataclasses.dataclass
class Run:
    """One training of one script from one seed."""

    model: keras.Model
    history: dict[str, list[float]]
    seconds: list[float]
    accuracy: float


class Clock(keras.callbacks.Callback):
    """Measures the seconds since training began at each epoch's end, and moves the progress bar."""

    def __init__(self, advance: Callable[[dict], None]):
        super().__init__()
        self.advance = advance

    def on_train_begin(self, logs=None):
        self.start = time.perf_counter()
        self.seconds = []

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.start)
        self.advance(logs)


def run(scripts: dict[str, Callable], description: str) -> None:
    """Does all of it from the command line; the exit code is 0 if it went well."""
    try:
        _run(scripts, _arguments(description))
    except (UserError, ValueError, FileNotFoundError, ConnectionError, OSError) as error:
        print(f"quickstart: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("quickstart: stopped; nothing was written.", file=sys.stderr)
        sys.exit(130)


def _run(scripts: dict[str, Callable], args: argparse.Namespace) -> None:
    _check_output(args.output)
    data = _load(args)
    if data.skipped:
        names = ", ".join(data.skipped[:5]) + (", ..." if len(data.skipped) > 5 else "")
        print(f"Skipped {len(data.skipped)} files that are no readable image: {names}")
    shape = " x ".join(map(str, data.image_shape))
    print(
        f"{data.name}: images of {shape}, {data.num_classes} classes, "
        f"{len(data.validation[1])} for validation, {len(data.test[1])} held out. "
        f"Keras {keras.__version__} on {keras.backend.backend()}."
    )
    runs = _train(scripts, data, args)
    report = _report(runs, data)
    report.print()
    for line in _verdicts(runs, data):
        print(line)
    _write(args, data, runs, report)
    print(f"\nWrote {args.output}/ (curves.png, report.json, the models as .keras and .tflite)")


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}. See --help")


def _arguments(description: str) -> argparse.Namespace:
    parser = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", default="optkit_digits", help="an image set of TFDS")
    source.add_argument("--data-dir", help="a folder of images, one sub-folder for each class")
    parser.add_argument("--tfds-dir", help="where TFDS keeps its sets")
    parser.add_argument("--download", action="store_true", help="let TFDS download the set")
    parser.add_argument("--image-size", type=_positive, help="pixels; images are resized to it")
    parser.add_argument("--epochs", type=_positive, default=30)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=_positive, default=3, help="how many seeds")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/quickstart"))
    return parser.parse_args()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _check_output(path: pathlib.Path) -> None:
    """Finds out now, not after training, whether results can be written."""
    existed = path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        if not existed:
            path.rmdir()
    except OSError as error:
        raise UserError(
            f"cannot write to the output folder {str(path)!r} ({error.strerror}); "
            "give another one with --output"
        ) from None


def _load(args: argparse.Namespace) -> Data:
    if args.data_dir is not None:
        with warnings.catch_warnings():
            # The unreadable files are listed by name below.
            warnings.simplefilter("ignore")
            train, held_out = optkit.data.from_directory(
                args.data_dir,
                args.image_size or 64,
                validation_split=0.3,
                subset="both",
                seed=args.seed,
            )
        name, num_classes = args.data_dir, len(train.class_names)
        skipped = [os.path.relpath(path, args.data_dir) for path in train.skipped_paths]
    else:
        where = {"data_dir": args.tfds_dir, "download": args.download}
        info = optkit.data.info(args.dataset, **where)
        if "test" in info.num_examples:
            splits = ["train", "test"]
        else:
            splits = ["train[:70%]", "train[70%:]"]
        size = args.image_size or (None if None not in info.image_shape[:2] else 64)
        train, held_out = optkit.data.load(
            args.dataset, splits, image_size=size, seed=args.seed, **where
        )
        name, num_classes, skipped = info.name, info.num_classes, []
    images, labels = map(np.concatenate, zip(*held_out.as_numpy_iterator(), strict=True))
    # Every other image: both halves hold every class, however the images are ordered.
    halves = [(images[i::2], labels[i::2]) for i in (0, 1)]
    return Data(name, train, *halves, images.shape[1:], num_classes, skipped)


def _train(scripts, data, args) -> dict[str, list[Run]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    runs: dict[str, list[Run]] = {name: [] for name in scripts}
    with Progress(*columns, TextColumn("{task.fields[state]}")) as progress:
        for seed in range(args.seed, args.seed + args.seeds):
            # In turn, so that a machine that slows down slows both.
            for name, script in scripts.items():
                task = progress.add_task(f"{name}, seed {seed}", total=args.epochs, state="")

                def advance(logs, task=task):
                    state = f"val_accuracy {logs['val_accuracy']:.4f}"
                    progress.update(task, advance=1, state=state)

                keras.utils.set_random_seed(seed)
                clock = Clock(advance)
                model = script(data, args.epochs, [clock])
                _, accuracy = model.evaluate(*data.test, verbose=0)
                history = model.history.history
                runs[name].append(Run(model, history, clock.seconds, accuracy))
                progress.update(task, total=len(clock.seconds))
    return runs


def _reach(run: Run, accuracy: float) -> tuple[int, float] | None:
    """The first epoch, counted from 1, and the seconds in which a run reaches an accuracy."""
    for epoch, value in enumerate(run.history["val_accuracy"]):
        if value >= accuracy:
            return epoch + 1, run.seconds[epoch]
    return None


def _reached(runs: dict[str, list[Run]]) -> dict[str, list[tuple[int, float] | None]]:
    """When each run reaches the best accuracy of the first script's run from the same seed."""
    first = next(iter(runs.values()))
    targets = [max(run.history["val_accuracy"]) for run in first]
    return {
        name: [_reach(run, target) for run, target in zip(group, targets, strict=True)]
        for name, group in runs.items()
    }


def _report(runs: dict[str, list[Run]], data: Data) -> Any:
    middle = {
        name: sorted(group, key=lambda run: run.accuracy)[len(group) // 2].model
        for name, group in runs.items()
    }
    sample = np.concatenate([images for images, _ in data.train.take(8).as_numpy_iterator()])
    report = optkit.export.compare(middle, data.test, representative_data=sample)
    baseline = next(iter(runs))

    def spread(values, form):
        low, high = min(values), max(values)
        return (
            f"{form.format(statistics.median(values))} ({form.format(low)} to {form.format(high)})"
        )

    def reach(index, form):
        cells = {}
        for name, found in _reached(runs).items():
            values = [item[index] for item in found if item is not None]
            cells[name] = spread(values, form) if values else "never"
            if 0 < len(values) < len(found):
                cells[name] += f" in {len(values)} of {len(found)} runs"
        return cells

    seeds = len(runs[baseline])
    report.add(
        f"held-out accuracy, {seeds} seeds",
        {name: spread([run.accuracy for run in group], "{:.2%}") for name, group in runs.items()},
    )
    report.add(f"epochs to the best of {baseline!r}", reach(0, "{:.0f}"))
    report.add(f"seconds to the best of {baseline!r}", reach(1, "{:.1f}"))
    report.add(
        "seconds of training",
        {
            name: spread([run.seconds[-1] for run in group], "{:.1f}")
            for name, group in runs.items()
        },
    )
    return report


def _verdicts(runs: dict[str, list[Run]], data: Data) -> list[str]:
    """Says in words what helped and what did not."""
    (first, before), (second, after) = runs.items()
    pairs = [b.accuracy - a.accuracy for a, b in zip(before, after, strict=True)]
    gain = 100 * statistics.mean(pairs)
    # The noise of a mean of pairs: between seeds, and from the number of held-out images.
    share = statistics.mean(run.accuracy for run in before)
    sampling = math.sqrt(2 * share * (1 - share) / len(data.test[1]))
    seeds = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    noise = 200 * math.hypot(sampling, seeds)
    if abs(gain) <= noise:
        verdict = f"is no difference beyond the noise of {noise:.2f} points"
    else:
        verdict = f"is a {'gain' if gain > 0 else 'loss'} beyond the noise of {noise:.2f} points"
    lines = [f"Accuracy: {gain:+.2f} points from {first!r} to {second!r}, which {verdict}."]
    reached = _reached(runs)
    both = [
        (a[1], b[1])
        for a, b in zip(reached[first], reached[second], strict=True)
        if a is not None and b is not None
    ]
    if len(both) < len(before):
        lines.append(
            f"Time: {second!r} reached the best accuracy of {first!r} in {len(both)} of "
            f"{len(before)} runs."
        )
    if both:
        ratio = statistics.median(a / b for a, b in both)
        word = "sooner" if ratio > 1 else "later"
        ratio = max(ratio, 1 / ratio)
        lines.append(f"Time: {second!r} reached the best of {first!r} {ratio:.1f} times {word}.")
    return lines


def _write(args, data, runs, report) -> None:
    """Writes everything to a folder of its own first, and moves it when it is complete."""
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output) as name:
        folder = pathlib.Path(name)
        _plot(runs, data, folder / "curves.png")
        sample = data.test[0][:256]
        for label, group in runs.items():
            stem = label.replace(" ", "_")
            group[0].model.save(folder / f"{stem}.keras")
            optkit.export.to_litert(group[0].model, folder / f"{stem}.tflite")
            optkit.export.to_litert(
                group[0].model,
                folder / f"{stem}_int8.tflite",
                quantization="int8",
                representative_data=sample,
            )
        result = {
            "dataset": data.name,
            "epochs": args.epochs,
            "backend": keras.backend.backend(),
            "report": report.to_dict(),
            "verdicts": _verdicts(runs, data),
            "runs": {
                label: [
                    {"accuracy": r.accuracy, "seconds": r.seconds, "history": r.history}
                    for r in group
                ]
                for label, group in runs.items()
            },
        }
        (folder / "report.json").write_text(json.dumps(result, indent=1) + "\n")
        for file in folder.iterdir():
            os.replace(file, args.output / file.name)


def _plot(runs: dict[str, list[Run]], data: Data, path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        ("val_loss", "Validation loss", "cross-entropy (log scale)"),
        ("val_accuracy", "Validation accuracy", "accuracy (%)"),
        ("learning_rate", "Learning rate", "rate"),
        ("sparsity", "Sparsity of the pruned kernels", "weights that are zero (%)"),
    ]
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    for axis, (key, title, unit) in zip(axes.flat, panels, strict=True):
        for color, (name, group) in zip(COLORS, runs.items(), strict=True):
            scale = 100 if "%" in unit else 1
            for i, run in enumerate(group):
                values = run.history.get(key) or _constant(run, key)
                epochs = range(1, len(values) + 1)
                axis.plot(
                    epochs,
                    [scale * value for value in values],
                    color=color,
                    alpha=0.8,
                    linewidth=1.8,
                    label=name if i == 0 else None,
                )
        axis.set_title(title, fontsize=13)
        axis.set_xlabel("epoch", fontsize=12)
        axis.set_ylabel(unit, fontsize=12)
        axis.tick_params(labelsize=11)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes.flat[0].set_yscale("log")
    best = max(max(run.history["val_accuracy"]) for group in runs.values() for run in group)
    worst = min(statistics.median(r.history["val_accuracy"]) for g in runs.values() for r in g)
    axes.flat[1].set_ylim(100 * (best - 3 * max(best - worst, 0.01)), 100 * best + 0.5)
    axes.flat[0].legend(fontsize=12)
    seeds = len(next(iter(runs.values())))
    figure.suptitle(f"{data.name}: one line a seed, {seeds} seeds each", fontsize=14)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _constant(run: Run, key: str) -> list[float]:
    """What a script that does not log a quantity has of it throughout."""
    if key == "learning_rate":
        value = float(keras.ops.convert_to_numpy(run.model.optimizer.learning_rate))
    else:
        value = 0.0
    return [value] * len(run.seconds)
