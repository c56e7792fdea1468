"""Drop-in Keras 3 parts that make a model train faster, generalise better or ship smaller."""

from keras_optkit._version import __version__

__all__ = ["__version__"]
