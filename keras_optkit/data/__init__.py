"""Image datasets for `fit`: TFDS' sets by name, folders of images, and an embedded default."""

from keras_optkit.data.datasets import DatasetInfo, info, load
from keras_optkit.data.directory import from_directory

__all__ = ["DatasetInfo", "from_directory", "info", "load"]
