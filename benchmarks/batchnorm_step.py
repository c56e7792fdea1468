"""Seconds per training step with ghost and synchronised BatchNorm, over Keras' own.

One convolutional net is trained with each norm in turn, round by round, so that drift of the
machine hits all alike; the first epoch of each `fit`, in which the step is compiled, is left out.
The table shows the median over all epochs and its ratio to `keras.layers.BatchNormalization`.
Everything runs on one device: what replicas must tell each other is not measured.

Usage: KERAS_BACKEND=tensorflow|jax|torch python benchmarks/batchnorm_step.py [ROUNDS]
"""

import sys

import keras
import numpy as np
from step_time import EPOCHS, STEPS, compare

from keras_optkit.normalization import GhostBatchNormalization, SyncBatchNormalization

BATCH = 64

NORMS = {
    "no norm": None,
    "BatchNormalization": keras.layers.BatchNormalization,
    "ghost, 64 of 64": lambda: GhostBatchNormalization(64),
    "ghost, 16 of 64": lambda: GhostBatchNormalization(16),
    "ghost, 24 of 64": lambda: GhostBatchNormalization(24),
    "sync": SyncBatchNormalization,
}


def conv_net(make_norm) -> keras.Model:
    """Three convolutions on 32 pixels, each with a norm."""
    blocks = []
    for filters in (16, 32, 64):
        blocks.append(keras.layers.Conv2D(filters, 3, use_bias=make_norm is None))
        if make_norm is not None:
            blocks.append(make_norm())
        blocks += [keras.layers.ReLU(), keras.layers.MaxPooling2D()]
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), *blocks, keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


def main() -> None:
    """Trains the net with each norm."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS * BATCH, 32, 32, 3)).astype("float32")
    y = rng.integers(0, 10, len(x))
    kwargs = {"batch_size": BATCH, "epochs": EPOCHS, "verbose": 0}
    fits = {
        name: lambda times, make=make: conv_net(make).fit(x, y, callbacks=[times], **kwargs)
        for name, make in NORMS.items()
    }
    compare(fits, "BatchNormalization", int(sys.argv[1]) if len(sys.argv) > 1 else 5)


if __name__ == "__main__":
    main()
