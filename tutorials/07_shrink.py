"""Shrink and ship: whole channels leave a trained model, and what that is worth in a file.

    python tutorials/07_shrink.py                    # about a minute and a half on two cores
    KERAS_BACKEND=jax python tutorials/07_shrink.py

It prints one table that compares the original with three smaller models: accuracy with its
uncertainty, bytes, and latency on LiteRT. It writes each model as .tflite, in float32 and int8.

Zeros inside a dense file save nothing (05_pruning.py measures it). Here channels leave with all
that belongs to them, so what is left is an ordinary model, only smaller.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers

from keras_optkit import callbacks, data, distillation, export, pruning
from keras_optkit.layers import ConvBNAct, ResidualBNBlock

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/shrink"))
parser.add_argument("--epochs", type=int, default=12)
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)

# 1. A trained model -------------------------------------------------------------------------------

train, test = (
    [np.concatenate(parts) for parts in zip(*data.load(split=split, shuffle=False), strict=True)]
    for split in ("train[:70%]", "train[70%:]")
)


def compiled(model, rate=2e-3):
    """Compiles a model anew: a smaller model needs an optimizer of its own."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


keras.utils.set_random_seed(0)
original = compiled(
    keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            ConvBNAct(32, 3, padding="same", momentum=0.9, name="stem"),
            ResidualBNBlock(32, momentum=0.9, name="block1"),
            ResidualBNBlock(64, strides=2, momentum=0.9, name="block2"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="head"),
        ],
        name="digits",
    )
)
original.fit(*train, batch_size=32, epochs=args.epochs, verbose=0)
original.save(args.output / "original.keras")

# 2. Half of the operations leave ------------------------------------------------------------------
#
# What is added to each other must lose the same channels: the stem, and both ends of block1. The
# graph tells; the report lists each layer, and would list what could not be followed. The original
# stays as it is.

halved, report = pruning.prune_channels(original, 0.5, of="flops", return_report=True)
print(report)

# The accuracy falls at once, and comes back with some training. Here the original helps: it is the
# teacher, and the smaller model its student.

at_once = compiled(halved).evaluate(*test, verbose=0, return_dict=True)["accuracy"]
distiller = distillation.Distiller(halved, original, distillation.SoftTargets(4.0), alpha=0.5)
compiled(distiller, 1e-3).fit(*train, batch_size=32, epochs=args.epochs // 2, verbose=0)
trained = compiled(halved).evaluate(*test, verbose=0, return_dict=True)["accuracy"]
print(f"\nAccuracy without half of the operations: {at_once:.1%}, and trained: {trained:.1%}\n")

# 3. The gradual way -------------------------------------------------------------------------------
#
# `GroupSparsity` pulls channels to zero while the model trains, against what the loss needs. What
# ended at zero leaves without a change; `target` decides how much more does. The pull goes with the
# learning rate: at a small rate, or in few epochs, nothing gets as far as zero.

gradual = compiled(keras.models.load_model(args.output / "original.keras"), 5e-3)
pull = callbacks.GroupSparsity(1.0, duration=0.3)
history = gradual.fit(*train, batch_size=32, epochs=args.epochs, verbose=0, callbacks=[pull])
gone = history.history["group_sparsity"][-1]
print(f"The gradual way: {gone:.0%} of the channels that may leave are zero")
gradual = pruning.prune_channels(gradual, 0.25, "gamma", of="flops", allocation="global")
compiled(gradual, 1e-3).fit(*train, batch_size=32, epochs=args.epochs // 2, verbose=0)

# 4. A latency as the target -----------------------------------------------------------------------
#
# Half of the operations is not half of the time. With `of="latency"` candidates are converted and
# timed beside the original, on this machine, until one takes the share that was asked for. LiteRT
# computes channels in blocks, so a width of 20 may take far longer than one of 16: `multiple_of`.

timed, report = pruning.prune_channels(
    original, 0.5, of="latency", multiple_of=16, example=test[0][:1], return_report=True
)
print(report, "\n")
compiled(timed, 1e-3).fit(*train, batch_size=32, epochs=args.epochs // 2, verbose=0)

# 5. What came of it -------------------------------------------------------------------------------
#
# All models answer the same images and are timed in turn. The notes say which differences are no
# more than noise.

models = {"original": original, "half": halved, "gradual": gradual, "timed": timed}
table = export.compare(models, tuple(test), representative_data=train[0], directory=args.output)
table.print()
print(f"\nWrote {len(list(args.output.glob('*.tflite')))} .tflite files to {args.output}")
