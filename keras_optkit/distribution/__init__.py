"""The same training on several devices."""

from keras_optkit.distribution.auto import auto
from keras_optkit.distribution.data_parallel import data_parallel
from keras_optkit.distribution.devices import list_devices, split_cpu
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.memory import memory_per_device
from keras_optkit.distribution.model_parallel import model_parallel
from keras_optkit.distribution.place_layers import place_layers

__all__ = [
    "Distribution",
    "auto",
    "data_parallel",
    "list_devices",
    "memory_per_device",
    "model_parallel",
    "place_layers",
    "split_cpu",
]
