"""Trains two scripts on the same data from several seeds, measures them, and reports.

This is the plumbing of quickstart.py: command line, data, progress, table, curves.
"""

import argparse
import dataclasses
import json
import logging
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

import keras
import numpy as np

import keras_optkit as optkit

# Each model is called for the first time once; TensorFlow takes that for needless retracing.
logging.getLogger("tensorflow").setLevel(logging.ERROR)

COLORS = ("#555555", "#d1495b")


class UserError(Exception):
    """Something that the user can put right, told in one line."""


@dataclasses.dataclass
class Data:
    """The images that both scripts get.

    Args:
        name: What they are called in the report.
        load_train: A function from a seed to a `tf.data.Dataset` of batches of (images in
            [0, 255], labels), in the order of that seed.
        validation: Arrays (images, labels) that a script may look at while it trains.
        test: Arrays (images, labels) that no script sees, for the accuracy in the table.
        image_shape: Tuple (height, width, channels).
        num_classes: Integer.
        skipped: Names of files that could not be read.
        train: The training data of the seed that is running.
    """

    name: str
    load_train: Callable[[int], Any]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    image_shape: tuple[int, int, int]
    num_classes: int
    skipped: list[str]
    train: Any = None

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
    correct: np.ndarray  # for each held-out image, whether the model's answer is right

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())


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
    for line in _verdicts(runs):
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
    parser.add_argument("--seeds", type=_positive, default=5, help="how many seeds")
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
        return _load_folder(args.data_dir, args.image_size or 64)
    where = {"data_dir": args.tfds_dir, "download": args.download}
    info = optkit.data.info(args.dataset, **where)
    splits = ("train", "test") if "test" in info.num_examples else ("train[:70%]", "train[70%:]")
    size = args.image_size or (None if None not in info.image_shape[:2] else 64)

    def load(split, **kwargs):
        return optkit.data.load(args.dataset, split, image_size=size, **where, **kwargs)

    held_out = load(splits[1], shuffle=False)
    return _data(info.name, lambda seed: load(splits[0], seed=seed), held_out, info.num_classes, [])


def _load_folder(path: str, size: int) -> Data:
    def load(seed=None, subset="training"):
        with warnings.catch_warnings():
            # The unreadable files are listed by name, once.
            warnings.simplefilter("ignore")
            return optkit.data.from_directory(
                path, size, validation_split=0.3, subset=subset, seed=seed
            )

    held_out = load(subset="validation")
    skipped = [os.path.relpath(file, path) for file in held_out.skipped_paths]
    return _data(path, load, held_out, len(held_out.class_names), skipped)


def _data(name, load_train, held_out, num_classes, skipped) -> Data:
    images, labels = map(np.concatenate, zip(*held_out.as_numpy_iterator(), strict=True))
    # Every other image: both halves hold every class, however the images are ordered.
    halves = [(images[i::2], labels[i::2]) for i in (0, 1)]
    return Data(name, load_train, *halves, images.shape[1:], num_classes, skipped)


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
                seeded = dataclasses.replace(data, train=data.load_train(seed))
                model = script(seeded, args.epochs, [clock])
                history = model.history.history
                images, labels = data.test
                correct = model.predict(images, verbose=0).argmax(axis=-1) == labels
                runs[name].append(Run(model, history, clock.seconds, correct))
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
    sample = np.concatenate(
        [images for images, _ in data.load_train(0).take(8).as_numpy_iterator()]
    )
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


def _verdicts(runs: dict[str, list[Run]]) -> list[str]:
    """Says in words what helped and what did not."""
    (first, before), (second, after) = runs.items()
    pairs = np.array([b.correct * 1.0 - a.correct for a, b in zip(before, after, strict=True)])
    gain = 100 * pairs.mean()
    # Two standard errors of the mean, from the choice of images and from the choice of seeds.
    images = pairs.mean(axis=0).std(ddof=1) / math.sqrt(pairs.shape[1])
    seeds = pairs.mean(axis=1).std(ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    noise = 200 * math.hypot(images, seeds)
    if abs(gain) <= noise:
        verdict = f"is no difference beyond the noise of {noise:.2f} points"
    else:
        verdict = f"is a {'gain' if gain > 0 else 'loss'} beyond the noise of {noise:.2f} points"
    lines = [
        f"Accuracy, {len(before)} seeds: {gain:+.2f} points from {first!r} to {second!r}, "
        f"which {verdict}."
    ]
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
            "verdicts": _verdicts(runs),
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
    from matplotlib import pyplot, ticker

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
    loss = axes.flat[0]
    loss.set_yscale("log")
    loss.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter(ticker.NullFormatter())
    best = max(max(run.history["val_accuracy"]) for group in runs.values() for run in group)
    worst = min(statistics.median(r.history["val_accuracy"]) for g in runs.values() for r in g)
    axes.flat[1].set_ylim(100 * (best - 3 * max(best - worst, 0.01)), 100 * best + 0.5)
    loss.legend(fontsize=12)
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
