"""What distillation costs and what it buys: a student alone, with Keras' Distiller, with ours.

Fashion-MNIST; the teacher is a convolutional network of more than ten times the student's
multiplications. Two tables.

Seconds per epoch. Each variant trains a student of its own from the same start. They take turns,
one epoch each, every other round in reverse, so that drift of the machine hits all alike: a ratio
is that of an epoch to plain training's epoch of the same round, and the table shows the median over
the rounds. The first epoch, in which the step is compiled, is left out. "again" is plain training a
second time: what its ratio differs from 1 is noise. Beside the cached epochs stands what filling
the cache took, once.

Accuracy on the test set, from the same budget of seconds for each variant and seed, over which the
learning rate falls to 0 on half a cosine. The clock runs in `fit` from the end of the first step,
in which the step is compiled, and, for the cache, while it is filled. The teacher's own training is
not part of it: it is there. It has learned from all of the images; with several numbers of
`--samples` the students get fewer of them, which is where soft targets are said to help most
(section 6 of Hinton's paper). The accuracies are drawn into distillation_accuracy.png beside this
file.

Keras' Distiller gets what it needs: a teacher and a student that end in logits, and the same
temperature and share.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/distillation.py [speed] [accuracy]
    [--data-dir FOLDER] [--rounds 5] [--seeds 3] [--budget 20] [--samples 20000]
"""

import argparse
import math
import pathlib
import statistics
import tempfile
import time

import keras
import numpy as np

from keras_optkit import callbacks, data, schedules
from keras_optkit.distillation import Distiller, SoftTargets, TeacherCache

HERE = pathlib.Path(__file__).parent
BATCH, TEMPERATURE, ALPHA = 128, 4.0, 0.9
SPEED_IMAGES = 8_000
PLAIN = "student alone"
VARIANTS = (PLAIN, "again", "Keras' Distiller", "ours", "ours, cached")


def arrays(split, folder):
    """Images in [0, 1] and labels of a split of Fashion-MNIST."""
    batches = data.load(
        "fashion_mnist", split, 1000, data_dir=folder, download=True, shuffle=False, cache=False
    )
    x, y = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(x) / np.float32(255), np.concatenate(y)


def network(widths):
    """A convolutional classifier of 28 by 28 images that ends in logits."""
    layers = [keras.Input((28, 28, 1))]
    for i, width in enumerate(widths):
        layers += [
            keras.layers.Conv2D(width, 3, 2 if i else 1, "same", use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


def student():
    """The small network."""
    return network([8, 16, 16])


def arguments():
    """What every variant is compiled with."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"optimizer": keras.optimizers.Adam(2e-3), "loss": loss, "metrics": ["accuracy"]}


def pipeline(train):
    """Shuffled batches, read as fast as those of the cache."""
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(train).shuffle(len(train[0]))
    return dataset.batch(BATCH).prefetch(tf.data.AUTOTUNE)


def make(variant, teacher, train, folder):
    """Returns a compiled model, its student, what to fit on, and the seconds the cache took."""
    small, seconds = student(), 0.0
    model, source = small, pipeline(train)
    if variant == "Keras' Distiller":
        model = keras.distillation.Distiller(
            teacher=teacher,
            student=small,
            distillation_losses=keras.distillation.LogitsDistillation(temperature=TEMPERATURE),
            student_loss_weight=1 - ALPHA,
        )
    elif variant == "ours":
        model = Distiller(small, teacher, SoftTargets(TEMPERATURE), alpha=ALPHA)
    elif variant == "ours, cached":
        start = time.perf_counter()
        cache = TeacherCache(folder, teacher, train, batch_size=512).build(verbose=0)
        seconds = time.perf_counter() - start
        model = Distiller(small, cache, SoftTargets(TEMPERATURE), alpha=ALPHA)
        source = cache.dataset(BATCH)
    model.compile(**arguments())
    return model, small, source, seconds


def speed(teacher, train, rounds):
    """Prints the seconds per epoch of each variant."""
    with tempfile.TemporaryDirectory() as folder:
        made = {variant: make(variant, teacher, train, folder) for variant in VARIANTS}
        seconds = {variant: [] for variant in VARIANTS}
        for i in range(rounds + 1):
            for variant in VARIANTS[:: -1 if i % 2 else 1]:
                model, _, source, _ = made[variant]
                start = time.perf_counter()
                model.fit(source, epochs=1, shuffle=False, verbose=0)
                seconds[variant].append(time.perf_counter() - start)
    print(f"| {'seconds per epoch':24} | median | over the student alone | once |")
    print(f"|{'-' * 26}|-------:|-----------------------:|-----:|")
    for variant, times in seconds.items():
        pairs = zip(times[1:], seconds[PLAIN][1:], strict=True)
        ratio = statistics.median(own / plain for own, plain in pairs)
        once = f"{made[variant][3]:.1f}" if made[variant][3] else ""
        print(f"| {variant:24} | {statistics.median(times[1:]):6.2f} | {ratio:22.2f} | {once:>4} |")


class Budget(keras.callbacks.Callback):
    """Lets the learning rate fall while the seconds are spent, and stops training then."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds
        self.start = None
        self.epochs = 0.0

    def on_train_begin(self, logs=None):
        self.rate = float(self.model.optimizer.learning_rate)

    def share(self):
        """Returns what share of the seconds is spent; none of them before the first step's end."""
        if self.start is None:
            return 0.0
        return min(1.0, (time.perf_counter() - self.start) / self.seconds)

    def on_train_batch_begin(self, batch, logs=None):
        rate = 0.5 * self.rate * (1.0 + math.cos(math.pi * self.share()))
        self.model.optimizer.learning_rate.assign(rate)

    def on_train_batch_end(self, batch, logs=None):
        if self.start is None:
            self.start = time.perf_counter()
        self.epochs += 1 / self.params["steps"]
        if self.share() >= 1.0:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.share() >= 1.0:
            self.model.stop_training = True


def accuracy(teacher, train, test, seeds, budget):
    """Prints, and returns, the accuracies of the students; the table has the epochs they made."""
    found = {variant: [] for variant in VARIANTS if variant != "again"}
    title = f"{len(train[0]):,} images, {budget:g} s each"
    print(f"\n| {title:24} | {'each seed':{9 * seeds}} | mean   | epochs |")
    print(f"|{'-' * 26}|{'-' * (9 * seeds + 2)}|-------:|-------:|")
    for variant, values in found.items():
        epochs = 0.0
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            with tempfile.TemporaryDirectory() as folder:
                model, small, source, spent = make(variant, teacher, train, folder)
                watch = Budget(budget - spent)
                model.fit(source, epochs=10_000, shuffle=False, verbose=0, callbacks=[watch])
            predicted = small.predict(test[0], batch_size=512, verbose=0).argmax(-1)
            values.append(float((predicted == test[1]).mean()))
            epochs += watch.epochs / seeds
        each = "  ".join(f"{value:.4f} " for value in values)
        mean = statistics.mean(values)
        print(f"| {variant:24} | {each:{9 * seeds}} | {mean:.4f} | {epochs:6.1f} |", flush=True)
    return found


def draw(found, best, budget):
    """Draws the accuracies of each variant for each number of images, the teacher's as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (samples, variants) in zip(panels, found.items(), strict=True):
        for i, values in enumerate(variants.values()):
            percent = [100 * value for value in values]
            axes.plot([i] * len(values), percent, "o", color="#0072B2", alpha=0.7, markersize=11)
            axes.plot([i - 0.25, i + 0.25], [statistics.mean(percent)] * 2, "k", linewidth=3)
        axes.axhline(100 * best, color="#D55E00", linestyle="--", linewidth=2.5, label="teacher")
        names = [name.replace(" ", "\n") for name in variants]
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_title(f"{samples:,} images", fontsize=18)
        axes.tick_params(labelsize=16)
        axes.grid(alpha=0.3, axis="y")
    panels[0].set_ylabel("test accuracy, %", fontsize=18)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", fontsize=16)
    title = f"A small student on Fashion-MNIST, {budget:g} s each; line: mean of the seeds"
    figure.suptitle(title, fontsize=18)
    figure.savefig(HERE / "distillation_accuracy.png", dpi=100)


def train_teacher(teacher, train, test, epochs):
    """Trains the teacher, prints its accuracy and returns it."""
    teacher.compile(**arguments())
    decay = callbacks.LearningRate(schedules.CosineDecay(2e-3))
    teacher.fit(*train, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[decay])
    best = teacher.evaluate(*test, batch_size=512, verbose=0, return_dict=True)["accuracy"]
    print(f"Teacher: {best:.4f} after {epochs} epochs of {len(train[0]):,} images.", flush=True)
    return best


def main():
    """Measures what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("parts", nargs="*", metavar="speed|accuracy")
    parser.add_argument("--data-dir", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=20.0)
    parser.add_argument("--samples", type=int, nargs="+", default=[20_000])
    parser.add_argument("--teacher-epochs", type=int, default=4)
    options = parser.parse_args()
    parts = options.parts or ["speed", "accuracy"]
    if set(parts) - {"speed", "accuracy"}:
        parser.error(f"no such part: {' '.join(parts)}")
    train, test = (arrays(split, options.data_dir) for split in ("train", "test"))
    train = tuple(part[: max(options.samples)] for part in train)
    keras.utils.set_random_seed(0)
    teacher = network([32, 64, 128])
    sizes = [model.count_params() for model in (teacher, student())]
    print(f"{keras.backend.backend()}. Parameters: teacher {sizes[0]:,}, student {sizes[1]:,}.\n")
    if "speed" in parts:  # Whether the teacher knows anything makes no difference here.
        print(f"{min(SPEED_IMAGES, len(train[0])):,} images.\n")
        speed(teacher, tuple(part[:SPEED_IMAGES] for part in train), options.rounds)
    if "accuracy" in parts:
        best = train_teacher(teacher, train, test, options.teacher_epochs)
        found = {
            samples: accuracy(
                teacher,
                tuple(part[:samples] for part in train),
                test,
                options.seeds,
                options.budget,
            )
            for samples in options.samples
        }
        draw(found, best, options.budget)


if __name__ == "__main__":
    main()
