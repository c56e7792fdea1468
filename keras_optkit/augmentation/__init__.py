"""Random changes to images while a model trains: samplers, engines, and the layers around them.

A sampler draws a table with one row of parameters per image, an engine applies it. `affine` holds
the sampler of geometric operations, `warp` the engine on tensors, `AugmentationLayer` what every
layer shares.
"""

from keras_optkit.augmentation.augmentation_layer import AugmentationLayer
from keras_optkit.augmentation.image_data_generator import (
    ImageDataGeneratorLayer,
    from_image_data_generator,
)
from keras_optkit.augmentation.random_affine import RandomAffine

__all__ = [
    "AugmentationLayer",
    "ImageDataGeneratorLayer",
    "RandomAffine",
    "from_image_data_generator",
]
