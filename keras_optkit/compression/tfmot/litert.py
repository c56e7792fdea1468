"""A trained tf_keras model as the bytes of a LiteRT file, and what these are worth."""

from typing import Any

import keras

from keras_optkit.compression.export import datasets, traced
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.signature import input_specs, output_specs


def to_bytes(quantized: Any, model: keras.Model) -> bytes:
    """Returns a LiteRT file whose inputs and outputs are named as those of a Keras 3 model.

    Args:
        quantized: A tf_keras model with lists of inputs and outputs, trained quantization-aware.
        model: The Keras 3 model that it comes from.
    """
    import tensorflow as tf

    def call(tensors):
        return quantized(list(tensors), training=False)

    def prepare(converter):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]

    inputs, outputs = input_specs(model), output_specs(model)
    return traced.to_bytes(call, quantized.variables, inputs, outputs, prepare)


def evaluate_litert(content: bytes, model: keras.Model, data: Any) -> dict[str, float]:
    """Returns the metrics that a Keras 3 model was compiled with, of a LiteRT file.

    Args:
        content: The bytes of the file.
        model: The Keras 3 model.
        data: A dataset, or a tuple of arrays `(x, y)` or `(x, y, sample_weight)`.
    """
    given = model._compile_config.config.get("metrics")
    if not given:
        return {}
    names = [spec.name for spec in output_specs(model)]
    x, y = datasets.take(data) if datasets.is_dataset(data) else data[:2]
    metrics: Any = [_fresh(metric) for metric in keras.tree.flatten(given)]
    if len(names) > 1:
        by_name = given if isinstance(given, dict) else dict(zip(names, given, strict=False))
        metrics = {
            name: [_fresh(metric) for metric in keras.tree.flatten(by_name.get(name) or [])]
            for name in names
        }
        y = y if isinstance(y, dict) else dict(zip(names, y, strict=True))
    return LiteRTModel.from_bytes(content).evaluate(x, y, metrics=metrics)


def _fresh(metric: Any) -> Any:
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return getattr(metric, "__name__", metric)
