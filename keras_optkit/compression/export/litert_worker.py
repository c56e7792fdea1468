"""The child process of `litert_converter`: converts saved models, with Keras on TensorFlow.

`python -m keras_optkit.compression.export.litert_worker DIRECTORY` reads `plan.json` there, a list
of `{"model": FILE, "quantization": MODE}`, and for entry i the arrays in `i.npz` if it is there. It
writes `i.tflite`, or the reason why not to `i.error`.
"""

import json
import os
import sys

import keras
import numpy as np

from keras_optkit.compression.export.litert_converter import ConversionError, Job, convert


def main(directory: str) -> None:
    """Carries out the plan in a directory."""
    with open(os.path.join(directory, "plan.json"), encoding="utf-8") as file:
        plan = json.load(file)
    models: dict[str, keras.Model | ConversionError] = {}
    for i, entry in enumerate(plan):
        name = entry["model"]
        if name not in models:
            models[name] = _load(os.path.join(directory, name))
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


def _load(path: str) -> "keras.Model | ConversionError":
    try:
        # The parent has just written the file; what is in it is the user's own code.
        return keras.saving.load_model(path, compile=False, safe_mode=False)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        return ConversionError(
            "The converter needs the model on the TensorFlow backend, and it could not be loaded "
            f"there: {reason} Keep own layers in a module that can be imported (not the script "
            "itself or a notebook), written with `keras.ops`, with a `get_config`; or run the "
            "export with KERAS_BACKEND=tensorflow, where the model is converted as it is. "
            f"Received: {type(error).__name__} while loading the saved model"
        )


if __name__ == "__main__":
    main(sys.argv[1])
