"""What folding BatchNorm gives: exactness, `predict` time and LiteRT latency, before and after.

Seven networks of keras.applications with random weights and random statistics near those of random
images, at 72 pixels (Xception takes no fewer than 71). The two models of a network are measured in
turn, so that drift of the machine hits both alike; the times are medians.

Usage: python benchmarks/batchnorm.py [ROUNDS [NETWORK ...]]
"""

import statistics
import sys
import tempfile

import keras
import numpy as np

from keras_optkit.compression.export.measure import interleaved_times
from keras_optkit.export import to_litert
from keras_optkit.normalization import fold_batch_norm

NETWORKS = (
    "ResNet50",
    "ResNet50V2",
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "DenseNet121",
    "Xception",
)
PIXELS, IMAGES, BATCH = 72, 16, 8


def network(name: str, images: np.ndarray) -> keras.Model:
    """Returns a network whose activations neither vanish nor explode."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model = getattr(keras.applications, name)(
        weights=None, input_shape=images.shape[1:], classes=100, classifier_activation=None
    )
    norms = [n for n in model._flatten_layers() if isinstance(n, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0
        for variable in (norm.gamma, norm.beta):
            if variable is not None:
                variable.assign(variable + rng.normal(0, 0.2, variable.shape))
    # Each norm takes the statistics of this one batch.
    model(images, training=True)
    for norm in norms:
        mean, variance = map(keras.ops.convert_to_numpy, (norm.moving_mean, norm.moving_variance))
        noise = rng.normal(0, 0.2, mean.shape) * np.sqrt(variance)
        norm.moving_mean.assign(mean + noise)
        norm.moving_variance.assign(
            variance * rng.uniform(0.7, 1.4, mean.shape) + 0.1 * variance.mean()
        )
    return model


def latency(models: list[keras.Model], images: np.ndarray, rounds: int) -> list[float]:
    """Returns the median milliseconds of one image on one thread of LiteRT."""
    with tempfile.TemporaryDirectory() as folder:
        files = [
            to_litert(model, f"{folder}/{i}.tflite", representative_data=images)
            for i, model in enumerate(models)
        ]
        calls = [file.timed_call(threads=1, batch_size=1, x=images) for file in files]
        return [statistics.median(times) for times in interleaved_times(calls, 2 * rounds, 3)]


def prediction(models: list[keras.Model], images: np.ndarray, rounds: int) -> list[float]:
    """Returns the median milliseconds per image of `predict`."""
    calls = [lambda m=model: m.predict(images, batch_size=BATCH, verbose=0) for model in models]
    times = interleaved_times(calls, rounds, 1)
    return [statistics.median(each) / len(images) for each in times]


def main() -> None:
    """Prints the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 11
    images = np.random.default_rng(1).uniform(0, 255, (IMAGES, PIXELS, PIXELS, 3))
    images = images.astype("float32")
    print(f"{PIXELS} pixels, float32; ms per image before -> after, and the ratio before / after")
    print(
        f"{'network':17}{'norms':>6}{'left':>6}{'difference':>12}"
        f"{f'predict, batch {BATCH}':>26}{'LiteRT, 1 thread':>26}"
    )
    for name in sys.argv[2:] or NETWORKS:
        model = network(name, images)
        folded, report = fold_batch_norm(model, return_report=True)
        before, after = (m.predict(images, verbose=0) for m in (model, folded))
        difference = np.abs(before - after).max() / np.abs(before).max()
        line = f"{name:17}{len(report.folded) + len(report.left):6}{len(report.left):6}"
        line += f"{difference:12.1e}"
        for measure in (prediction, latency):
            old, new = measure([model, folded], images, rounds)
            line += f"{f'{old:.2f} -> {new:.2f} ({old / new:.2f}x)':>26}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
