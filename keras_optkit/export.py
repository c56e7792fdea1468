"""LiteRT files of Keras models, and reports that compare models by size, accuracy and latency."""

from keras_optkit.compression.export.compare import compare
from keras_optkit.compression.export.litert import to_litert
from keras_optkit.compression.export.litert_converter import ConversionError
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.measure import Accuracy, Latency
from keras_optkit.compression.export.report import Report

__all__ = [
    "Accuracy",
    "ConversionError",
    "Latency",
    "LiteRTModel",
    "Report",
    "compare",
    "to_litert",
]
