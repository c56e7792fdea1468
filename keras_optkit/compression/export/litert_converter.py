"""A Keras model to the bytes of a LiteRT file, with TensorFlow's converter.

`convert` serves all backends: on TensorFlow it works in this process, elsewhere in a child process
that runs Keras on TensorFlow, for the converter reads TensorFlow graphs only.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_optkit.compression.export.check import ConversionError
from keras_optkit.compression.export.full_precision import in_float32, own_classes
from keras_optkit.compression.export.places import with_places
from keras_optkit.compression.export.quiet import quiet
from keras_optkit.compression.export.signature import input_specs, output_specs, pack_inputs
from keras_optkit.compression.export.traced import to_bytes
from keras_optkit.normalization.fold_batch_norm import fold_batch_norm

MODES = (None, "sparse", "float16", "dynamic", "int8", "int8_full")
CALIBRATED = ("int8", "int8_full")
_WORKER = "keras_optkit.compression.export.litert_worker"


@dataclass(frozen=True)
class Job:
    """One model to convert.

    Args:
        model: A built Sequential or Functional model.
        quantization: One of `MODES`.
        calibration: Arrays by input name that the ranges of a mode in `CALIBRATED` are measured on.
    """

    model: keras.Model
    quantization: str | None = None
    calibration: dict[str, np.ndarray] | None = None


def convert(jobs: Sequence[Job]) -> list[bytes | ConversionError]:
    """Converts models; the inputs and outputs of a file come in the order of its model's.

    Args:
        jobs: What to convert. Off TensorFlow all of it shares one child process.

    Returns:
        For each job the bytes of the file, or the error that it met.
    """
    if jobs and keras.backend.backend() != "tensorflow":
        return _convert_in_child(jobs)
    results: list[bytes | ConversionError] = []
    for job in jobs:
        try:
            results.append(_convert(job))
        except ConversionError as error:
            results.append(error)
    return results


def _convert(job: Job) -> bytes:
    import tensorflow as tf

    try:
        model = in_float32(job.model)
    except Exception as error:
        raise ConversionError(
            "The model computes in half precision and could not be rebuilt in float32: "
            f"{first_line(error)} Decorate own functions and classes with "
            "`@keras.saving.register_keras_serializable()` and give own layers a `get_config`, "
            f"or build the model under the float32 policy. Received: model={job.model!r}"
        ) from error
    inputs, outputs = input_specs(model), output_specs(model)
    model = _folded(model)

    def calibration() -> Iterator[dict[str, np.ndarray]]:
        size = inputs[0].shape[0] or 1
        samples = len(next(iter(job.calibration.values())))
        for start in range(0, samples - size + 1, size):
            yield {name: array[start : start + size] for name, array in job.calibration.items()}

    def prepare(converter):
        if job.quantization == "sparse":
            converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        elif job.quantization is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if job.quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if job.quantization in CALIBRATED:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.representative_dataset = calibration
        if job.quantization == "int8_full":
            converter.inference_input_type = converter.inference_output_type = tf.int8

    def call(tensors):
        return model(pack_inputs(model, tensors), training=False)

    try:
        variables = [variable.value for variable in model.variables]
        return to_bytes(call, variables, inputs, outputs, prepare)
    except Exception as error:
        raise ConversionError(_explain(error, job)) from error


def _folded(model: keras.Model) -> keras.Model:
    """Returns the model without the BatchNorms that its linear layers can take over.

    The converter itself fuses a norm behind a convolution or beside a dense layer. One in front of
    a convolution it leaves as a multiplication and an addition; without these, int8 files of small
    nets took 0.63 to 0.77 of the time and were more exact (`benchmarks/export_fold.py`).
    """
    try:
        return fold_batch_norm(model)
    except ValueError:
        # It has no norm, or a layer that cannot be copied.
        return model


def _explain(error: Exception, job: Job) -> str:
    text = str(error)
    received = f"Received: model={job.model!r}, quantization={job.quantization!r}"
    operations = sorted(set(re.findall(r"'tf\.(\w+)' op", text)) - {"PartitionedCall"})
    if any(name.startswith("TensorList") for name in operations):
        return (
            "The model holds a loop, as a recurrent layer makes one, whose length or batch size "
            "LiteRT does not know. Make the recurrent layers with `unroll=True`, or give the model "
            f"a fixed batch size (`keras.Input(batch_shape=...)`). {received}"
        )
    if operations:
        calls = getattr(error, "operations", {})
        places = with_places(job.model, {kind: calls.get(kind, []) for kind in operations})
        return (
            f"LiteRT has no kernel for: {places}. Write that part of the model with "
            f"other operations, or leave it out of the exported model. {received}"
        )
    return f"TensorFlow's converter refused the model: {first_line(error)} {received}"


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[0] if lines else type(error).__name__
    return line if line.endswith((".", "!", "?")) else f"{line}."


def _convert_in_child(jobs: Sequence[Job]) -> list[bytes | ConversionError]:
    with tempfile.TemporaryDirectory() as directory:
        plan, files = [], {}
        for i, job in enumerate(jobs):
            if id(job.model) not in files:
                files[id(job.model)] = f"{i}.keras"
                # Saving imports TensorFlow on every backend, which has much to say.
                with quiet():
                    job.model.save(os.path.join(directory, f"{i}.keras"))
            if job.calibration is not None:
                np.savez(os.path.join(directory, f"{i}.npz"), **job.calibration)
            classes = [[cls.__module__, cls.__qualname__] for cls in own_classes(job.model)]
            plan.append(
                {
                    "model": files[id(job.model)],
                    "classes": classes,
                    "quantization": job.quantization,
                }
            )
        with open(os.path.join(directory, "plan.json"), "w", encoding="utf-8") as file:
            json.dump(plan, file)
        child = subprocess.run(
            [sys.executable, "-m", _WORKER, directory],
            env=_child_environment(),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        results: list[bytes | ConversionError] = []
        for i, job in enumerate(jobs):
            path = os.path.join(directory, f"{i}.tflite")
            if os.path.exists(path):
                with open(path, "rb") as file:
                    results.append(file.read())
                continue
            message = os.path.join(directory, f"{i}.error")
            if os.path.exists(message):
                with open(message, encoding="utf-8") as file:
                    results.append(ConversionError(file.read()))
                continue
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            results.append(
                ConversionError(
                    "The child process that converts the model on TensorFlow ended with code "
                    f"{child.returncode}: {last}. Received: model={job.model!r}"
                )
            )
        return results


def _child_environment() -> dict[str, str]:
    environment = dict(os.environ)
    # TF-MOT sets this one, and a model of Keras 3 then does not load.
    environment.pop("TF_USE_LEGACY_KERAS", None)
    environment.update(
        KERAS_BACKEND="tensorflow",
        TF_CPP_MIN_LOG_LEVEL="3",
        # Conversion is CPU work, and the parent may hold all of the accelerator's memory.
        CUDA_VISIBLE_DEVICES="-1",
        # What this process can import, the child can: the user's own layers among it.
        PYTHONPATH=os.pathsep.join(entry or os.getcwd() for entry in sys.path),
    )
    return environment
