"""Callbacks: objects for `model.fit(callbacks=[...])`."""

from keras_optkit.compression.pruning.pruning import Pruning
from keras_optkit.compression.structured.group_sparsity import GroupSparsity
from keras_optkit.schedules.learning_rate import LearningRate
from keras_optkit.schedules.reduce_on_plateau import ReduceOnPlateau
from keras_optkit.stopping.early_stopping import EarlyStopping
from keras_optkit.stopping.reasons import StopReason
from keras_optkit.stopping.resume.resume import Resume
from keras_optkit.stopping.time_budget import TimeBudget
from keras_optkit.stopping.training_report import TrainingReport
from keras_optkit.stopping.weight_averaging import WeightAveraging

__all__ = [
    "EarlyStopping",
    "GroupSparsity",
    "LearningRate",
    "Pruning",
    "ReduceOnPlateau",
    "Resume",
    "StopReason",
    "TimeBudget",
    "TrainingReport",
    "WeightAveraging",
]
