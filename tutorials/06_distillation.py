"""Distillation: a small student learns from a larger teacher, is pruned, and goes to a device.

    python tutorials/06_distillation.py                  # some minutes on two cores
    KERAS_BACKEND=jax python tutorials/06_distillation.py

It prints one table: parameters, share of zeros and accuracy on held-out digits of each model. On
TensorFlow it also writes student.tflite.

Distillation does not always pay, so the table has the student alone beside the others: compare
over several seeds before you keep a teacher. benchmarks/distillation.py does on Fashion-MNIST.
The pruned student has learned for twice as many epochs as the others.
"""

import argparse
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's lines at start-up

import keras
import numpy as np
from keras import layers

from keras_optkit import callbacks, data, distillation, export, pruning

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("outputs/distillation"))
parser.add_argument("--epochs", type=int, default=30)
args = parser.parse_args()
args.output.mkdir(parents=True, exist_ok=True)


def arrays(split):
    """The digits of scikit-learn as arrays, 8 by 8 pixels from 0 to 255."""
    x, y = zip(*data.load(split=split, shuffle=False).as_numpy_iterator(), strict=True)
    return np.concatenate(x), np.concatenate(y)


train, test = arrays("train"), arrays("test")


def network(width):
    """A classifier that ends in logits: a softmax is not needed, and would cost precision."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(width, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(2 * width, 3, padding="same", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )


def arguments():
    """What each model is compiled with."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {"optimizer": keras.optimizers.Adam(3e-3), "loss": loss, "metrics": ["accuracy"]}


# 1. The teacher, and the student alone ------------------------------------------------------------

keras.utils.set_random_seed(0)
teacher, alone = network(48), network(8)
for model in (teacher, alone):
    model.compile(**arguments())
    model.fit(*train, epochs=args.epochs, batch_size=32, verbose=0)

# 2. The same student against the teacher ----------------------------------------------------------
#
# The cache holds what the teacher says of each image, so that it runs once and not in each epoch.
# To let it run along, pass `teacher` in the place of `cache`, and fit on the arrays.

student = network(8)
cache = distillation.TeacherCache(args.output / "cache", teacher, train)
distiller = distillation.Distiller(student, cache, distillation.SoftTargets(4.0), alpha=0.7)
distiller.compile(**arguments())
distiller.fit(cache.dataset(batch_size=32), epochs=args.epochs, shuffle=False, verbose=0)
distiller.save(args.output / "student.keras")  # The student, without the teacher.

# 3. Pruned while it goes on to learn --------------------------------------------------------------
#
# Callbacks work on a Distiller as on any model; pruning takes the student's kernels only.

pruned = keras.saving.load_model(args.output / "student.keras")
distiller = distillation.Distiller(pruned, cache, distillation.SoftTargets(4.0), alpha=0.7)
distiller.compile(**arguments())
distiller.fit(
    cache.dataset(batch_size=32),
    epochs=args.epochs,
    shuffle=False,
    verbose=0,
    callbacks=[callbacks.Pruning(pruning.PolynomialDecay(0.0, 0.5, 0, 0.7))],
)

# 4. What came of it -------------------------------------------------------------------------------

print("\nmodel               parameters  zeros  accuracy")
models = {"teacher": teacher, "student alone": alone, "student": student, "pruned": pruned}
for name, model in models.items():
    kernels = [w for w in model.get_weights() if w.ndim > 1]
    zeros = sum((w == 0).sum() for w in kernels) / sum(w.size for w in kernels)
    accuracy = (model.predict(test[0], verbose=0).argmax(-1) == test[1]).mean()
    print(f"{name:20}{model.count_params():10,}  {zeros:5.2f}  {accuracy:8.3f}")

if keras.backend.backend() == "tensorflow":
    path = args.output / "student.tflite"
    export.to_litert(pruned, path)
    print(f"\nstudent.tflite: {path.stat().st_size:,} bytes")
