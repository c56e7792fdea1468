"""The child process of `litert_converter`: converts saved models, with Keras on TensorFlow.

`python -m keras_optkit.compression.export.litert_worker DIRECTORY` reads `plan.json` there, a list
of `{"model": FILE, "classes": [[MODULE, NAME], ...], "quantization": MODE}`, and for entry i the
arrays in `i.npz` if it is there. It writes `i.tflite`, or the reason why not to `i.error`.
"""

import contextlib
import importlib
import json
import operator
import os
import sys

import keras
import numpy as np

from keras_optkit.compression.export.check import ConversionError
from keras_optkit.compression.export.litert_converter import (
    Job,
    convert,
    first_line,
)


def main(directory: str) -> None:
    """Carries out the plan in a directory."""
    with open(os.path.join(directory, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    models: dict[str, keras.Model | ConversionError] = {}
    for i, entry in enumerate(plan):
        name = entry["model"]
        if name not in models:
            models[name] = _load(os.path.join(directory, name), entry["classes"])
        result = models[name]
        if not isinstance(result, ConversionError):
            arrays = os.path.join(directory, f"{i}.npz")
            calibration = dict(np.load(arrays)) if os.path.exists(arrays) else None
            (result,) = convert([Job(result, entry["quantization"], calibration)])
        if isinstance(result, ConversionError):
            with open(os.path.join(directory, f"{i}.error"), "w", encoding="utf-8") as file:
                file.write(str(result))
        else:
            with open(os.path.join(directory, f"{i}.tflite"), "wb") as file:
                file.write(result)


def _load(path: str, classes: list[list[str]]) -> "keras.Model | ConversionError":
    known = {}
    for module, name in classes:
        # What cannot be found here is named by the error of the load.
        with contextlib.suppress(ImportError, AttributeError):
            known[name.split(".")[-1]] = operator.attrgetter(name)(importlib.import_module(module))
    try:
        # The parent has just written the file; what is in it is the user's own code.
        return keras.saving.load_model(path, known, compile=False, safe_mode=False)
    except Exception as error:
        return ConversionError(
            "The converter needs the model on the TensorFlow backend, and it could not be loaded "
            f"there: {first_line(error)} Keep own layers in a module that can be imported (not in "
            "the script itself or a notebook), written with `keras.ops` and with a `get_config`; "
            "or run the export with KERAS_BACKEND=tensorflow, where the model is converted as it "
            f"is. Received: classes={[name for _, name in classes]}"
        )


if __name__ == "__main__":
    main(sys.argv[1])
