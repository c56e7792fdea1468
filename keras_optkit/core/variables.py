"""The values of variables, wherever they live, and what this package reads of Keras' seeds."""

from typing import Any

import keras
import numpy as np


def read(variable: keras.Variable) -> Any:
    """Returns a copy of a variable's value, or a list of those of its replicas.

    Args:
        variable: A Keras variable, which a `tf.distribute` strategy may hold on several devices.
    """
    copies = _replicas(variable)
    if copies is not None:
        return [copy.numpy() for copy in copies]
    # A copy: the array may share the memory of a variable that is updated in place.
    return np.array(keras.ops.convert_to_numpy(variable.value))


def write(variable: keras.Variable, value: Any) -> None:
    """Gives a variable a value that `read` returned, where there may have been other replicas."""
    copies = _replicas(variable)
    values = value if isinstance(value, list) else [value]
    if copies is None:
        variable.assign(values[0])
        return
    if len(values) != len(copies):
        values = values[:1] * len(copies)
    for copy, own in zip(copies, values, strict=True):
        copy.assign(own)


def _replicas(variable: keras.Variable) -> tuple | None:
    """The copies of a variable that a tf.distribute strategy keeps, which may differ."""
    if keras.backend.backend() != "tensorflow":
        return None
    return getattr(variable._value, "values", None)


def global_seed_generator() -> keras.random.SeedGenerator | None:
    """The generator that Keras draws from where none is given; `None` before its first use."""
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

    return global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
