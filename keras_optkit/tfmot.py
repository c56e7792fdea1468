"""The bridge to TF-MOT and tf_keras: Keras 3 models in, Keras 3 models or LiteRT bytes out."""

from keras_optkit.compression.tfmot.clustering import cluster_weights
from keras_optkit.compression.tfmot.from_tf_keras import from_tf_keras
from keras_optkit.compression.tfmot.pruning import prune_low_magnitude
from keras_optkit.compression.tfmot.quantization import QuantizationResult, quantize_model
from keras_optkit.compression.tfmot.to_tf_keras import to_tf_keras

__all__ = [
    "QuantizationResult",
    "cluster_weights",
    "from_tf_keras",
    "prune_low_magnitude",
    "quantize_model",
    "to_tf_keras",
]
