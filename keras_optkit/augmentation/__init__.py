"""Random changes to images while a model trains: samplers, engines, and the layers around them.

A layer draws a table with one row of parameters per image and turns it into a list of stages. Two
engines apply stages: `stages.apply` to tensors, on every backend and under XLA, and `host` to NumPy
arrays, by OpenCV. `AugmentationLayer` is what all layers share.
"""

from keras_optkit.augmentation.aug_mix import AugMix
from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.auto_augment import AutoAugment
from keras_optkit.augmentation.image_data_generator import (
    ImageDataGeneratorLayer,
    from_image_data_generator,
)
from keras_optkit.augmentation.rand_augment import RandAugment
from keras_optkit.augmentation.random_affine import RandomAffine
from keras_optkit.augmentation.random_color import RandomColor
from keras_optkit.augmentation.trivial_augment_wide import TrivialAugmentWide

__all__ = [
    "AugMix",
    "AugmentationLayer",
    "AutoAugment",
    "ImageDataGeneratorLayer",
    "RandAugment",
    "RandomAffine",
    "RandomColor",
    "TrivialAugmentWide",
    "from_image_data_generator",
]
