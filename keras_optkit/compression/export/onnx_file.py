"""`to_onnx`: a Keras model to an ONNX file that is known to be that model."""

import contextlib
import importlib.util
import io
import os
import tempfile
import warnings
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.export.check import (
    ConversionError,
    Request,
    require_agreement,
    require_tolerance,
)
from keras_optkit.compression.export.files import require_writable, write_atomically
from keras_optkit.compression.export.inference_model import inference_model, signature
from keras_optkit.compression.export.litert import representative_arrays
from keras_optkit.compression.export.litert_converter import first_line
from keras_optkit.compression.export.quiet import quiet
from keras_optkit.compression.export.signature import (
    input_specs,
    output_specs,
    require_exportable,
)

# What `Model.export` uses on each backend.
_CONVERTERS = {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "torch"}


def to_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    representative_data: Any = None,
    tolerance: float | None = None,
    opset_version: int | None = None,
) -> None:
    """Writes a Keras model as an ONNX file, after checking that the two agree.

    `keras.Model.export` makes the file. What is added: the file is the model in inference (by
    itself `export` leaves augmentation active), inputs and outputs have the model's names and
    order, a model in mixed precision is written in float32, and the file is run with ONNX Runtime
    and compared with `model(x, training=False)`. Where they differ by more than the tolerance
    nothing is written. Nothing of the model is changed.

    It needs packages that are not installed with this one: `onnx`, and `tf2onnx` on the TensorFlow
    backend or `jax2onnx` on JAX; torch has its own exporter. Without `onnxruntime` the file is
    written unchecked, with a warning. On TensorFlow, tf2onnx does not export a `Normalization`
    layer, which is refused; on torch it works.

    Args:
        model: A built Sequential or Functional Keras 3 model.
        path: Where the file goes; its folder must exist. An existing file is replaced in one step.
        representative_data: Inputs as the model will see them, for the check, as in `to_litert`;
            random inputs by default.
        tolerance: Float, the largest relative error accepted, as in `to_litert`. `None`: 1e-4, and
            more for a model in mixed precision.
        opset_version: Integer, the version of ONNX' operations; `None` leaves it to the converter.

    Raises:
        ValueError: If the arguments are not usable, or, as `ConversionError`, if the model cannot
            be converted or the file does not agree with it. Then no file is written.
        ImportError: If a package is missing.

    Example:

    ```python
    keras_optkit.export.to_onnx(model, "model.onnx", representative_data=x_test)
    session = onnxruntime.InferenceSession("model.onnx")
    probabilities = session.run(None, {"images": x_test})[0]
    ```
    """
    require_exportable(model)
    require_tolerance(tolerance)
    path = require_writable(path)
    _require_packages()
    data = representative_arrays(model, representative_data, None)
    request = Request(model, None, data, tolerance)
    received = f"Received: model={model!r}"
    request.samples()  # What cannot be checked is told before any work.
    content = _named(_exported(model, opset_version, received), model)
    if importlib.util.find_spec("onnxruntime") is None:
        warnings.warn(
            "The ONNX file is written unchecked; `pip install onnxruntime` to have it compared "
            "with the Keras model.",
            stacklevel=2,
        )
    else:
        require_agreement(request, lambda arrays: _run(content, arrays), "ONNX Runtime", received)
    write_atomically(path, content)


def _require_packages() -> None:
    backend = keras.backend.backend()
    needed = ["onnx", _CONVERTERS[backend]]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"On the {backend} backend, Keras makes ONNX files with the packages {needed}. "
            f"Install what is missing: `pip install {' '.join(missing)}`, or export with another "
            f"backend (KERAS_BACKEND). Received: backend={backend!r}"
        )


def _exported(model: keras.Model, opset_version: int | None, received: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder, inference_model(model, flat=True) as inference:
        path = os.path.join(folder, "model.onnx")
        try:
            # The exporter of torch prints the graph that it fails at.
            with quiet(), contextlib.redirect_stdout(io.StringIO()):
                inference.export(
                    path,
                    format="onnx",
                    verbose=False,
                    input_signature=signature(inference),
                    opset_version=opset_version,
                )
        except Exception as error:
            raise ConversionError(
                f"Keras' export to ONNX refused the model: {first_line(error)} {received}"
            ) from error
        if os.listdir(folder) != ["model.onnx"]:
            raise ConversionError(
                "The model is too large for one ONNX file, which holds up to 2 GB. "
                f"{received}, {model.count_params():,} parameters"
            )
        with open(path, "rb") as file:
            return file.read()


def _named(content: bytes, model: keras.Model) -> bytes:
    """Returns the file with the model's names for its outputs; inputs have them already."""
    import onnx

    proto = onnx.load_model_from_string(content)
    for output, spec in zip(proto.graph.output, output_specs(model), strict=True):
        if output.name != spec.name:
            proto.graph.node.append(onnx.helper.make_node("Identity", [output.name], [spec.name]))
            output.name = spec.name
    names = [spec.name for spec in input_specs(model)]
    extra = [value.name for value in proto.graph.input if value.name not in names]
    if extra:
        raise ConversionError(
            f"Keras' export to ONNX turned constants into inputs: {extra}. A `Normalization` layer "
            "does that on the TensorFlow backend; leave it out of the exported model, or export "
            f"with KERAS_BACKEND=torch. Received: model={model!r}"
        )
    return proto.SerializeToString()


def _run(content: bytes, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, arrays)]
