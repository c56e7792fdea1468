"""Whether a network without some channels is the old one with these channels set to zero.

Each network of keras.applications gets random weights, loses 30 % of the channels of each group
that may lose some, and is compared with a copy in which the same channels are set to zero where
they are made. The norms are without shifts, so that a channel of zeros stays one. The table shows
the largest difference of a logit, relative to the largest logit, and beside it how far the images
of one batch are apart, which shows that the logits depend on them.

Usage: python benchmarks/channel_exactness.py [NETWORK ...]
"""

import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_optkit.compression.structured.prune_channels import prune_channels

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
ROW = "{:<18}{:>9}{:>11}{:>9}{:>7}{:>12}{:>8}"


def compare(name: str) -> str:
    """Returns a line of the table."""
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
    small, report = prune_channels(
        model, 1 - SHARE_THAT_LEAVES, "random", of="channels", seed=0, return_report=True
    )
    got = small.predict(images, verbose=0)
    set_to_zero(model, report.stayed)
    expected = model.predict(images, verbose=0)
    scale = np.abs(expected).max()
    widths = report.widths.values()
    lost = 1 - sum(after for _, after in widths) / sum(before for before, _ in widths)
    parameters, flops = (after / before for before, after in (report.parameters, report.flops))
    difference, apart = np.abs(got - expected).max() / scale, np.ptp(expected, axis=0).max() / scale
    return ROW.format(
        name,
        f"{lost:.1%}",
        f"{parameters:.1%}",
        f"{flops:.1%}",
        len(report.whole),
        f"{difference:.1e}",
        f"{apart:.0e}",
    )


def main(names: list[str]) -> None:
    """Prints a line for each network."""
    sys.path.insert(0, str(TESTS))
    print(ROW.format("", "channels", "parameters", "FLOPs", "kept", "largest", "images"))
    print(ROW.format("", "gone", "left", "left", "whole", "difference", "apart"))
    for name in names or NETWORKS:
        print(compare(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
