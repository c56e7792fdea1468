"""Trains a small net with TF-MOT on tf_keras; run by test_tfmot_parity.py in a process of its own.

Usage: python tfmot_run.py INPUT.npz OUTPUT.npz
"""

import sys

import numpy as np
import tensorflow_model_optimization as tfmot  # must come before anything touches tf.keras
import tf_keras


def main(source, target):
    given = np.load(source)
    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((8, 8, 1)),
            tf_keras.layers.Conv2D(6, 3, activation="relu", name="conv"),
            tf_keras.layers.Flatten(),
            tf_keras.layers.Dense(10, name="head"),
        ]
    )
    model.set_weights([given[f"weight_{i}"] for i in range(4)])
    sparsity = tfmot.sparsity.keras
    # TF-MOT counts the first step as 1, we count the updates that were made before it: 0.
    schedule = sparsity.PolynomialDecay(0.2, 0.8, begin_step=3, end_step=15, frequency=3)
    model = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    model.compile(
        tf_keras.optimizers.SGD(0.05, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    losses, masks = [], []

    class Record(tf_keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.append(logs["loss"])
            found = [v.numpy() for v in self.model.variables if "mask" in v.name]
            masks.append(np.concatenate([mask.ravel() for mask in found]))

    for start in range(0, len(given["x"]), 32):
        # One batch in a fit, so that the logged loss is the batch's own.
        batch = slice(start, start + 32)
        model.fit(
            given["x"][batch],
            given["y"][batch],
            batch_size=32,
            shuffle=False,
            verbose=0,
            callbacks=[sparsity.UpdatePruningStep(), Record()],
        )
    np.savez(target, losses=losses, masks=masks)


if __name__ == "__main__":
    main(*sys.argv[1:])
