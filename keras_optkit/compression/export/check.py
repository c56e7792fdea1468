"""The check that a converted model is still the model, on data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_optkit.compression.export.agreement import (
    HALF_PRECISION_ROOM,
    TOLERANCES,
    relative_error,
)
from keras_optkit.compression.export.full_precision import half_precision
from keras_optkit.compression.export.signature import input_specs, pack_inputs, random_inputs

_RANDOM_SAMPLES = 8


class ConversionError(ValueError):
    """A model that cannot be converted, or a converted file that is not the model."""


@dataclass(frozen=True)
class Request:
    """A checked conversion that is asked for.

    Args:
        model: The model.
        quantization: One of `litert_converter.MODES`.
        data: Representative arrays by input name, or `None`.
        tolerance: Float, or `None` for that of the mode.
    """

    model: keras.Model
    quantization: str | None = None
    data: dict[str, np.ndarray] | None = None
    tolerance: float | None = None

    def samples(self) -> dict[str, np.ndarray]:
        """Returns what the check runs on: the data, or random inputs where there are none.

        Raises:
            ValueError: If there are no data and an input has a size that is not known.
        """
        if self.data is not None:
            return self.data
        return random_inputs(input_specs(self.model), _RANDOM_SAMPLES)


def require_agreement(
    request: Request,
    run: Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]],
    runtime: str,
    received: str,
) -> None:
    """Compares a converted model with the Keras model.

    Args:
        request: What was asked for.
        run: A function of arrays by input name that returns the converted model's outputs, in the
            order of the Keras model's.
        runtime: String, what it runs on.
        received: String, how a message ends.

    Raises:
        ConversionError: If the converted model does not run, or its outputs differ by more than the
            tolerance.
    """
    model, data = request.model, request.samples()
    expected = _keras_outputs(model, data)
    try:
        actual = run(data)
    except Exception as error:
        raise ConversionError(
            f"The converted file does not run on {runtime}: {error}. {received}"
        ) from error
    tolerance = request.tolerance
    if tolerance is None:
        tolerance = TOLERANCES[request.quantization]
        tolerance += HALF_PRECISION_ROOM.get(half_precision(model), 0.0)
    error = relative_error(expected, actual, centred=request.data is not None)
    if error <= tolerance:
        return
    where, hint = "representative data", ""
    if request.data is None:
        where = "random inputs"
        hint = "Random inputs may be none the model knows; give `representative_data`. "
    if request.quantization not in (None, "sparse"):
        hint += "A finer `quantization` keeps more. "
    raise ConversionError(
        f"The converted file does not agree with the Keras model on {where}: relative error "
        f"{error:.3g}, tolerance {tolerance:.3g}; no file was written. {hint}A layer that draws "
        "random numbers in inference or reads Python state makes another graph than it computes. "
        f"{received}"
    )


def require_tolerance(tolerance: object) -> None:
    """Raises a `ValueError` unless `tolerance` is `None` or a number of at least 0."""
    is_number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if tolerance is not None and not (is_number and tolerance >= 0):
        raise ValueError(
            f"`tolerance` must be None or a number of at least 0. Received: tolerance={tolerance!r}"
        )


def _keras_outputs(model: keras.Model, data: dict[str, np.ndarray]) -> list[np.ndarray]:
    size = input_specs(model)[0].shape[0] or 32
    samples = len(next(iter(data.values())))
    parts = []
    for start in range(0, samples, size):
        batch = [array[start : start + size] for array in data.values()]
        outputs = model(pack_inputs(model, batch), training=False)
        parts.append([keras.ops.convert_to_numpy(t) for t in keras.tree.flatten(outputs)])
    return [np.concatenate(part).astype("float64") for part in zip(*parts, strict=True)]
