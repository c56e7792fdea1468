"""What pruning costs and keeps: a step, a refresh of the masks, accuracy; TF-MOT beside it.

`step` sets seconds per step with `Pruning` over those without for a conv net and an MLP, masks
refreshed every 100 steps, and the ratio of a second plain run, which is noise; on TensorFlow
TF-MOT's own ratio stands beside it, from tf_keras in a process of its own. `refresh` times one
choice of masks for the 25 million weights of a ResNet50. Both take medians of what is measured in
turn. `accuracy` trains a conv net on Fashion-MNIST, dense and at four sparsities, three seeds, and
draws pruning_accuracy.png beside this file.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/pruning.py [step] [refresh] [accuracy]
    [--rounds N] [--data-dir FOLDER] [--epochs N] [--seeds N] [--images N]
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
from pruning_setup import BATCH, EPOCHS, NETS, STEPS, data, ramp
from step_time import Times

from keras_optkit.callbacks import Pruning
from keras_optkit.compression.pruning.select import select_kernels
from keras_optkit.compression.pruning.structures import Structure
from keras_optkit.pruning import PolynomialDecay, sparsity

HERE = pathlib.Path(__file__).parent
BACKEND = keras.backend.backend()
LEVELS = (0.0, 0.5, 0.75, 0.875, 0.95)


def tfmot(*arguments: object) -> dict:
    """Returns what TF-MOT's side prints."""
    command = [sys.executable, str(HERE / "pruning_tfmot.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def compiled(name: str) -> keras.Model:
    """Returns one of the nets."""
    model = NETS[name](keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


def step(rounds: int) -> None:
    """Prints the ratio of a pruned step to a plain one for each net."""
    theirs = tfmot("step", rounds) if BACKEND == "tensorflow" else {}
    print("| net | plain | pruned | ratio | plain again | TF-MOT's plain | pruned | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name in NETS:
        x, y = data(name)
        seconds = {"plain": [], "pruned": [], "again": []}
        for i in range(rounds):
            # Each is first, second and last equally often.
            turn = list(seconds)[i % 3 :] + list(seconds)[: i % 3]
            for variant in turn:
                times = Times()
                callbacks = [times]
                if variant == "pruned":
                    schedule = PolynomialDecay(frequency=100, **ramp(STEPS[name] * EPOCHS))
                    callbacks = [Pruning(schedule), times]
                compiled(name).fit(
                    x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks
                )
                seconds[variant] += times.seconds
        plain, pruned, again = map(statistics.median, seconds.values())
        other = "- | - | -"
        if name in theirs:
            a, b = theirs[name]
            other = f"{1000 * a:.2f} ms | {1000 * b:.2f} ms | {b / a:.3f}"
        own = f"{1000 * plain:.2f} ms | {1000 * pruned:.2f} ms | {pruned / plain:.3f}"
        print(f"| {name} | {own} | {again / plain:.3f} | {other} |", flush=True)


def compile_for(function):
    """Returns a function compiled as the training step is on this backend."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    return function


def refresh() -> None:
    """Prints the seconds of one choice of masks for a ResNet50."""
    keras.utils.set_random_seed(0)
    model = keras.applications.ResNet50(weights=None)
    kernels = [keras.ops.convert_to_numpy(k) for k in select_kernels(model)]
    sizes = sum(k.size for k in kernels)
    tensors = [keras.ops.convert_to_tensor(k) for k in kernels]

    def choose(kernels, share):
        scores = [keras.ops.abs(k) for k in kernels]
        return Structure().choose(scores, [share] * len(scores), [0] * len(scores), "layer")

    choose = compile_for(choose)
    share = keras.ops.convert_to_tensor(0.8, "float32")
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        for mask in choose(tensors, share):
            keras.ops.convert_to_numpy(mask)
        seconds.append(time.perf_counter() - start)
    ours = statistics.median(seconds[1:])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "weights.npz"
        np.savez(path, *kernels)
        theirs = tfmot("refresh", path)["seconds"]
    print(f"ResNet50, {sizes / 1e6:.1f} million weights in {len(kernels)} kernels, 80 % zeros")
    print("| | seconds per refresh | of TF-MOT's |\n|---|---|---|")
    print(f"| keras_optkit, {BACKEND} | {ours:.3f} | {ours / theirs:.3f} |")
    print(f"| TF-MOT, tensorflow | {theirs:.3f} | 1 |")


def fashion_mnist(folder: str, images: int) -> dict[str, np.ndarray]:
    """Returns images in [0, 1] and labels, some to train on and all to test."""
    import tensorflow_datasets as tfds

    found = {}
    for split, ending in ((f"train[:{images}]", ""), ("test", "_test")):
        x, y = tfds.as_numpy(
            tfds.load(
                "fashion_mnist",
                split=split,
                batch_size=-1,
                data_dir=folder,
                download=False,
                as_supervised=True,
            )
        )
        found[f"x{ending}"], found[f"y{ending}"] = (x / 255).astype("float32"), y
    return found


def accuracy(folder: str, epochs: int, seeds: int, images: int) -> None:
    """Prints the test accuracy at each sparsity, and draws it."""
    given = fashion_mnist(folder, images)
    starts = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        starts.append(NETS["conv net"](keras).get_weights())
    ours: dict[str, list[float]] = {}
    for level in LEVELS:
        for seed, start in enumerate(starts):
            keras.utils.set_random_seed(seed)
            model = NETS["conv net"](keras)
            model.set_weights(start)
            steps = -(-len(given["x"]) // 128) * epochs
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("adam", loss, metrics=["accuracy"])
            schedule = PolynomialDecay(frequency=50, **ramp(steps, level))
            callbacks = [Pruning(schedule)] if level else []
            model.fit(
                given["x"],
                given["y"],
                batch_size=128,
                epochs=epochs,
                verbose=0,
                callbacks=callbacks,
            )
            assert abs(sparsity(model).sparsity - level) < 0.002
            score = model.evaluate(given["x_test"], given["y_test"], verbose=0)[1]
            ours.setdefault(str(level), []).append(score)
    with tempfile.TemporaryDirectory() as temporary:
        path = pathlib.Path(temporary) / "set.npz"
        weights = {f"{s}/{i}": w for s, start in enumerate(starts) for i, w in enumerate(start)}
        np.savez(path, **given, **weights)
        theirs = tfmot("accuracy", path, epochs, seeds, *LEVELS)
    print(f"Fashion-MNIST, {len(given['x'])} images, {epochs} epochs, {seeds} seeds")
    print(
        "Test accuracy in %: mean, and from the worst to the best seed; the noise is two standard"
    )
    print("errors of the difference of the means\n")
    print("| zeros | keras_optkit | TF-MOT | difference | noise |\n|---|---|---|---|---|")
    for level in LEVELS:
        a, b = (100 * np.array(found[str(level)]) for found in (ours, theirs))
        noise = 2 * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / seeds) if seeds > 1 else np.nan
        cells = [f"{v.mean():.2f} ({v.min():.2f} to {v.max():.2f})" for v in (a, b)]
        difference = a.mean() - b.mean()
        print(f"| {level:.1%} | {' | '.join(cells)} | {difference:+.2f} | {noise:.2f} |")
    draw({"keras_optkit": ours, "TF-MOT": theirs})


def draw(found: dict[str, dict[str, list[float]]]) -> None:
    """Draws the accuracies: a line through the means, a bar from the worst to the best seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    styles = (("#0072B2", "o", -0.6), ("#D55E00", "s", 0.6))
    for (name, scores), (color, marker, shift) in zip(found.items(), styles, strict=True):
        x = np.array([100 * level for level in LEVELS]) + shift
        y = 100 * np.array([scores[str(level)] for level in LEVELS])
        mean = y.mean(axis=1)
        bars = [mean - y.min(axis=1), y.max(axis=1) - mean]
        style = {"color": color, "marker": marker, "capsize": 5, "linewidth": 2, "markersize": 8}
        axes.errorbar(x, mean, bars, label=name, **style)
    axes.set_xlabel("zeros, %", fontsize=16)
    axes.set_ylabel("test accuracy, %", fontsize=16)
    axes.set_title("A conv net on Fashion-MNIST, pruned while it trains", fontsize=15)
    axes.tick_params(labelsize=14)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=14)
    figure.savefig(HERE / "pruning_accuracy.png", dpi=100)


def main() -> None:
    """Runs the parts that are asked for; without any, `step` and `refresh`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="step|refresh|accuracy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data-dir", help="TFDS' folder that holds fashion_mnist")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=20_000, help="to train on")
    args = parser.parse_args()
    parts = args.parts or ["step", "refresh"]
    if set(parts) - {"step", "refresh", "accuracy"}:
        parser.error(f"no such part: {' '.join(parts)}")
    if "accuracy" in parts and args.data_dir is None:
        parser.error("accuracy needs --data-dir")
    print(f"Keras {keras.__version__}, {BACKEND}, batch {BATCH}\n")
    if "step" in parts:
        step(args.rounds)
        print()
    if "refresh" in parts:
        refresh()
        print()
    if "accuracy" in parts:
        accuracy(args.data_dir, args.epochs, args.seeds, args.images)


if __name__ == "__main__":
    main()
