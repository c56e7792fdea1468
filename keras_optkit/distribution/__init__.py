"""The same training on several devices and machines."""

from keras_optkit.distribution.auto import auto
from keras_optkit.distribution.data_parallel import data_parallel
from keras_optkit.distribution.devices import list_devices, split_cpu
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.launch import launch
from keras_optkit.distribution.memory import memory_per_device
from keras_optkit.distribution.model_parallel import model_parallel
from keras_optkit.distribution.multi_worker import multi_worker
from keras_optkit.distribution.place_layers import place_layers

__all__ = [
    "Distribution",
    "auto",
    "data_parallel",
    "launch",
    "list_devices",
    "memory_per_device",
    "model_parallel",
    "multi_worker",
    "place_layers",
    "split_cpu",
]
