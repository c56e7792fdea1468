"""Layers: parts for any Keras model."""

from keras_optkit.normalization.conv_bn_act import ConvBNAct
from keras_optkit.normalization.dense_bn_act import DenseBNAct

__all__ = ["ConvBNAct", "DenseBNAct"]
