"""Layers: parts for any Keras model."""

from keras_optkit.augmentation.image_data_generator import (
    ImageDataGeneratorLayer,
    from_image_data_generator,
)
from keras_optkit.augmentation.random_affine import RandomAffine
from keras_optkit.normalization.conv_bn_act import ConvBNAct
from keras_optkit.normalization.dense_bn_act import DenseBNAct
from keras_optkit.normalization.ghost_batch_normalization import GhostBatchNormalization
from keras_optkit.normalization.residual_bn_block import ResidualBNBlock
from keras_optkit.normalization.separable_conv_bn_act import SeparableConvBNAct
from keras_optkit.normalization.sync_batch_normalization import SyncBatchNormalization

__all__ = [
    "ConvBNAct",
    "DenseBNAct",
    "GhostBatchNormalization",
    "ImageDataGeneratorLayer",
    "RandomAffine",
    "ResidualBNBlock",
    "SeparableConvBNAct",
    "SyncBatchNormalization",
    "from_image_data_generator",
]
