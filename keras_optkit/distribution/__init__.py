"""The same training on several devices."""

from keras_optkit.distribution.auto import auto
from keras_optkit.distribution.data_parallel import data_parallel
from keras_optkit.distribution.devices import list_devices, split_cpu
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.model_parallel import model_parallel

__all__ = [
    "Distribution",
    "auto",
    "data_parallel",
    "list_devices",
    "model_parallel",
    "split_cpu",
]
