"""What a network keeps when channels leave it: accuracy, operations, parameters, time on LiteRT.

A network built as ResNet-20 is trained on a part of Fashion-MNIST, then half of its operations
leave with their channels in several ways, and each result is trained for as many epochs as the
original is trained on. The gradual way has trained from the start with channels pulled to zero. One
row is fine-tuned against the original, when that is trained to the end, as its teacher.

The table shows, over the seeds, the test accuracy right after the channels have left and after
training, the difference to the original that was trained as long, and what is left of operations,
parameters and latency. The latency is that of one sample on one thread of this machine, all files
in turn, of the first seed. The picture, channel_pruning.png beside this file, shows the same.

Usage: python benchmarks/channel_pruning.py --data-dir FOLDER [--images N] [--epochs N] [--tune N]
    [--seeds N] [--width N] [--blocks N]
"""

import argparse
import dataclasses
import pathlib

import keras
import numpy as np
from keras import layers
from pruning import fashion_mnist

from keras_optkit.callbacks import GroupSparsity, LearningRate
from keras_optkit.distillation import Distiller, SoftTargets
from keras_optkit.export import compare
from keras_optkit.pruning import prune_channels
from keras_optkit.schedules import CosineDecay

HERE = pathlib.Path(__file__).parent
BATCH, RATE = 64, 3e-3
ORIGINAL, GRADUAL, DISTILLED = "original", "gradual, gamma, global", "gamma, global, distilled"
# What `prune_channels` gets for each way.
WAYS = {
    "l2, uniform": {"criterion": "l2"},
    "l2, global": {"criterion": "l2", "allocation": "global"},
    "gamma, global": {"criterion": "gamma", "allocation": "global"},
    "taylor, global": {"criterion": "taylor", "allocation": "global"},
    GRADUAL: {"criterion": "gamma", "allocation": "global"},
    DISTILLED: {"criterion": "gamma", "allocation": "global"},
}


@dataclasses.dataclass
class Result:
    """What was measured of one way, for each seed."""

    model: keras.Model | None = None
    at_once: list[float] = dataclasses.field(default_factory=list)
    trained: list[float] = dataclasses.field(default_factory=list)
    flops: list[float] = dataclasses.field(default_factory=list)
    parameters: list[float] = dataclasses.field(default_factory=list)
    latency: float = 1.0


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


def run(seed: int, data: dict, args: argparse.Namespace, results: dict[str, Result]) -> None:
    """Trains the original and all ways from one seed, and adds what was measured."""
    keras.utils.set_random_seed(seed)
    start = compiled(network(args.width, args.blocks))
    teacher = start
    first = start.get_weights()
    fit(start, data, args.epochs, RATE)
    sample = data["x"][:1000], data["y"][:1000]
    for name, result in results.items():
        keras.utils.set_random_seed(seed)
        model = compiled(keras.models.clone_model(start))
        flops, parameters = 1.0, 1.0
        model.set_weights(first if name == GRADUAL else start.get_weights())
        if name == GRADUAL:
            fit(model, data, args.epochs, RATE, (GroupSparsity(args.strength, 0.3),))
        if name in WAYS:
            model, report = prune_channels(
                compiled(model), 0.5, of="flops", data=sample, return_report=True, **WAYS[name]
            )
            flops, parameters = (b / a for a, b in (report.flops, report.parameters))
        result.at_once.append(score(model, data))
        trained = model
        if name == DISTILLED:
            trained = Distiller(model, teacher, SoftTargets(4.0), alpha=0.7)
        fit(compiled(trained), data, args.tune, RATE)
        result.trained.append(score(model, data))
        if name == ORIGINAL:
            teacher = model
        result.flops.append(flops)
        result.parameters.append(parameters)
        result.model = result.model or model


def add_latencies(results: dict[str, Result], data: dict) -> None:
    """Notes what each model takes on LiteRT, as a share of what the original takes."""
    sample = data["x_test"][:500], data["y_test"][:500]
    models = {name: result.model for name, result in results.items()}
    report = compare(models, sample, quantizations=[None], runs=300, warmup=20)
    times = {name: m.files["float32"].latency.median_ms for name, m in report.models.items()}
    for name, result in results.items():
        result.latency = times[name] / times[ORIGINAL]


def show(results: dict[str, Result]) -> None:
    """Prints the table."""
    print("| | at once | trained | to the original | noise | FLOPs | parameters | latency |")
    print("|---|---|---|---|---|---|---|---|")
    base = np.array(results[ORIGINAL].trained)
    for name, result in results.items():
        values = np.array(result.trained)
        pairs = values - base
        noise = 2 * pairs.std(ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.nan
        cells = [
            f"{np.mean(result.at_once):.1f}",
            f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})",
            f"{pairs.mean():+.2f}",
            f"{noise:.2f}",
            *(f"{share:.1%}" for share in map(np.mean, (result.flops, result.parameters))),
            f"{result.latency:.1%}",
        ]
        print(f"| {name} | {' | '.join(cells)} |")


def draw(results: dict[str, Result], path: pathlib.Path) -> None:
    """Draws the accuracy of each seed, and what is left of operations and latency."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    places = np.arange(len(results))[::-1]
    base = np.mean(results[ORIGINAL].trained)
    left.axvspan(base - 0.5, base + 0.5, color="#0072B2", alpha=0.12, label="original ± 0.5")
    for place, result in zip(places, results.values(), strict=True):
        left.plot(result.trained, [place] * len(result.trained), "o", color="#0072B2", alpha=0.7)
        left.plot(np.mean(result.trained), place, "|", color="black", markersize=24)
    shares = {
        "FLOPs": ([np.mean(r.flops) for r in results.values()], "#0072B2", 0.2),
        "latency": ([r.latency for r in results.values()], "#D55E00", -0.2),
    }
    for label, (values, color, shift) in shares.items():
        right.barh(places + shift, 100 * np.array(values), 0.38, color=color, label=label)
    left.set_yticks(places, list(results), fontsize=13)
    left.set_xlabel("test accuracy after training, %", fontsize=14)
    right.set_xlabel("left of the original, %", fontsize=14)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize=12)
        axes.grid(axis="x", alpha=0.3)
    figure.legend(fontsize=13, loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Trains, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="TFDS' folder that holds fashion_mnist")
    parser.add_argument("--images", type=int, default=6_000, help="to train on")
    parser.add_argument("--epochs", type=int, default=4, help="before channels leave")
    parser.add_argument("--tune", type=int, default=6, help="epochs afterwards")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--blocks", type=int, default=3, help="in each stage; 3 make ResNet-20")
    parser.add_argument("--strength", type=float, default=1.0, help="of GroupSparsity")
    parser.add_argument("--picture", type=pathlib.Path, default=HERE / "channel_pruning.png")
    args = parser.parse_args()
    data = fashion_mnist(args.data_dir, args.images)
    results = {name: Result() for name in (ORIGINAL, *WAYS)}
    for seed in range(args.seeds):
        run(seed, data, args, results)
    add_latencies(results, data)
    print(
        f"Keras {keras.__version__}, {keras.backend.backend()}. Fashion-MNIST, {len(data['x'])} "
        f"images, {args.epochs} + {args.tune} epochs, {args.seeds} seeds, a net of "
        f"{6 * args.blocks + 2} layers, width {args.width}."
    )
    print("Accuracies in %: mean, and from the worst to the best seed. The noise is two standard")
    print("errors of the mean difference over the seeds.\n")
    show(results)
    draw(results, args.picture)


if __name__ == "__main__":
    main()
