"""Images per second of random affine augmentation: ours beside Keras', and beside a bare cast.

    python benchmarks/augmentation.py

Every contender gets the same uint8 batches, in this process, on the same cores. The rounds are
interleaved, so that a slow minute of the machine is everyone's, and the median round counts. What
a pipeline takes to start, tracing and compiling included, is not counted.
"""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from keras_optkit.augmentation import RandomAffine, from_image_data_generator
from keras_optkit.augmentation.warp import warp

CASES = ((224, 32), (32, 128))  # image size in pixels, images in a batch
AFFINE = {
    "rotation": 20,
    "translation": 0.2,
    "zoom": 0.2,
    "horizontal_flip": True,
    "fill_mode": "reflect",
}
CLASSIC = {
    "rotation_range": 20,
    "width_shift_range": 0.2,
    "height_shift_range": 0.2,
    "horizontal_flip": True,
    "vertical_flip": True,
    "rescale": 1 / 255,
}


def contenders(images: np.ndarray) -> dict:
    """Returns a pipeline without end, an iterable of batches, under each name."""
    batch = tf.constant(images)
    dataset = tf.data.Dataset.from_tensors(batch).repeat()
    table = RandomAffine(**AFFINE).sample(
        lambda n: keras.random.uniform((len(images), n), seed=0), *images.shape[1:3]
    )
    keras_affine = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(20 / 360),
            keras.layers.RandomTranslation(0.2, 0.2),
            keras.layers.RandomZoom(0.2),
        ]
    )
    generator = ImageDataGenerator(**CLASSIC).flow(images, batch_size=len(images), shuffle=False)

    def parallel(function):
        return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    return {
        "a bare cast to float32": parallel(lambda x: tf.cast(x, tf.float32)),
        "affine: keras.layers, 4 in a row": parallel(lambda x: keras_affine(x, training=True)),
        "affine: RandomAffine, dataset.map": parallel(RandomAffine(**AFFINE)),
        "affine: RandomAffine, layer.map": RandomAffine(**AFFINE).map(dataset),
        "affine: the resampling alone, tf.function": calls(False, batch, table),
        "affine: the resampling alone, tf.function with XLA": calls(True, batch, table),
        "flip: keras.layers.RandomFlip": parallel(keras.layers.RandomFlip("horizontal")),
        "flip: RandomAffine, layer.map": RandomAffine(horizontal_flip=True).map(dataset),
        "classic: ImageDataGenerator": generator,
        "classic: from_image_data_generator, layer.map": from_image_data_generator(**CLASSIC).map(
            dataset
        ),
    }


def calls(jit_compile: bool, batch, table):
    """Calls the graph engine again and again, outside of any pipeline."""
    function = tf.function(warp, jit_compile=jit_compile)
    while True:
        yield function(batch, table["matrices"])


def images_per_second(pipeline, batch_size: int, seconds: float) -> float:
    """Takes batches for as long as told, and reads each to the end."""
    # A fresh iterator, which goes when this returns: none works ahead in the turn of another.
    iterator = iter(pipeline)
    for _ in range(3):
        next(iterator)
    start, batches = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        np.asarray(next(iterator))
        batches += 1
    return batches * batch_size / elapsed


def measure(size: int, batch_size: int, rounds: int, seconds: float) -> list[dict]:
    """Returns a row per contender."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3)).astype("uint8")
    pipelines = contenders(images)
    speeds = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, pipeline in pipelines.items():
            speeds[name].append(images_per_second(pipeline, batch_size, seconds))
    return [
        {
            "size": size,
            "batch_size": batch_size,
            "name": name,
            "images_per_second": round(statistics.median(values)),
            "slowest_round": round(min(values)),
            "fastest_round": round(max(values)),
        }
        for name, values in speeds.items()
    ]


def main() -> None:
    """Measures all cases and prints a table of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per contender and round")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()

    rows = []
    for size, batch_size in CASES:
        print(f"\n{size} x {size} pixels, uint8, batches of {batch_size}: images per second")
        found = measure(size, batch_size, arguments.rounds, arguments.seconds)
        for row in found:
            spread = f"{row['slowest_round']:>9,} to {row['fastest_round']:,}"
            print(f"  {row['name']:<52}{row['images_per_second']:>9,}  {spread}")
        rows += found
    result = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "rows": rows,
    }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
