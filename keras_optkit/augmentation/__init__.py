"""Random changes to images while a model trains: samplers, engines, and the layers around them.

A sampler draws a table with one row of parameters per image. The table turns into stages, which an
engine applies: the graph engine (`stages`) on tensors, the host engine (`host`) on NumPy arrays by
OpenCV. `AugmentationLayer` is what every layer shares.
"""

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.augmentation_pipeline import AugmentationPipeline
from keras_optkit.augmentation.contact_sheet import show
from keras_optkit.augmentation.cut_mix import CutMix
from keras_optkit.augmentation.image_data_generator import (
    ImageDataGeneratorLayer,
    from_image_data_generator,
)
from keras_optkit.augmentation.mix_up import MixUp
from keras_optkit.augmentation.one_of import OneOf
from keras_optkit.augmentation.random_affine import RandomAffine
from keras_optkit.augmentation.random_apply import RandomApply
from keras_optkit.augmentation.random_erasing import RandomErasing
from keras_optkit.augmentation.random_resized_crop import RandomResizedCrop

__all__ = [
    "AugmentationLayer",
    "AugmentationPipeline",
    "CutMix",
    "ImageDataGeneratorLayer",
    "MixUp",
    "OneOf",
    "RandomAffine",
    "RandomApply",
    "RandomErasing",
    "RandomResizedCrop",
    "from_image_data_generator",
    "show",
]
