"""Files of Keras models for other runtimes, and reports that compare models by what they cost."""

from keras_optkit.compression.export.check import ConversionError
from keras_optkit.compression.export.compare import compare
from keras_optkit.compression.export.litert import to_litert
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.measure import Accuracy, Latency
from keras_optkit.compression.export.onnx_file import to_onnx
from keras_optkit.compression.export.report import Report
from keras_optkit.compression.export.saved_model import to_saved_model
from keras_optkit.compression.flops import count_flops

__all__ = [
    "Accuracy",
    "ConversionError",
    "Latency",
    "LiteRTModel",
    "Report",
    "compare",
    "count_flops",
    "to_litert",
    "to_onnx",
    "to_saved_model",
]
