"""BatchNorm on scikit-learn's digits: what it buys, and what to do about it afterwards.

    python tutorials/02_normalization.py                     # under two minutes on two cores
    python tutorials/02_normalization.py --output my_folder  # where the picture goes

1. Curves of the same network without a norm, with BatchNorm, and with ghost BatchNorm, at two batch
   sizes: curves.png and a table.
2. Recalibrating: statistics that lag behind a short training.
3. Freezing: fine-tuning on small batches.
4. Folding: the norms leave the network before it is shipped.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import argparse
import pathlib
import statistics

import keras
import numpy as np

import keras_optkit as optkit
from keras_optkit.normalization import (
    ConvBNAct,
    GhostBatchNormalization,
    fold_batch_norm,
    freeze_batch_norm,
    recalibrate_batch_norm,
)
from keras_optkit.normalization.collect import batch_norm_layers

EPOCHS, SEEDS, RATE = 12, 2, 0.1
BATCHES = (32, 256)
NORMS = {
    "no norm": (None, "#555555"),
    "BatchNorm": ("batch", "#d1495b"),
    "ghost BatchNorm, 32": (lambda: GhostBatchNormalization(32, momentum=0.9), "#2e86ab"),
}


def make_model(norm, momentum=0.9):
    """Four convolutions; `norm` is all that differs. A norm makes their biases useless."""
    blocks = [
        ConvBNAct(filters, 3, strides, padding="same", norm=norm, momentum=momentum)
        for filters, strides in ((16, 1), (32, 2), (32, 1), (64, 2))
    ]
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 255),
            *blocks,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=0.9), loss, metrics=["accuracy"])
    return model


def load(batch_size, seed):
    """Returns the training and the test split."""
    return optkit.data.load(split=["train", "test"], batch_size=batch_size, seed=seed)


def accuracy(model, data):
    """Returns the accuracy in percent."""
    return 100 * model.evaluate(data, verbose=0, return_dict=True)["accuracy"]


def compare():
    """Trains each norm at each batch size; returns the accuracies on the test split by epoch."""
    curves = {}
    for batch_size in BATCHES:
        for name, (norm, _) in NORMS.items():
            for seed in range(SEEDS):
                keras.utils.set_random_seed(seed)
                train, test = load(batch_size, seed)
                history = (
                    make_model(norm)
                    .fit(train, validation_data=test, epochs=EPOCHS, shuffle=False, verbose=0)
                    .history["val_accuracy"]
                )
                curves.setdefault((batch_size, name), []).append([100 * v for v in history])
    return curves


def print_table(curves):
    """Prints a line for each norm and batch size."""
    print(f"\n1. Accuracy on the test split, median of {SEEDS} seeds, learning rate {RATE}")
    print(f"{'batch':>6}  {'':20} {'epoch 3':>8} {f'epoch {EPOCHS}':>9}  epochs to 95 %")
    for (batch_size, name), runs in curves.items():
        third, last = (statistics.median(run[i] for run in runs) for i in (2, -1))
        reached = [next((i + 1 for i, v in enumerate(run) if v >= 95), None) for run in runs]
        shown = ", ".join("never" if epoch is None else str(epoch) for epoch in reached)
        print(f"{batch_size:>6}  {name:20} {third:>7.1f}% {last:>8.1f}%  {shown}")


def plot(curves, path):
    """All curves in one picture: a panel for each batch size, a line for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    for axis, batch_size in zip(axes, BATCHES, strict=True):
        for name, (_, color) in NORMS.items():
            for i, run in enumerate(curves[batch_size, name]):
                label = name if i == 0 else None
                epochs = range(1, EPOCHS + 1)
                axis.plot(epochs, run, color=color, label=label, linewidth=2, alpha=0.8)
        axis.set_title(f"batches of {batch_size}", fontsize=15)
        axis.set_xlabel("epoch", fontsize=14)
        axis.tick_params(labelsize=13)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("accuracy on the test split (%)", fontsize=14)
    axes[0].set_ylim(0, 101)
    axes[1].legend(fontsize=14, loc="lower right")
    figure.suptitle(f"Digits, one line a seed, {SEEDS} seeds each", fontsize=15)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def recalibrate():
    """With Keras' momentum of 0.99, 36 steps leave 70 % of the initial statistics in place."""
    keras.utils.set_random_seed(0)
    train, test = load(256, seed=0)
    model = make_model("batch", momentum=0.99)
    model.fit(train, epochs=6, shuffle=False, verbose=0)
    before = accuracy(model, test)
    recalibrate_batch_norm(model, train)
    print("\n2. Recalibrating a model after 6 epochs of large batches, momentum 0.99")
    print(f"   accuracy {before:.1f}% before, {accuracy(model, test):.1f}% after")
    return model


def fine_tune(model):
    """Trains on 40 images that are dimmed, two at a time, with the norms free and frozen."""
    (images, labels), (test_images, test_labels) = (
        next(split.unbatch().batch(2000).as_numpy_iterator()) for split in load(256, seed=0)
    )
    images, test_images = images * 0.5 + 60, test_images * 0.5 + 60
    start = model.get_weights()
    print("\n3. Fine-tuning on 40 dimmed images in batches of 2")

    def dimmed(model):
        found = model.evaluate(test_images, test_labels, verbose=0, return_dict=True)
        return f"{100 * found['accuracy']:.1f}%"

    print(f"   accuracy on dimmed images {dimmed(model)} before")
    for name in ("free norms", "frozen norms", "recalibrated, then frozen norms"):
        tuned = make_model("batch", momentum=0.99)
        tuned.set_weights(start)
        if name.startswith("recalibrated"):
            # Without labels: all that the statistics need is images of the new kind.
            recalibrate_batch_norm(tuned, images)
        if "frozen" in name:
            freeze_batch_norm(tuned)
        tuned.optimizer.learning_rate = RATE / 500
        tuned.fit(images[:40], labels[:40], batch_size=2, epochs=5, verbose=0)
        print(f"   accuracy on dimmed images {dimmed(tuned)} after, with {name}")


def fold(model):
    """The same function with fewer layers."""
    _, test = load(256, seed=0)
    folded = fold_batch_norm(model)
    images = np.concatenate([images for images, _ in test.as_numpy_iterator()])
    before, after = (m.predict(images, verbose=0) for m in (model, folded))
    count = [len(batch_norm_layers(m)) for m in (model, folded)]
    print("\n4. Folding the norms into the convolutions")
    print(f"   norms {count[0]} before, {count[1]} after")
    print(f"   parameters {model.count_params():,} before, {folded.count_params():,} after")
    print(f"   largest difference of a logit {np.abs(after - before).max():.1e}")


def main():
    """Does all of it, in order."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("outputs/02_normalization")
    )
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    curves = compare()
    print_table(curves)
    plot(curves, args.output / "curves.png")
    model = recalibrate()
    fine_tune(model)
    fold(model)
    print(f"\nWrote {args.output / 'curves.png'}")


if __name__ == "__main__":
    main()
