"""`to_saved_model`: a Keras model to a TensorFlow SavedModel that is known to be that model."""

import os
import shutil
import tempfile
from typing import Any

import keras
import numpy as np

from keras_optkit.compression.export.check import (
    ConversionError,
    Request,
    require_agreement,
    require_tolerance,
)
from keras_optkit.compression.export.inference_model import inference_model, signature
from keras_optkit.compression.export.litert import representative_arrays
from keras_optkit.compression.export.litert_converter import first_line
from keras_optkit.compression.export.quiet import quiet
from keras_optkit.compression.export.signature import output_specs, pack_inputs, require_exportable


def to_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    representative_data: Any = None,
    tolerance: float | None = None,
) -> None:
    """Writes a Keras model as a TensorFlow SavedModel, after checking that the two agree.

    `keras.Model.export` makes it, on the TensorFlow and JAX backends. What is added: it is the
    model in inference (by itself `export` leaves augmentation active), several outputs are a
    dictionary with the model's names, a model in mixed precision is written in float32, and it is
    loaded again and compared with `model(x, training=False)`. Where they differ by more than the
    tolerance nothing is written. Nothing of the model is changed.

    Args:
        model: A built Sequential or Functional Keras 3 model.
        path: The folder to write; the folder that it is in must exist. A SavedModel that is there
            is replaced when the new one is ready; any other folder with files in it is refused.
        representative_data: Inputs as the model will see them, for the check, as in `to_litert`;
            random inputs by default.
        tolerance: Float, the largest relative error accepted, as in `to_litert`. `None`: 1e-4, and
            more for a model in mixed precision.

    Raises:
        ValueError: If the arguments are not usable, or, as `ConversionError`, if the model cannot
            be converted or what was written does not agree with it. Then nothing is written.

    Example:

    ```python
    keras_optkit.export.to_saved_model(model, "served/1", representative_data=x_test)
    served = tf.saved_model.load("served/1")
    probabilities = served.serve(x_test)
    ```
    """
    require_exportable(model)
    require_tolerance(tolerance)
    path = _require_place(path)
    backend = keras.backend.backend()
    if backend == "torch":
        raise ValueError(
            "Keras writes a SavedModel on the TensorFlow and JAX backends. Save the model with "
            "`model.save('model.keras')` and export it with KERAS_BACKEND=tensorflow. "
            f"Received: backend={backend!r}"
        )
    data = representative_arrays(model, representative_data, None)
    request = Request(model, None, data, tolerance)
    request.samples()  # What cannot be checked is told before any work.
    received = f"Received: model={model!r}"
    # Beside the place, so that it can be moved there.
    folder = tempfile.mkdtemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        new = os.path.join(folder, "new")
        with inference_model(model, flat=False) as inference:
            try:
                with quiet():
                    inference.export(new, verbose=False, input_signature=signature(inference))
            except Exception as error:
                raise ConversionError(
                    f"Keras' export to a SavedModel refused the model: {first_line(error)} "
                    f"{received}"
                ) from error
        require_agreement(request, lambda arrays: _run(new, model, arrays), "TensorFlow", received)
        _replace(new, path, os.path.join(folder, "old"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_place(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise ValueError(f"`path` must be the path of a folder. Received: path={path!r}")
    place = os.path.abspath(os.fspath(path))
    parent = os.path.dirname(place)
    is_model = os.path.exists(os.path.join(place, "saved_model.pb"))
    if os.path.isfile(place):
        problem = "is a file; name a folder, such as 'served/1'"
    elif os.path.isdir(place) and os.listdir(place) and not is_model:
        problem = "is a folder that holds something else than a SavedModel; name another one"
    elif not os.path.isdir(parent):
        problem = f"is in a folder that does not exist; create {parent!r} first"
    elif not os.access(parent, os.W_OK | os.X_OK):
        problem = f"is in a folder that cannot be written to, {parent!r}"
    else:
        return place
    raise ValueError(f"`path` {problem}. Received: path={path!r}")


def _replace(new: str, path: str, old: str) -> None:
    """Moves a folder to a place; what is there is put back if that fails."""
    if not os.path.exists(path):
        os.rename(new, path)
        return
    os.rename(path, old)
    try:
        os.rename(new, path)
    except BaseException:
        os.rename(old, path)
        raise


def _run(path: str, model: keras.Model, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    import tensorflow as tf

    with quiet():
        served = tf.saved_model.load(path)
    tensors = [tf.constant(array) for array in arrays.values()]
    outputs = served.serve(pack_inputs(model, tensors))
    if isinstance(outputs, dict):
        outputs = [outputs[spec.name] for spec in output_specs(model)]
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]
