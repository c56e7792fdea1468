"""What a network keeps when channels leave it: accuracy, operations, parameters.

A network built as ResNet-20 is trained on a part of Fashion-MNIST, then half of its operations
leave with their channels in several ways, and each result is trained for as many epochs as the
original is trained on. The gradual way has trained from the start with channels pulled to zero. One
row is fine-tuned against the original, when that is trained to the end, as its teacher.

The table shows, over the seeds, the test accuracy right after the channels have left and after
training, the difference to the original that was trained as long, and what is left of operations
and parameters. `channel_latency.py` times the models.

Each training that is finished is kept in `outputs/channel_pruning`, so a run that was stopped goes
on there. `--at-most` stops it by itself after so many.

Usage: python benchmarks/channel_pruning.py --data-dir FOLDER [--images N] [--epochs N] [--tune N]
    [--seeds N] [--width N] [--blocks N] [--at-most N]
"""

import argparse
import sys

import keras
import numpy as np
from finished import OUTPUTS, Finished
from keras import layers
from pruning import fashion_mnist

from keras_optkit.callbacks import GroupSparsity, LearningRate
from keras_optkit.compression.distillation import distiller, response
from keras_optkit.compression.structured import (
    blocks,
    choose,
    criteria,
    group_pull,
    group_sparsity,
    linear,
    plan,
    rules,
    shrink,
    trace,
)
from keras_optkit.distillation import Distiller, SoftTargets
from keras_optkit.pruning import prune_channels
from keras_optkit.schedules import CosineDecay

FOLDER = OUTPUTS / "channel_pruning"
BATCH, RATE = 64, 3e-3
START, ORIGINAL, GRADUAL = "start", "original", "gradual, gamma, global"
DISTILLED = "gamma, global, distilled"
# What `prune_channels` gets for each way.
WAYS = {
    "l2, uniform": {"criterion": "l2"},
    "l2, uniform, of 8": {"criterion": "l2", "multiple_of": 8},
    "gamma, global": {"criterion": "gamma", "allocation": "global"},
    GRADUAL: {"criterion": "gamma", "allocation": "global"},
    DISTILLED: {"criterion": "gamma", "allocation": "global"},
}
# What the results depend on, besides the functions below.
SOURCES = [blocks, choose, criteria, group_pull, group_sparsity, linear, plan, rules]
SOURCES += [shrink, trace, distiller, response]


def network(width: int, blocks: int) -> keras.Model:
    """Returns a residual network of three stages, of 14 by 14 pixels and less.

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.
    """

    def conv(x, filters, size, strides=1):
        x = layers.Conv2D(filters, size, strides, "same", use_bias=False)(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    inputs = keras.Input((28, 28, 1))
    x = layers.ReLU()(conv(inputs, width, 3, 2))
    for stage in range(3):
        for block in range(blocks):
            filters, strides = width * 2**stage, 2 if stage and not block else 1
            y = layers.ReLU()(conv(x, filters, 3, strides))
            y = conv(y, filters, 3)
            same = strides == 1 and x.shape[-1] == filters
            shortcut = x if same else conv(x, filters, 1, strides)
            x = layers.ReLU()(layers.Add()([shortcut, y]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def compiled(model: keras.Model) -> keras.Model:
    """Compiles a model anew."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"])
    return model


def fit(model: keras.Model, data: dict, epochs: int, rate: float, extra: tuple = ()) -> None:
    """Trains a compiled model under a rate that falls along a cosine."""
    callbacks = [LearningRate(CosineDecay(rate)), *extra]
    model.fit(data["x"], data["y"], BATCH, epochs, verbose=0, callbacks=callbacks)


def score(model: keras.Model, data: dict) -> float:
    """Returns the test accuracy in percent."""
    return 100 * compiled(model).evaluate(data["x_test"], data["y_test"], 500, verbose=0)[1]


def path_of(seed: int, name: str):
    """Returns where a model is kept."""
    return FOLDER / f"{seed}_{name.replace(', ', '_').replace(' ', '_')}.keras"


def train(seed: int, name: str, data: dict, args: argparse.Namespace) -> dict[str, float]:
    """Trains one way from one seed, keeps its model, and returns what was measured."""
    keras.utils.set_random_seed(seed)
    if name in (START, GRADUAL):
        model = compiled(network(args.width, args.blocks))
        pull = (GroupSparsity(args.strength, 0.3),) if name == GRADUAL else ()
        fit(model, data, args.epochs, RATE, pull)
    else:
        model = compiled(keras.models.load_model(path_of(seed, START), compile=False))
    found = {"flops": 1.0, "parameters": 1.0}
    if name in WAYS:
        model, report = prune_channels(model, 0.5, of="flops", return_report=True, **WAYS[name])
        found = {key: b / a for key in found for a, b in [getattr(report, key)]}
    if name != START:
        found["at_once"] = score(model, data)
        trained = model
        if name == DISTILLED:
            teacher = keras.models.load_model(path_of(seed, ORIGINAL), compile=False)
            trained = Distiller(model, teacher, SoftTargets(4.0), alpha=0.7)
        fit(compiled(trained), data, args.tune, RATE)
    found["trained"] = score(model, data)
    FOLDER.mkdir(parents=True, exist_ok=True)
    model.save(path_of(seed, name), include_optimizer=False)
    return found


def show(rows: dict[str, dict], seeds: int) -> None:
    """Prints the table."""
    print("| | at once | trained | to the original | noise | FLOPs | parameters |")
    print("|---|---|---|---|---|---|---|")

    def all_seeds(name: str, key: str) -> np.ndarray:
        return np.array([rows[f"{seed} {name}"][key] for seed in range(seeds)])

    base = all_seeds(ORIGINAL, "trained")
    for name in (ORIGINAL, *WAYS):
        values = all_seeds(name, "trained")
        pairs = values - base
        noise = f"{2 * pairs.std(ddof=1) / np.sqrt(seeds):.2f}" if seeds > 1 else "-"
        cells = [
            f"{all_seeds(name, 'at_once').mean():.1f}",
            f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})",
            f"{pairs.mean():+.2f}",
            noise,
            *(f"{all_seeds(name, key).mean():.1%}" for key in ("flops", "parameters")),
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Trains what is not trained yet, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="TFDS' folder that holds fashion_mnist")
    parser.add_argument("--images", type=int, default=6_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=4, help="before channels leave")
    parser.add_argument("--tune", type=int, default=6, help="epochs afterwards")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--blocks", type=int, default=3, help="in each stage; 3 make ResNet-20")
    parser.add_argument("--strength", type=float, default=1.0, help="of GroupSparsity")
    parser.add_argument("--at-most", type=int, default=10_000, help="trainings in this run")
    args = parser.parse_args()
    data = fashion_mnist(args.data_dir, args.images)
    left_out = ("data_dir", "seeds", "at_most")
    settings = {k: v for k, v in vars(args).items() if k not in left_out}
    settings |= {"rate": RATE, "batch": BATCH, "ways": WAYS}
    sources = [*SOURCES, network, compiled, fit, score, train]
    done = Finished(FOLDER / "finished.json", settings, sources)
    wanted = [(s, n) for s in range(args.seeds) for n in (START, ORIGINAL, *WAYS)]
    left = [(s, n) for s, n in wanted if f"{s} {n}" not in done.rows]
    for seed, name in left[: args.at_most]:
        done.add(f"{seed} {name}", train(seed, name, data, args))
        print(f"seed {seed}, {name}: {done.rows[f'{seed} {name}']}", file=sys.stderr, flush=True)
    if len(left) > args.at_most:
        sys.exit(f"{len(left) - args.at_most} trainings are left: run it again.")
    print(
        f"Keras {keras.__version__}, {keras.backend.backend()}. Fashion-MNIST, {len(data['x'])} "
        f"images, {args.epochs} + {args.tune} epochs, {args.seeds} seed(s), a net of "
        f"{6 * args.blocks + 2} layers, width {args.width}."
    )
    print("Accuracies in %: mean, and from the worst to the best seed. The noise is two standard")
    print("errors of the mean difference over the seeds.\n")
    show(done.rows, args.seeds)


if __name__ == "__main__":
    main()
