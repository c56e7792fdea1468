"""BatchNorm: blocks that hold it, and functions on models that have it."""

from keras_optkit.normalization.fold_batch_norm import FoldReport, fold_batch_norm
from keras_optkit.normalization.insert_batch_norm import insert_batch_norm
from keras_optkit.normalization.inspect_batch_norm import BatchNormReport, inspect_batch_norm
from keras_optkit.normalization.recalibrate import recalibrate_batch_norm

__all__ = [
    "BatchNormReport",
    "FoldReport",
    "fold_batch_norm",
    "insert_batch_norm",
    "inspect_batch_norm",
    "recalibrate_batch_norm",
]
