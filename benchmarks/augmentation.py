"""Images per second of augmentation: ours beside Keras', albumentations' and Pillow's.

    python benchmarks/augmentation.py
    python benchmarks/augmentation.py --memory

Every contender gets the same uint8 batches, in this process, on the same cores. The rounds are
interleaved, so that a slow minute of the machine is everyone's, and the median round counts. What
a pipeline takes to start, tracing and compiling included, is not counted. Memory is the highest
resident size of a process that runs one contender alone, over that of one that runs none.

"the host" is `layer.map(dataset)` where it takes the host engine, "the graph" is
`dataset.map(layer)`. albumentations (`pip install albumentations`, optional) and Pillow work on
one image after the other, called from `tf.data` in parallel like everything else here.
"""

import argparse
import json
import os
import platform
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import keras
import numpy as np
import tensorflow as tf
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from keras_optkit.augmentation import (
    RandAugment,
    RandomAffine,
    RandomColor,
    from_image_data_generator,
)

try:
    import albumentations
except ImportError:
    albumentations = None

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
COLOR = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def contenders(images: np.ndarray) -> dict[str, Callable]:
    """Returns, under each name, a function that makes an iterable of batches without end."""
    dataset = tf.data.Dataset.from_tensors(tf.constant(images)).repeat()

    def parallel(function):
        return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def image_by_image(function, dtype=tf.uint8):
        def batch(x):
            return np.stack([function(image) for image in x])

        return parallel(lambda x: tf.numpy_function(batch, [x], dtype))

    def keras_layers(*layers):
        model = keras.Sequential(layers)
        return parallel(lambda x: model(x, training=True))

    found = {
        "a bare cast to float32": lambda: parallel(lambda x: tf.cast(x, tf.float32)),
        "flip: keras.layers.RandomFlip": lambda: parallel(keras.layers.RandomFlip("horizontal")),
        "flip: ours": lambda: RandomAffine(horizontal_flip=True).map(dataset),
        "affine: keras.layers, 4 in a row": lambda: keras_layers(
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomRotation(20 / 360),
            keras.layers.RandomTranslation(0.2, 0.2),
            keras.layers.RandomZoom(0.2),
        ),
        "affine: ours": lambda: RandomAffine(**AFFINE).map(dataset),
        "classic: ImageDataGenerator": lambda: ImageDataGenerator(**CLASSIC).flow(
            images, batch_size=len(images), shuffle=False
        ),
        "classic: ours": lambda: from_image_data_generator(**CLASSIC).map(dataset),
        "color: keras.layers, 4 in a row": lambda: keras_layers(
            keras.layers.RandomBrightness(0.4),
            keras.layers.RandomContrast(0.4),
            keras.layers.RandomSaturation(0.4),
            keras.layers.RandomHue(0.1),
        ),
        "color: ours, the host": lambda: RandomColor(**COLOR).map(dataset),
        "color: ours, the graph": lambda: parallel(RandomColor(**COLOR)),
        "RandAugment: keras.layers": lambda: parallel(
            keras.layers.RandAugment(value_range=(0, 255))
        ),
        "RandAugment: Pillow": lambda: image_by_image(PillowRandAugment()),
        "RandAugment: ours, the host": lambda: RandAugment().map(dataset),
        "RandAugment: ours, the graph": lambda: parallel(RandAugment()),
    }
    if albumentations is not None:
        for name, (transforms, dtype) in albumentations_pipelines().items():
            found[f"{name}: albumentations"] = lambda transforms=transforms, dtype=dtype: (
                image_by_image(lambda image: transforms(image=image)["image"], dtype)
            )
    return dict(sorted(found.items()))


def albumentations_pipelines() -> dict:
    """Returns the same operations by albumentations, and the data type that comes out."""
    import albumentations as a
    import cv2

    turn = {"translate_percent": (-0.2, 0.2), "rotate": (-20, 20), "p": 1}
    grey = {"border_mode": cv2.BORDER_CONSTANT, "fill": 128, "p": 1}

    def enhance(name):
        factors = {**dict.fromkeys(("brightness", "contrast", "saturation"), (1, 1)), "hue": 0}
        return a.ColorJitter(**{**factors, name: (0.19, 1.81)}, p=1)

    operations = [
        a.NoOp(p=1),
        a.AutoContrast(method="pil", p=1),
        a.Equalize(mode="pil", p=1),
        a.Rotate((-27, 27), **grey),
        a.Solarize((0.1, 0.1), p=1),
        a.Posterize(4, p=1),
        enhance("brightness"),
        enhance("contrast"),
        enhance("saturation"),
        a.Sharpen(p=1),
        a.Affine(shear={"x": (-15, 15), "y": (0, 0)}, **grey),
        a.Affine(shear={"x": (0, 0), "y": (-15, 15)}, **grey),
        a.Affine(translate_percent={"x": (-0.41, 0.41), "y": (0, 0)}, **grey),
        a.Affine(translate_percent={"x": (0, 0), "y": (-0.41, 0.41)}, **grey),
    ]
    reflect, nearest = cv2.BORDER_REFLECT, cv2.BORDER_REPLICATE
    return {
        "flip": (a.Compose([a.HorizontalFlip(p=0.5)]), tf.uint8),
        "affine": (
            a.Compose(
                [
                    a.HorizontalFlip(p=0.5),
                    a.Affine(scale=(0.8, 1.2), border_mode=reflect, **turn),
                ]
            ),
            tf.uint8,
        ),
        "classic": (
            a.Compose(
                [
                    a.Affine(border_mode=nearest, **turn),
                    a.HorizontalFlip(p=0.5),
                    a.VerticalFlip(p=0.5),
                    a.Normalize(mean=0.0, std=1.0),
                ]
            ),
            tf.float32,
        ),
        "color": (a.ColorJitter(*[(0.6, 1.4)] * 3, 0.1, p=1), tf.uint8),
        "RandAugment": (a.SomeOf(operations, n=2, replace=True, p=1), tf.uint8),
    }


class PillowRandAugment:
    """RandAugment as it is often written: two of 14 operations of Pillow, of magnitude 9."""

    def __init__(self):
        from PIL import Image, ImageEnhance, ImageOps

        self.image = Image
        bilinear, affine = Image.Resampling.BILINEAR, Image.Transform.AFFINE
        grey = (128, 128, 128)

        def moved(image, *coefficients):
            return image.transform(image.size, affine, coefficients, bilinear, fillcolor=grey)

        def enhanced(kind):
            return lambda image, sign: kind(image).enhance(1 + sign * 0.81)

        self.operations = [
            lambda image, sign: image,
            lambda image, sign: ImageOps.autocontrast(image),
            lambda image, sign: ImageOps.equalize(image),
            lambda image, sign: image.rotate(sign * 27, bilinear, fillcolor=grey),
            lambda image, sign: ImageOps.solarize(image, 26),
            lambda image, sign: ImageOps.posterize(image, 4),
            enhanced(ImageEnhance.Color),
            enhanced(ImageEnhance.Contrast),
            enhanced(ImageEnhance.Brightness),
            enhanced(ImageEnhance.Sharpness),
            lambda image, sign: moved(image, 1, sign * 0.27, 0, 0, 1, 0),
            lambda image, sign: moved(image, 1, 0, 0, sign * 0.27, 1, 0),
            lambda image, sign: moved(image, 1, 0, sign * 0.41 * image.width, 0, 1, 0),
            lambda image, sign: moved(image, 1, 0, 0, 0, 1, sign * 0.41 * image.height),
        ]

    def __call__(self, image: np.ndarray) -> np.ndarray:
        image = self.image.fromarray(image)
        for operation in random.choices(self.operations, k=2):
            image = operation(image, random.choice((-1, 1)))
        return np.asarray(image)


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


def make_images(size: int, batch_size: int) -> np.ndarray:
    """Returns images of smooth shapes and some noise."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 230, (batch_size, 8, 8, 3)).astype("float32")
    smooth = tf.image.resize(coarse, (size, size), "bicubic").numpy()
    return np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype("uint8")


def peak_memory(name: str, size: int, batch_size: int) -> float:
    """Returns the highest resident size, in MiB, of a process that runs one contender."""
    command = [sys.executable, __file__, "--only", name, "--case", str(size), str(batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def own_peak() -> float:
    """Returns the highest resident size of this process, in MiB.

    `resource.getrusage` would tell that of the process that started this one, if it was higher.
    """
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def memory(size: int, batch_size: int, names: str) -> list[dict]:
    """Returns a row per contender: the peak memory beyond that of a process that runs none."""
    makers = [name for name in contenders(make_images(size, batch_size)) if names in name]
    nothing = peak_memory("nothing", size, batch_size)
    return [
        {
            "size": size,
            "batch_size": batch_size,
            "name": name,
            "peak_memory_mib": round(peak_memory(name, size, batch_size) - nothing),
        }
        for name in makers
    ]


def measure(size: int, batch_size: int, rounds: int, seconds: float, names: str) -> list[dict]:
    """Returns a row per contender."""
    makers = contenders(make_images(size, batch_size))
    pipelines = {name: make() for name, make in makers.items() if names in name}
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
    parser.add_argument("--memory", action="store_true", help="peak memory in place of speed")
    parser.add_argument("--names", default="", help="only contenders with this in their names")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.only is not None:
        size, batch_size = arguments.case
        makers = contenders(make_images(size, batch_size))
        if arguments.only in makers:
            images_per_second(makers[arguments.only](), batch_size, 2.0)
        print(own_peak())
        return

    rows = []
    for size, batch_size in CASES:
        what = "MiB of peak memory" if arguments.memory else "images per second"
        print(f"\n{size} x {size} pixels, uint8, batches of {batch_size}: {what}")
        if arguments.memory:
            found = memory(size, batch_size, arguments.names)
            for row in found:
                print(f"  {row['name']:<36}{row['peak_memory_mib']:>9,}")
        else:
            found = measure(size, batch_size, arguments.rounds, arguments.seconds, arguments.names)
            for row in found:
                spread = f"{row['slowest_round']:>9,} to {row['fastest_round']:,}"
                print(f"  {row['name']:<36}{row['images_per_second']:>9,}  {spread}")
        rows += found
    result = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "albumentations": getattr(albumentations, "__version__", None),
        },
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "rows": rows,
    }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
