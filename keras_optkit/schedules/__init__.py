"""Learning-rate schedules that run inside the compiled step."""

from keras_optkit.core.duration import Run
from keras_optkit.schedules.constant import Constant
from keras_optkit.schedules.cosine_decay import CosineDecay
from keras_optkit.schedules.cosine_restarts import CosineRestarts
from keras_optkit.schedules.cyclic import Cyclic
from keras_optkit.schedules.exponential_decay import ExponentialDecay
from keras_optkit.schedules.inverse_sqrt import InverseSqrt
from keras_optkit.schedules.layerwise_decay import layer_heights, layerwise_decay
from keras_optkit.schedules.linear_decay import LinearDecay
from keras_optkit.schedules.multi_step_decay import MultiStepDecay
from keras_optkit.schedules.one_cycle import OneCycle
from keras_optkit.schedules.polynomial_decay import PolynomialDecay
from keras_optkit.schedules.product import Product
from keras_optkit.schedules.range_finder import find_lr
from keras_optkit.schedules.range_test import RangeTest
from keras_optkit.schedules.schedule import Schedule
from keras_optkit.schedules.sequence import Sequence
from keras_optkit.schedules.step_decay import StepDecay
from keras_optkit.schedules.warmup_stable_decay import WarmupStableDecay

__all__ = [
    "Constant",
    "CosineDecay",
    "CosineRestarts",
    "Cyclic",
    "ExponentialDecay",
    "InverseSqrt",
    "LinearDecay",
    "MultiStepDecay",
    "OneCycle",
    "PolynomialDecay",
    "Product",
    "RangeTest",
    "Run",
    "Schedule",
    "Sequence",
    "StepDecay",
    "WarmupStableDecay",
    "find_lr",
    "layer_heights",
    "layerwise_decay",
]
