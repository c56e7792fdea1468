"""Random changes to images while a model trains: samplers, engines, and the layers around them.

A layer draws a table with one row of parameters per image and turns it into a list of stages. Two
engines apply stages: the graph engine (`stages`) to tensors, on every backend and under XLA, and
the host engine (`host`) to NumPy arrays, by OpenCV. `AugmentationLayer` is what all layers share.
"""

from keras_optkit.augmentation.aug_mix import AugMix
from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.augmentation_pipeline import AugmentationPipeline
from keras_optkit.augmentation.auto_augment import AutoAugment
from keras_optkit.augmentation.contact_sheet import show
from keras_optkit.augmentation.cut_mix import CutMix
from keras_optkit.augmentation.image_data_generator import (
    ImageDataGeneratorLayer,
    from_image_data_generator,
)
from keras_optkit.augmentation.mix_up import MixUp
from keras_optkit.augmentation.one_of import OneOf
from keras_optkit.augmentation.rand_augment import RandAugment
from keras_optkit.augmentation.random_affine import RandomAffine
from keras_optkit.augmentation.random_apply import RandomApply
from keras_optkit.augmentation.random_color import RandomColor
from keras_optkit.augmentation.random_erasing import RandomErasing
from keras_optkit.augmentation.random_resized_crop import RandomResizedCrop
from keras_optkit.augmentation.trivial_augment_wide import TrivialAugmentWide

__all__ = [
    "AugMix",
    "AugmentationLayer",
    "AugmentationPipeline",
    "AutoAugment",
    "CutMix",
    "ImageDataGeneratorLayer",
    "MixUp",
    "OneOf",
    "RandAugment",
    "RandomAffine",
    "RandomApply",
    "RandomColor",
    "RandomErasing",
    "RandomResizedCrop",
    "TrivialAugmentWide",
    "from_image_data_generator",
    "show",
]
