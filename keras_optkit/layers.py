"""Layers: parts for any Keras model."""

from keras_optkit.augmentation.image_data_generator import (
    ImageDataGeneratorLayer,
    from_image_data_generator,
)
from keras_optkit.augmentation.random_affine import RandomAffine
from keras_optkit.normalization.conv_bn_act import ConvBNAct
from keras_optkit.normalization.dense_bn_act import DenseBNAct

__all__ = [
    "ConvBNAct",
    "DenseBNAct",
    "ImageDataGeneratorLayer",
    "RandomAffine",
    "from_image_data_generator",
]
