"""The same training on several devices and machines."""

from keras_optkit.distribution.auto import auto
from keras_optkit.distribution.data_parallel import data_parallel
from keras_optkit.distribution.devices import list_devices, split_cpu
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.launch import launch
from keras_optkit.distribution.model_parallel import model_parallel
from keras_optkit.distribution.multi_worker import multi_worker

__all__ = [
    "Distribution",
    "auto",
    "data_parallel",
    "launch",
    "list_devices",
    "model_parallel",
    "multi_worker",
    "split_cpu",
]
