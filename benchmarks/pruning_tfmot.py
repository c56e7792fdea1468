"""TF-MOT's side of `pruning.py`, on tf_keras and in a process of its own.

Usage: python benchmarks/pruning_tfmot.py step ROUNDS | refresh WEIGHTS.npz | accuracy SET.npz ...
"""

import json
import statistics
import sys
import time

import numpy as np
import tensorflow_model_optimization as tfmot  # must come before anything touches tf.keras
import tf_keras
from pruning_setup import BATCH, EPOCHS, NETS, STEPS, data, ramp

sparsity = tfmot.sparsity.keras


class Times(tf_keras.callbacks.Callback):
    """Seconds of each epoch's steps but the first epoch's."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if epoch > 0:
            self.seconds.append((time.perf_counter() - self.start) / self.params["steps"])


def compiled(name: str, pruned: bool):
    """Returns one of the nets, wrapped for pruning or not."""
    model = NETS[name](tf_keras)
    if pruned:
        schedule = sparsity.PolynomialDecay(frequency=100, **ramp(STEPS[name] * EPOCHS))
        model = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False)
    return model


def step(rounds: str) -> dict[str, list[float]]:
    """Returns the median seconds of a plain step and a pruned one for each net, taken in turn."""
    found = {}
    for name in NETS:
        x, y = data(name)
        seconds = {False: [], True: []}
        for _ in range(int(rounds)):
            for pruned, values in seconds.items():
                times = Times()
                callbacks = [times] if not pruned else [sparsity.UpdatePruningStep(), times]
                compiled(name, pruned).fit(
                    x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=callbacks
                )
                values += times.seconds
        found[name] = [statistics.median(seconds[pruned]) for pruned in (False, True)]
    return found


def refresh(path: str) -> dict[str, float]:
    """Returns the seconds in which TF-MOT's own code chooses the masks of all kernels."""
    import tensorflow as tf
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    with np.load(path) as stored:
        kernels = [tf.Variable(stored[name]) for name in stored.files]
    masks = [tf.Variable(tf.ones_like(k)) for k in kernels]
    thresholds = [tf.Variable(0.0) for _ in kernels]
    pruning = pruning_impl.Pruning(
        lambda: tf.constant(1),
        list(zip(kernels, masks, thresholds, strict=True)),
        sparsity.ConstantSparsity(0.8, 1, frequency=1),
        (1, 1),
        "AVG",
    )
    update = tf.function(pruning.conditional_mask_update)
    update()
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        update()
        masks[-1].numpy()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds)}


def accuracy(path: str, epochs: str, seeds: str, *levels: str) -> dict[str, list[float]]:
    """Returns the test accuracies of each sparsity, one for each seed."""
    given = np.load(path)
    found = {}
    for level in map(float, levels):
        for seed in range(int(seeds)):
            tf_keras.utils.set_random_seed(seed)
            model = NETS["conv net"](tf_keras)
            model.set_weights([given[f"{seed}/{i}"] for i in range(len(model.weights))])
            steps = -(-len(given["x"]) // 128) * int(epochs)
            callbacks = []
            if level:
                schedule = sparsity.PolynomialDecay(frequency=50, **ramp(steps, level))
                model = sparsity.prune_low_magnitude(model, pruning_schedule=schedule)
                callbacks = [sparsity.UpdatePruningStep()]
            loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("adam", loss, metrics=["accuracy"])
            model.fit(
                given["x"],
                given["y"],
                batch_size=128,
                epochs=int(epochs),
                verbose=0,
                callbacks=callbacks,
            )
            score = model.evaluate(given["x_test"], given["y_test"], verbose=0)[1]
            found.setdefault(str(level), []).append(score)
    return found


if __name__ == "__main__":
    part = {"step": step, "refresh": refresh, "accuracy": accuracy}[sys.argv[1]]
    print(json.dumps(part(*sys.argv[2:])))
