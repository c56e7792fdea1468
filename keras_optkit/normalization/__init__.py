"""BatchNorm: blocks that hold it, and functions on models that have it."""

from keras_optkit.normalization.conv_bn_act import ConvBNAct
from keras_optkit.normalization.dense_bn_act import DenseBNAct
from keras_optkit.normalization.fold_batch_norm import FoldReport, fold_batch_norm
from keras_optkit.normalization.freeze import freeze_batch_norm, unfreeze_batch_norm
from keras_optkit.normalization.ghost_batch_normalization import GhostBatchNormalization
from keras_optkit.normalization.insert_batch_norm import insert_batch_norm
from keras_optkit.normalization.inspect_batch_norm import BatchNormReport, inspect_batch_norm
from keras_optkit.normalization.recalibrate import recalibrate_batch_norm
from keras_optkit.normalization.residual_bn_block import ResidualBNBlock
from keras_optkit.normalization.separable_conv_bn_act import SeparableConvBNAct
from keras_optkit.normalization.sync_batch_normalization import SyncBatchNormalization

__all__ = [
    "BatchNormReport",
    "ConvBNAct",
    "DenseBNAct",
    "FoldReport",
    "GhostBatchNormalization",
    "ResidualBNBlock",
    "SeparableConvBNAct",
    "SyncBatchNormalization",
    "fold_batch_norm",
    "freeze_batch_norm",
    "insert_batch_norm",
    "inspect_batch_norm",
    "recalibrate_batch_norm",
    "unfreeze_batch_norm",
]
