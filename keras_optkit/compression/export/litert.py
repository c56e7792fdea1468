"""`to_litert`: a Keras model to a `.tflite` file that is known to be that model."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.export import datasets
from keras_optkit.compression.export.check import (
    ConversionError,
    Request,
    require_agreement,
    require_tolerance,
)
from keras_optkit.compression.export.files import require_writable, write_atomically
from keras_optkit.compression.export.litert_converter import (
    CALIBRATED,
    MODES,
    Job,
    convert,
)
from keras_optkit.compression.export.litert_model import (
    LiteRTModel,
    float_calls,
    has_sparse_weights,
)
from keras_optkit.compression.export.places import with_places
from keras_optkit.compression.export.signature import (
    bind,
    input_specs,
    require_exportable,
)
from keras_optkit.core.messages import did_you_mean

# TensorFlow's guide to post-training quantization asks for 100 to 500 samples.
MAX_REPRESENTATIVE = 500


def to_litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: str | None = None,
    representative_data: Any = None,
    tolerance: float | None = None,
) -> LiteRTModel:
    """Writes a Keras model as a `.tflite` file, after checking that the two agree.

    The file is the model in inference: augmentation, dropout and noise layers are gone. Its inputs
    and outputs have the model's names and order. `LiteRTModel` takes and returns floats in every
    mode; the modes below say what another program must give and gets. The file runs with any batch
    size, unless the model itself has a fixed one. A model in mixed precision is written in float32.
    BatchNorms are folded into the layers beside them where that is exact; the model given keeps
    them. A weight that is zero is zero in the file.

    The converted file runs on `representative_data`, else on random inputs, first with one sample,
    then with the rest, and is compared with `model(x, training=False)`. Where they differ by more
    than the tolerance, nothing is written. Nothing of the model, the backend or the environment
    is changed.

    TensorFlow's converter needs Keras on TensorFlow. On the JAX and torch backends a child process
    does that (it takes about ten seconds to start); own layers must then be importable there.

    Args:
        model: A built Sequential or Functional Keras 3 model.
        path: Where the file goes; its folder must exist. An existing file is replaced in one step.
        quantization: How weights and activations are stored.

            - `None`: float32.
            - `"sparse"`: float32, with the zeros of a pruned model left out of the file; at half
                zeros about 0.6 of the bytes, at 90 % zeros 0.1 to 0.2. What is gained is mostly
                gone after gzip. It runs as fast as the dense file, except that dense layers with
                zeros in blocks of 4 inputs run on a kernel of their own: as fast at 50 % zeros,
                0.6 of the time at 70 %, 0.3 at 90 % (`benchmarks/export_sparse.py`). In int8 it is
                not offered: the interpreter does not load such dense layers.
            - `"float16"`: weights in float16, arithmetic in float32; half the bytes.
            - `"dynamic"`: large weights (from 1024 elements) in int8, activations quantized while
                running; about a quarter of the bytes.
            - `"int8"`: weights and activations in int8, with float32 inputs and outputs. An
                operation without an int8 kernel stays in float32:
                `LiteRTModel.float_operations` lists them.
            - `"int8_full"`: the same with int8 inputs and outputs too, for hardware that knows
                integers only: a program of your own must quantize what goes in and dequantize what
                comes out, by the scale and zero point in the file, as `LiteRTModel` does. Inputs
                that are integers, such as an embedding's, stay as they are. A model with an
                operation that has no int8 kernel is refused, and the operation named.
        representative_data: Inputs as the model will see them, for the int8 modes to measure the
            ranges of activations on and for the check: an array, a list or dictionary of arrays
            for several inputs, a batched `tf.data.Dataset` or a `keras.utils.PyDataset`, with or
            without labels. The first 500 samples are used.
        tolerance: Float, the largest relative error accepted: root mean square of the difference
            over that of the outputs (over their deviation from their mean where
            `representative_data` is given). `None` takes that of the mode: 1e-4 for float32, 1e-2
            for `"float16"`, 0.1 for `"dynamic"`, 0.3 for both int8 modes; `agreement.TOLERANCES`
            gives the reasons. A model in mixed precision gets 0.02 (float16) or 0.1 (bfloat16) more
            for its own rounding.

    Returns:
        A `LiteRTModel` of the file.

    Raises:
        ValueError: If the arguments are not usable, or, as `ConversionError`, if the model cannot
            be converted or the file does not agree with it. Then no file is written.

    Example:

    ```python
    lite = keras_optkit.export.to_litert(model, "model.tflite", "int8", representative_data=x_train)
    lite.evaluate(x_test, y_test, metrics=["accuracy"])
    ```
    """
    require_exportable(model)
    require_quantization(quantization)
    require_tolerance(tolerance)
    path = require_writable(path)
    data = representative_arrays(model, representative_data, quantization)
    (result,) = convert_and_check([Request(model, quantization, data, tolerance)])
    if isinstance(result, ConversionError):
        raise result
    write_atomically(path, result)
    return LiteRTModel(path)


def convert_and_check(requests: Sequence[Request]) -> list[bytes | ConversionError]:
    """Converts models and compares each file with its model.

    Returns:
        For each request the bytes of a file that agrees with its model, or the error.

    Raises:
        ValueError: If a model needs data for the check and has none; before any work.
    """
    for request in requests:
        request.samples()
    jobs = [
        Job(r.model, r.quantization, r.data if r.quantization in CALIBRATED else None)
        for r in requests
    ]
    results: list[bytes | ConversionError] = []
    for request, content in zip(requests, convert(jobs), strict=True):
        if not isinstance(content, ConversionError):
            try:
                _check(content, request)
            except ConversionError as error:
                content = error
        results.append(content)
    return results


def _check(content: bytes, request: Request) -> None:
    model = request.model
    received = f"Received: model={model!r}, quantization={request.quantization!r}"
    if request.quantization == "sparse" and not has_sparse_weights(content):
        raise ConversionError(
            "No kernel of the model has so many zeros that the converter would leave them out, so "
            "a sparse file would save nothing; no file was written. Prune the model further, or "
            f"use another `quantization`. {received}"
        )
    if request.quantization == "int8_full" and (floats := float_calls(content)):
        raise ConversionError(
            f"LiteRT has no int8 kernel for: {with_places(model, floats)}, so the file would not "
            "be integer throughout; no file was written. Write that part of the model with other "
            f"operations, or use `quantization='int8'`, which leaves it in float32. {received}"
        )
    run = lambda data: _litert_outputs(LiteRTModel.from_bytes(content), data)  # noqa: E731
    require_agreement(request, run, "the LiteRT interpreter", received)


def _litert_outputs(lite: LiteRTModel, data: dict[str, np.ndarray]) -> list[np.ndarray]:
    # One sample, then the others: the file must run with any batch size.
    samples = len(next(iter(data.values())))
    cut = lite.fixed_batch or 1
    pieces = [slice(0, cut), slice(cut, None)] if samples > cut else [slice(None)]
    parts = []
    for piece in pieces:
        outputs = lite.predict({name: array[piece] for name, array in data.items()})
        parts.append(list(outputs.values()) if isinstance(outputs, dict) else [outputs])
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


def representative_arrays(
    model: keras.Model, data: Any, quantization: str | None
) -> dict[str, np.ndarray] | None:
    """Returns representative data as arrays by input name, or `None` where none are given.

    Raises:
        ValueError: If there are none and an int8 mode needs them, or they do not fit the model.
    """
    if data is None:
        if quantization in CALIBRATED:
            raise ValueError(
                f"`quantization={quantization!r}` needs `representative_data`: some hundred inputs "
                "as the model will see them, on which the ranges of its activations are measured. "
                "Received: representative_data=None"
            )
        return None
    what = "representative_data"
    if datasets.is_dataset(data):
        data, _ = datasets.take(data, MAX_REPRESENTATIVE, what)
    specs = input_specs(model)
    arrays = {n: a[:MAX_REPRESENTATIVE] for n, a in bind(data, specs, what).items()}
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                f"`{what}` must be finite: no range can be measured and no output compared on it. "
                f"Received: {np.count_nonzero(~np.isfinite(array))} numbers of {array.size} that "
                f"are not, for the input {name!r}"
            )
    size = specs[0].shape[0]
    if size is None:
        return arrays
    samples = len(next(iter(arrays.values()))) // size * size
    if samples == 0:
        raise ValueError(
            f"`{what}` must have at least one batch of the model's fixed size, {size}. "
            f"Received: shapes {[a.shape for a in arrays.values()]}"
        )
    return {name: array[:samples] for name, array in arrays.items()}


def require_quantization(quantization: Any, name: str = "quantization") -> None:
    """Raises a `ValueError` unless `quantization` is one of `MODES`."""
    if quantization is None or quantization in MODES:
        return
    hint = did_you_mean(str(quantization), [mode for mode in MODES if mode is not None])
    raise ValueError(
        f"`{name}` must be None (float32), 'sparse', 'float16', 'dynamic', 'int8' or 'int8_full'. "
        f"{hint} Received: {name}={quantization!r}"
    )
