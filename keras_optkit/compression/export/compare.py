"""`compare`: several models of one task measured alike, as Keras models and as `.tflite` files."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.export import datasets, findings
from keras_optkit.compression.export.check import ConversionError, Request
from keras_optkit.compression.export.files import write_atomically
from keras_optkit.compression.export.keras_file import keras_file
from keras_optkit.compression.export.litert import (
    MAX_REPRESENTATIVE,
    convert_and_check,
    representative_arrays,
    require_quantization,
)
from keras_optkit.compression.export.litert_converter import CALIBRATED
from keras_optkit.compression.export.litert_model import LiteRTModel
from keras_optkit.compression.export.measure import (
    Accuracy,
    Latency,
    binary_threshold,
    correct_answers,
    count_parameters,
    gzip_size,
    interleaved_times,
)
from keras_optkit.compression.export.report import FileStats, ModelStats, Report
from keras_optkit.compression.export.signature import (
    bind,
    file_name,
    input_specs,
    output_specs,
    pack_inputs,
    require_exportable,
    to_numpy,
)
from keras_optkit.compression.flops import count_flops


def compare(
    models: Mapping[str, keras.Model],
    data: Any,
    quantizations: Sequence[str | None] = (None, "int8"),
    representative_data: Any = None,
    runs: int = 50,
    warmup: int = 5,
    threads: int = 1,
    batch_size: int = 32,
    directory: str | os.PathLike | None = None,
) -> Report:
    """Measures classifiers side by side: parameters, FLOPs, bytes, accuracy, latency.

    Each model is measured as a Keras model and as one `.tflite` file for each quantization. All
    answer the same samples, so differences in accuracy are told from noise by the exact McNemar
    test. The latencies of all files are measured in turn, so that a sign test tells their
    differences from noise. A conversion that is refused leaves its cells empty and its reason in
    the notes. The models stay as they are.

    Args:
        models: Dictionary from a name to a built Keras model with one output: class
            probabilities or logits of shape `(batch, classes)`, or one column for two classes
            (cut at 0.5, or at 0 if values outside [0, 1] are logits). The first is the baseline.
        data: Labelled samples: a tuple `(x, y)` of arrays (`x` may be a list or a dictionary for
            several inputs), or a `tf.data.Dataset` or `keras.utils.PyDataset` of `(x, y)` batches,
            which is read once. Labels are class numbers or one-hot.
        quantizations: Which files to make, see `to_litert`.
        representative_data: What int8 ranges are measured on and files are checked with, see
            `to_litert`; by default the first 500 inputs of `data`.
        runs: Integer, how many runs of each file are timed.
        warmup: Integer, how many runs go before them.
        threads: Integer, the interpreter's threads when it is timed.
        batch_size: Integer, samples per run for the accuracies. Latency is that of one sample.
        directory: A folder that the files are kept in, as `<model>_<quantization>.tflite`, and
            that must exist; `None` keeps none.

    Returns:
        A `Report`.

    Raises:
        ValueError: If the models, the data or the settings are not usable; before any work.

    Example:

    ```python
    report = keras_optkit.export.compare({"original": a, "pruned": b}, (x_test, y_test))
    report.print()
    report.plot("report.png")
    ```
    """
    _require_models(models)
    kinds = _kinds(quantizations)
    _require_settings(runs, warmup, threads, batch_size, directory)
    _require_places(models, kinds, directory)
    x, labels = _labelled(data)
    inputs = {name: _named(name, model, x) for name, model in models.items()}
    labels = _require_labels(labels, models, len(next(iter(next(iter(inputs.values())).values()))))
    source = x if representative_data is None else representative_data
    if datasets.is_dataset(source):
        source, _ = datasets.take(source, MAX_REPRESENTATIVE, "representative_data")
    requests = {
        (name, kind): Request(model, mode, representative_arrays(model, source, mode))
        for name, model in models.items()
        for kind, mode in kinds.items()
    }

    converted = dict(zip(requests, convert_and_check(list(requests.values())), strict=True))
    files = {
        key: LiteRTModel.from_bytes(content)
        for key, content in converted.items()
        if not isinstance(content, ConversionError)
    }
    correct: dict[str, dict[str, np.ndarray]] = {}
    for name, model in models.items():
        arrays = inputs[name]
        keras_inputs = pack_inputs(model, list(arrays.values()))
        predictions = _columns(model.predict(keras_inputs, batch_size=batch_size, verbose=0))
        threshold = binary_threshold(predictions) if predictions.shape[-1] == 1 else None
        correct[name] = {"keras": correct_answers(predictions, labels, threshold)}
        for kind in kinds:
            if (name, kind) in files:
                predictions = _columns(files[name, kind].predict(arrays, batch_size))
                correct[name][kind] = correct_answers(predictions, labels, threshold)
    times = _times(files, inputs, runs, warmup, threads)
    flops = {name: _flops(model, inputs[name]) for name, model in models.items()}

    stats = {}
    for name, model in models.items():
        parameters, nonzero = count_parameters(model)
        content = keras_file(model)
        tflite = {}
        for kind in kinds:
            result = converted[name, kind]
            if isinstance(result, ConversionError):
                tflite[kind] = FileStats(error=str(result))
                continue
            tflite[kind] = FileStats(
                bytes=len(result),
                gzip_bytes=gzip_size(result),
                accuracy=Accuracy.of(correct[name][kind]),
                latency=Latency.of(times[name, kind], threads, files[name, kind].fixed_batch or 1),
                float_operations=files[name, kind].float_operations,
            )
            if directory is not None:
                write_atomically(_path(directory, name, kind), result)
        stats[name] = ModelStats(
            parameters=parameters,
            nonzero=nonzero,
            accuracy=Accuracy.of(correct[name]["keras"]),
            keras_bytes=len(content),
            keras_gzip_bytes=gzip_size(content),
            files=tflite,
            flops=None if isinstance(flops[name], ValueError) else flops[name],
        )
    calibrated = 0
    if representative_data is None and any(kind in CALIBRATED for kind in kinds):
        calibrated = min(len(labels), MAX_REPRESENTATIVE)
    notes = [
        *findings.about_zeros(stats),
        *(f"No FLOPs of {n!r}: {f}" for n, f in flops.items() if isinstance(f, ValueError)),
        *findings.about_accuracy(stats, correct),
        *findings.about_latency(stats, times),
        *findings.about_files(stats),
        *findings.about_measurement(stats, calibrated),
    ]
    return Report(stats, notes)


def _times(files, inputs, runs, warmup, threads) -> dict[tuple[str, str], np.ndarray]:
    calls = [file.timed_call(threads, 1, inputs[name]) for (name, _), file in files.items()]
    return dict(zip(files, interleaved_times(calls, runs, warmup), strict=True))


def _flops(model: keras.Model, arrays: Mapping[str, np.ndarray]) -> int | ValueError:
    try:
        return count_flops(model, {name: array.shape[1:] for name, array in arrays.items()})
    except ValueError as error:
        return error


def _path(directory: str | os.PathLike, name: str, kind: str) -> str:
    return os.path.join(directory, f"{file_name(name)}_{kind}.tflite")


def _columns(predictions: np.ndarray) -> np.ndarray:
    predictions = to_numpy(predictions)
    return predictions[:, None] if predictions.ndim == 1 else predictions


def _require_models(models: Any) -> None:
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            "`models` must be a dictionary from names to Keras models, with at least one. "
            f"Received: models={models!r}"
        )
    first = None
    for name, model in models.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"A model's name must be a string. Received: name={name!r}")
        try:
            require_exportable(model)
        except ValueError as error:
            raise ValueError(f"The model {name!r} cannot be compared. {error}") from error
        shapes = [spec.shape[1:] for spec in output_specs(model)]
        if len(shapes) != 1 or len(shapes[0]) > 1 or None in shapes[0]:
            raise ValueError(
                "`compare` takes classifiers with one output of shape (batch, classes). Use "
                "`to_litert` and `LiteRTModel.benchmark` for others. "
                f"Received: model {name!r} with outputs {shapes} after the batch"
            )
        first = first or (name, shapes)
        if shapes != first[1]:
            raise ValueError(
                "All models must have outputs of one shape. "
                f"Received: {first[0]!r} with {first[1][0]} and {name!r} with {shapes[0]}"
            )


def _kinds(quantizations: Any) -> dict[str, str | None]:
    if isinstance(quantizations, str) or quantizations is None:
        quantizations = [quantizations]
    for quantization in quantizations:
        require_quantization(quantization, "quantizations")
    return {quantization or "float32": quantization for quantization in quantizations}


def _require_settings(runs, warmup, threads, batch_size, directory) -> None:
    least = {"runs": (runs, 1), "warmup": (warmup, 0), "threads": (threads, 1)}
    for name, (value, low) in {**least, "batch_size": (batch_size, 1)}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(
                f"`{name}` must be an integer of at least {low}. Received: {name}={value!r}"
            )
    if directory is not None and not (os.path.isdir(directory) and os.access(directory, os.W_OK)):
        raise ValueError(
            "`directory` must be a folder that exists and can be written to. "
            f"Received: directory={directory!r}"
        )


def _require_places(models, kinds, directory) -> None:
    """Raises a `ValueError` if two of the files that are kept would have one name."""
    taken: dict[str, str] = {}
    for name in models if directory is not None else ():
        for kind in kinds:
            other = taken.setdefault(_path(directory, name, kind), name)
            if other != name:
                raise ValueError(
                    "Files are named after their models, in letters, digits and underscores, and "
                    "two of these would have one name; name the models otherwise. "
                    f"Received: models {other!r} and {name!r}"
                )


def _labelled(data: Any) -> tuple[Any, Any]:
    if datasets.is_dataset(data):
        x, y = datasets.take(data)
    elif isinstance(data, tuple) and len(data) == 2:
        x, y = data
    else:
        x, y = data, None
    if y is None:
        raise ValueError(
            "`data` must have labels: a tuple `(x, y)` of arrays, or a dataset of such batches. "
            f"Received: data of type {type(data).__name__} without labels"
        )
    return x, y


def _named(name: str, model: keras.Model, x: Any) -> dict[str, np.ndarray]:
    try:
        return bind(x, input_specs(model), "data")
    except ValueError as error:
        raise ValueError(f"The data do not fit the model {name!r}. {error}") from error


def _require_labels(labels: Any, models: Mapping[str, keras.Model], samples: int) -> np.ndarray:
    labels = to_numpy(labels)
    classes = (output_specs(next(iter(models.values())))[0].shape[1:] or (1,))[0]
    is_ids = labels.shape in ((samples,), (samples, 1))
    is_one_hot = labels.shape == (samples, classes) and classes > 1
    if not (is_ids or is_one_hot) or labels.dtype.kind not in "iufb":
        raise ValueError(
            f"Labels must be class numbers of shape ({samples},) or one-hot labels of shape "
            f"({samples}, {classes}). Received: labels of shape {labels.shape}, {labels.dtype}"
        )
    if is_ids:
        top = max(classes - 1, 1)
        if labels.min() < 0 or labels.max() > top or not np.array_equal(labels, np.rint(labels)):
            raise ValueError(
                f"Class numbers must be whole and in [0, {top}], for the models have {classes} "
                f"output column(s). Received: labels in [{labels.min()}, {labels.max()}]"
            )
    return labels
