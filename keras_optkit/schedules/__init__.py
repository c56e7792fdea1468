"""Learning-rate schedules that run inside the compiled step."""

from keras_optkit.schedules.cosine_decay import CosineDecay
from keras_optkit.schedules.one_cycle import OneCycle
from keras_optkit.schedules.schedule import Schedule
from keras_optkit.schedules.step_decay import StepDecay

__all__ = ["CosineDecay", "OneCycle", "Schedule", "StepDecay"]
