"""Trains a small net with TF-MOT on tf_keras; run by test_tfmot_parity.py in a process of its own.

Usage: python tfmot_run.py INPUT.npz OUTPUT.npz
"""

import sys

import numpy as np
import tensorflow_model_optimization as tfmot  # must come before anything touches tf.keras
import tf_keras

from keras_optkit.compression.pruning.tfmot_schedules import as_schedule

sparsity = tfmot.sparsity.keras
# TF-MOT counts the first step as 1, we count the updates that were made before it: 0.
CASES = {
    "unstructured": {"pruning_schedule": sparsity.PolynomialDecay(0.2, 0.8, 11, 151, frequency=20)},
    "2:4": {
        "pruning_schedule": sparsity.ConstantSparsity(0.5, 0),
        "sparsity_m_by_n": (2, 4),
    },
    "block": {
        "pruning_schedule": sparsity.PolynomialDecay(0.0, 0.75, 1, 121, frequency=40),
        "block_size": (4, 2),
        "block_pooling_type": "AVG",
    },
}
SCHEDULES = [
    sparsity.ConstantSparsity(0.5, 0),
    sparsity.ConstantSparsity(0.5, 0, end_step=40, frequency=7),
    sparsity.ConstantSparsity(0.9, 5, frequency=10),
    sparsity.PolynomialDecay(0.1, 0.9, 0, 50, frequency=10),
    sparsity.PolynomialDecay(0.2, 0.8, 3, 45, power=2, frequency=4),
    sparsity.PolynomialDecay(0.0, 0.5, 1, 61, power=1, frequency=1),
]


class OwnSchedule(sparsity.PruningSchedule):
    """A class of the user's, which only TF-MOT's interface is known of."""

    def __call__(self, step):
        return step % 7 == 3, 0.01 * np.float32(1) * tf_keras.backend.cast(step, "float32")

    def get_config(self):
        return {}


def train(given, case):
    def prune(layer):
        # TF-MOT has blocks for dense layers only.
        if case == "block" and isinstance(layer, tf_keras.layers.Conv2D):
            return layer
        return sparsity.prune_low_magnitude(layer, **CASES[case])

    model = tf_keras.Sequential(
        [
            tf_keras.layers.InputLayer((8, 8, 1)),
            prune(tf_keras.layers.Conv2D(8, 3, activation="tanh")),
            prune(tf_keras.layers.Conv2D(6, 3, activation="tanh")),
            tf_keras.layers.Flatten(),
            prune(tf_keras.layers.Dense(10)),
        ]
    )
    weights = [v for v in model.trainable_variables]
    for i, variable in enumerate(weights):
        variable.assign(given[f"weight_{i}"])
    model.compile(
        tf_keras.optimizers.SGD(0.02, momentum=0.9),
        tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    callback = sparsity.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    found = [v for v in model.variables if "mask" in v.name]
    losses, masks = [], []
    for start in range(0, len(given["x"]), 32):
        batch = slice(start, start + 32)
        losses.append(model.train_on_batch(given["x"][batch], given["y"][batch]))
        masks.append(np.concatenate([v.numpy().ravel() for v in found]).astype(bool))
    return np.array(losses), np.array(masks)


def main(source, target):
    given = dict(np.load(source))
    result = {}
    for case in CASES:
        result[f"{case} losses"], result[f"{case} masks"] = train(given, case)
    for i, schedule in enumerate([*SCHEDULES, OwnSchedule()]):
        # Their schedules and ours, which are made from them, before each of 120 steps.
        theirs = [schedule(np.int64(step)) for step in range(1, 121)]
        ours = as_schedule(schedule)
        ours = [(ours.prunes_at(step), ours.sparsity(step)) for step in range(120)]
        for name, pairs in (("theirs", theirs), ("ours", ours)):
            result[f"{name} {i} due"] = [bool(due) for due, _ in pairs]
            result[f"{name} {i} sparsity"] = [float(share) for _, share in pairs]
    np.savez(target, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
