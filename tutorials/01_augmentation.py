"""Augmentation: what it looks like, how it is put in, and which of it pays on your images.

    python tutorials/01_augmentation.py                                # scikit-learn's digits
    python tutorials/01_augmentation.py --dataset fashion_mnist        # any image set of TFDS

Read this file from top to bottom; every step is a few lines. It trains one small network with
several kinds of augmentation from several seeds, prints a table and saves two pictures to a folder:
samples.png, to look at before anything is trained, and curves.png.
"""

import argparse
import os
import pathlib
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers

import keras_optkit as optkit
from keras_optkit import augmentation

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--dataset", default="optkit_digits", help="an image set of TFDS")
parser.add_argument("--download", action="store_true", help="let TFDS download the set")
parser.add_argument("--share", type=int, default=30, help="percent of the training images to use")
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--seeds", type=int, default=2)
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/augmentation"))
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)

# 1. The data. Augmentation pays most where images are few, so only a share of them is used.

info = optkit.data.info(args.dataset, download=args.download)
has_test = "test" in info.num_examples
splits = (f"train[:{args.share}%]", "test" if has_test else "train[70%:]")
train, test = optkit.data.load(args.dataset, splits, shuffle=False, download=args.download)


def arrays(dataset):
    """All images of a dataset as uint8, the type that is the fastest to augment, and labels."""
    images, labels = map(np.concatenate, zip(*dataset.as_numpy_iterator(), strict=True))
    return images.astype("uint8"), labels


(x, y), (x_test, y_test) = arrays(train), arrays(test)
classes = len(info.class_names)
print(f"{info.name}: {len(x)} images to train on, {len(x_test)} held out, {classes} classes")

# 2. The choices. Each is one layer that takes uint8 images in [0, 255]. Those that mix labels need
#    the number of classes. Which changes leave the label what it is depends on the images: a
#    mirrored digit is no digit, so nothing is flipped here, and nothing is turned far.

affine = dict(rotation=10, translation=0.1, zoom=0.1, fill_mode="nearest")
CHOICES = {
    "none": [],
    "affine": [augmentation.RandomAffine(**affine)],
    "RandAugment": [augmentation.RandAugment(num_ops=1, magnitude=5)],
    "MixUp": [augmentation.MixUp(0.2, num_classes=classes)],
    "CutMix": [augmentation.CutMix(1.0, num_classes=classes)],
    "affine, MixUp": [
        augmentation.RandomAffine(**affine),
        augmentation.MixUp(0.2, num_classes=classes),
    ],
}

# 3. Look first. Below each sample is what was drawn for it.

pipeline = augmentation.AugmentationPipeline(CHOICES["affine, MixUp"], seed=0)
augmentation.show(pipeline, x[:6], args.output / "samples.png", labels=y[:6], samples=3)

# 4. Train. A pipeline puts layers together, ends in the normalization, and maps a dataset in
#    parallel. In inference it normalizes only: that is what held-out images go through. Labels are
#    one-hot throughout, so that all choices have the same loss.


def fit(choice, seed):
    """Trains with one of the choices, and returns the history."""
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    augment = augmentation.AugmentationPipeline(CHOICES[choice], rescale=1 / 255, seed=seed)
    one_hot = np.eye(classes, dtype="float32")
    images = tf.data.Dataset.from_tensor_slices((x, one_hot[y])).shuffle(len(x), seed=seed)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(padding="same"),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.002), "categorical_crossentropy", metrics=["accuracy"])
    held_out = augment.host(x_test, one_hot[y_test], training=False)
    history = model.fit(
        augment.map(images.batch(32)),
        validation_data=held_out,
        epochs=args.epochs,
        shuffle=False,
        verbose=0,
    )
    return history.history


runs = {}
for choice in CHOICES:
    start = time.perf_counter()
    runs[choice] = [fit(choice, seed) for seed in range(args.seeds)]
    print(f"  {choice}: {args.seeds} trainings in {time.perf_counter() - start:.0f} s", flush=True)

# 5. Compare the last epochs, over the seeds. A difference that is smaller than the spread between
#    seeds is none.

print(f"\nAccuracy on held-out images after {args.epochs} epochs, mean (lowest to highest)\n")
results = {}
for choice, histories in runs.items():
    final = [100 * np.mean(history["val_accuracy"][-3:]) for history in histories]
    seen = 100 * statistics.mean(history["accuracy"][-1] for history in histories)
    results[choice] = statistics.mean(final)
    print(
        f"  {choice:<14} {results[choice]:6.2f}%  ({min(final):.2f} to {max(final):.2f})"
        f"   on the images it saw {seen:6.2f}%"
    )
best = max(results, key=results.get)
gain = results[best] - results["none"]
print(f"\nBest here: {best!r}, {gain:+.2f} points to 'none'. Other images may prefer another one.")

# 6. The curves: an augmented model learns later and ends higher, or it was augmented too much.

from matplotlib.figure import Figure

figure = Figure(figsize=(11, 5), dpi=110, layout="constrained")
axes = figure.subplots(1, 2)
for axis, (key, title, scale) in zip(
    axes,
    [
        ("val_accuracy", "Accuracy on held-out images (%)", 100),
        ("val_loss", "Loss on held-out images", 1),
    ],
    strict=True,
):
    for choice, histories in runs.items():
        values = scale * np.mean([history[key] for history in histories], axis=0)
        axis.plot(range(1, args.epochs + 1), values, label=choice, linewidth=1.8)
    axis.set_title(title, fontsize=13)
    axis.set_xlabel("epoch", fontsize=12)
    axis.tick_params(labelsize=11)
    axis.grid(alpha=0.3)
low = min(np.mean([history["val_accuracy"][-1] for history in runs[c]]) for c in runs)
axes[0].set_ylim(100 * low - 5, 100.5)
axes[1].set_yscale("log")
axes[0].legend(fontsize=11)
figure.savefig(args.output / "curves.png")
print(f"Wrote {args.output}/ (samples.png, curves.png)")
