"""Callbacks: objects for `model.fit(callbacks=[...])`."""

from keras_optkit.compression.pruning.pruning import Pruning
from keras_optkit.schedules.learning_rate import LearningRate
from keras_optkit.schedules.reduce_on_plateau import ReduceOnPlateau
from keras_optkit.stopping.early_stopping import EarlyStopping, StopReason

__all__ = ["EarlyStopping", "LearningRate", "Pruning", "ReduceOnPlateau", "StopReason"]
