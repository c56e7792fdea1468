"""Bytes that a device holds, against the sizes of the arrays."""

import keras
import numpy as np

from keras_optkit.distribution import list_devices, memory_per_device


def test_one_device_has_all_of_it():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(3)])
    device = list_devices("cpu")[0]
    assert memory_per_device(model) == {device: {"weights": 4 * 83, "optimizer": 0}}
    model.compile("adam", "mse")
    model.fit(np.zeros((4, 6)), np.zeros((4, 3)), verbose=0)
    held = memory_per_device(model)[device]
    state = sum(np.asarray(keras.ops.convert_to_numpy(v)).nbytes for v in model.optimizer.variables)
    assert held == {"weights": 4 * 83, "optimizer": state}
    assert state >= 8 * 83


def test_half_precision_is_half():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, dtype="float16")])
    assert list(memory_per_device(model).values()) == [{"weights": 2 * 56, "optimizer": 0}]
