"""What `pruning.py` and its TF-MOT side share: nets, data and the schedule, without any backend."""

from typing import Any

import numpy as np

BATCH, EPOCHS = 32, 4
# In an epoch; the MLP's are several times shorter.
STEPS = {"conv net": 100, "MLP": 500}


def _conv_net(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.InputLayer((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )


def _mlp(keras: Any) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            layers.InputLayer((256,)),
            layers.Dense(512, activation="relu"),
            layers.Dense(512, activation="relu"),
            layers.Dense(10),
        ]
    )


# Functions of `keras` or `tf_keras`: 0.12 and 0.4 million weights.
NETS = {"conv net": _conv_net, "MLP": _mlp}
_SHAPES = {"conv net": (28, 28, 1), "MLP": (256,)}


def data(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns an epoch of random inputs and labels for one of the nets."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS[name] * BATCH, *_SHAPES[name])).astype("float32")
    return x, rng.integers(0, 10, len(x))


def ramp(steps: int, sparsity: float = 0.8) -> dict[str, Any]:
    """Returns the arguments of `PolynomialDecay`, which both packages have, for a run."""
    begin, end = steps // 10, steps * 3 // 4
    return {
        "initial_sparsity": 0.0,
        "final_sparsity": sparsity,
        "begin_step": begin,
        "end_step": end,
    }
