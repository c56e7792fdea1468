"""Whether a network without some channels is the old one with these channels set to zero.

Each network of keras.applications gets random weights, loses 30 % of the channels of each group
that may lose some, and is compared with a copy in which the same channels are set to zero where
they are made. The norms are without shifts, so that a channel of zeros stays one. The table shows
the largest difference of a logit, relative to the largest logit, and beside it how far the images
of one batch are apart, which shows that the logits depend on them.

Each network that is finished is kept in `outputs`, so a run that was stopped goes on there.

Usage: python benchmarks/channel_exactness.py [NETWORK ...]
"""

import os
import pathlib
import sys
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from finished import OUTPUTS, Finished

from keras_optkit.compression.structured import (
    blocks,
    choose,
    linear,
    plan,
    prune_channels,
    rules,
    shrink,
    trace,
)
from keras_optkit.core import graph

# Where the reference is that the tests use.
TESTS = pathlib.Path(__file__).parents[1] / "tests" / "compression" / "structured"
NETWORKS = [
    *("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2"),
    *("ResNet152V2", "InceptionV3", "InceptionResNetV2", "Xception", "MobileNet", "MobileNetV2"),
    *("MobileNetV3Small", "MobileNetV3Large", "DenseNet121", "DenseNet169", "DenseNet201"),
    *("NASNetMobile", "NASNetLarge", *(f"EfficientNetB{i}" for i in range(8))),
    *("EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3"),
    *("EfficientNetV2S", "EfficientNetV2M", "EfficientNetV2L"),
    *("ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtXLarge"),
]
SHARE_THAT_LEAVES = 0.3
TOLERANCE = 1e-5
# What the rows depend on, besides the functions below.
SOURCES = [blocks, choose, graph, linear, plan, prune_channels, rules, shrink, trace]
ROW = "{:<18}{:>9}{:>11}{:>9}{:>7}{:>12}{:>8}"


def compare(name: str) -> dict[str, Any]:
    """Returns what was found of a network."""
    from channel_reference import randomize, set_to_zero

    keras.backend.clear_session()
    size = 75 if name.startswith(("Inception", "Xception")) else 64
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    images = np.random.default_rng(1).uniform(-1, 1, (4, size, size, 3)).astype("float32")
    if name.startswith(("ConvNeXt", "EfficientNet")):
        images = (images + 1) * 127.5  # These rescale by themselves.
    randomize(model, images)
    small, report = prune_channels.prune_channels(
        model, 1 - SHARE_THAT_LEAVES, "random", of="channels", seed=0, return_report=True
    )
    got = keras.ops.convert_to_numpy(small(images, training=False))
    set_to_zero(model, report.stayed)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    scale = np.abs(expected).max()
    widths = report.widths.values()
    lost = 1 - sum(after for _, after in widths) / sum(before for before, _ in widths)
    parameters, flops = (after / before for before, after in (report.parameters, report.flops))
    return {
        "channels": f"{lost:.1%}",
        "parameters": f"{parameters:.1%}",
        "flops": f"{flops:.1%}",
        "whole": len(report.whole),
        "difference": float(np.abs(got - expected).max() / scale),
        "apart": float(np.ptp(expected, axis=0).max() / scale),
    }


def main(names: list[str]) -> None:
    """Prints a line for each network, and what they come to."""
    sys.path.insert(0, str(TESTS))
    import channel_reference

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Each network runs on two batches; compiling it would take most of the time.
        tf.config.run_functions_eagerly(True)
    sources = [*SOURCES, channel_reference, compare]
    share = {"share that leaves": SHARE_THAT_LEAVES}
    done = Finished(OUTPUTS / "channel_exactness.json", share, sources)
    print(ROW.format("network", "channels", "parameters", "FLOPs", "kept", "largest", "images"))
    print(ROW.format("", "gone", "left", "left", "whole", "difference", "apart"))
    names = names or NETWORKS
    for name in names:
        if name not in done.rows:
            done.add(name, compare(name))
        row = done.rows[name]
        last = f"{row['difference']:.1e}", f"{row['apart']:.0e}"
        print(ROW.format(name, *list(row.values())[:4], *last), flush=True)
    above = [name for name in names if not done.rows[name]["difference"] <= TOLERANCE]
    print(f"{len(names)} networks; above {TOLERANCE}: {', '.join(above) or 'none'}")


if __name__ == "__main__":
    main(sys.argv[1:])
