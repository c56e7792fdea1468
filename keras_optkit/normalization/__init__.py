"""BatchNorm: blocks that hold it, and functions on models that have it."""

from keras_optkit.normalization.recalibrate import recalibrate_batch_norm

__all__ = ["recalibrate_batch_norm"]
