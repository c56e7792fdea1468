"""BatchNorm: blocks that hold it, and functions on models that have it."""

from keras_optkit.normalization.fold_batch_norm import FoldReport, fold_batch_norm
from keras_optkit.normalization.recalibrate import recalibrate_batch_norm

__all__ = ["FoldReport", "fold_batch_norm", "recalibrate_batch_norm"]
