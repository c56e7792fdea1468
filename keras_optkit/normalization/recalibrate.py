"""The moving statistics of BatchNorm, computed anew from data."""

import types
from typing import Any

import keras
import numpy as np

from keras_optkit.normalization.collect import (
    collect_moments,
    measuring,
    require_batch_norm_layers,
)

# Two passes agree when no mean moves by more than this part of a standard deviation, and no
# variance by more than this part of itself. Rounding in float32 moves them by about 1e-6.
_TOLERANCE = 1e-5


def recalibrate_batch_norm(
    model: keras.Model,
    data: Any,
    normalize_with: str = "batch",
    include_frozen: bool = False,
    batch_size: int = 32,
    steps: int | None = None,
) -> list[keras.layers.BatchNormalization]:
    """Replaces the moving statistics of a model's BatchNorms by those of all of the data.

    Use it where the statistics lag behind the weights or the data: after averaging weights, after
    pruning, after a training too short for the momentum, or for data of another kind. Mean and
    variance are exact over all samples (not averages of the batches' variances), whatever the size
    of the batches. The model runs in inference mode meanwhile, so Dropout does not act. Weights,
    momenta, `trainable` flags, seeds, optimizer and metrics stay as they are; so do the statistics
    if an error or an interrupt ends the pass.

    What a norm deep in a model sees depends on how the norms before it normalize. There are two
    sensible answers:

    - `"batch"`: by the statistics of each batch, as in training. It takes one pass. Except for the
      first norm, the result depends a little on the size and order of the batches: use batches as
      in training, shuffled.
    - `"moving"`: by their new statistics, as in inference, so that in the end the statistics are
      those of what each norm sees in `predict`. After a first pass as above, passes are made until
      the statistics no longer move, at most as many as there are norms.

    A norm that is called at several places counts the samples of all of them.
    `GhostBatchNormalization` takes its statistics from the whole batch here.

    Args:
        model: A built `keras.Model` of any kind. It is changed in place.
        data: The inputs: an array, a list or dictionary of arrays, a tuple `(x, y)` or
            `(x, y, sample_weight)`, or anything that `fit` takes and that yields batches of these
            (a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch `DataLoader`, a generator).
            Labels and sample weights are not used. A generator does for `"batch"` only, as it
            can be read but once.
        normalize_with: `"batch"` or `"moving"`, see above. Defaults to `"batch"`.
        include_frozen: Boolean, whether norms with `trainable=False` are recalibrated too.
            Otherwise they keep their statistics and normalize by them, as in training. Defaults
            to `False`.
        batch_size: Integer >= 1, the size of the batches where `data` is arrays. Defaults to 32.
        steps: Integer >= 1, how many batches are read at most, or `None` for all. Endless data
            needs it.

    Returns:
        The list of the layers that were recalibrated. A norm that the model does not call in
        inference is not among them.

    Raises:
        ValueError: If the model is not built or has no BatchNorm to recalibrate, an argument is out
            of its range, or the data is empty, endless, of another shape, or not finite.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.BatchNormalization()])
    >>> layers = recalibrate_batch_norm(model, np.array([[1.0, 2.0], [3.0, 6.0]]))
    >>> keras.ops.convert_to_numpy(layers[0].moving_variance)
    array([1., 4.], dtype=float32)

    Reference:
        Ioffe and Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift", 2015, algorithm 2. Izmailov et al., "Averaging Weights Leads to
        Wider Optima and Better Generalization", 2018, section 3.2 (after averaging).
    """
    _check_arguments(normalize_with, batch_size, steps)
    if normalize_with == "moving" and isinstance(data, types.GeneratorType):
        raise ValueError(
            'A generator can be read once, and `normalize_with="moving"` reads the data several '
            f"times. Pass a dataset or arrays. Received: data={data!r}"
        )
    layers = _layers_to_recalibrate(model, include_frozen)
    old = [(variable, keras.ops.convert_to_numpy(variable)) for variable in _statistics(layers)]
    try:
        found = collect_moments(model, data, layers, "batch", batch_size, steps)
        if not found:
            raise ValueError(
                f"The model '{model.name}' calls none of its BatchNorms in inference. "
                f"Received: model={model!r}"
            )
        _assign(found)
        if normalize_with == "moving":
            with measuring(model, layers, "moving") as measure:
                for _ in layers:
                    before, found = found, measure(data, batch_size, steps)
                    _assign(found)
                    if _agree(before, found):
                        break
    except BaseException:
        for variable, value in old:
            variable.assign(value)
        raise
    return list(found)


def _check_arguments(normalize_with, batch_size, steps) -> None:
    if normalize_with not in ("batch", "moving"):
        raise ValueError(
            '`normalize_with` must be "batch" or "moving". '
            f"Received: normalize_with={normalize_with!r}"
        )
    for name, value in (("batch_size", batch_size), ("steps", 1 if steps is None else steps)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")


def _layers_to_recalibrate(model, include_frozen):
    every = require_batch_norm_layers(model)
    layers = [n for n in every if n.built and (include_frozen or n.trainable)]
    if not layers:
        raise ValueError(
            f"All {len(every)} BatchNorm layers of the model '{model.name}' are frozen "
            "(`trainable=False`). Pass `include_frozen=True` to recalibrate them all the same. "
            "Received: include_frozen=False"
        )
    return layers


def _statistics(layers):
    names = ("moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev")
    return [getattr(layer, name) for layer in layers for name in names if hasattr(layer, name)]


def _assign(found) -> None:
    for layer, moments in found.items():
        if not (np.isfinite(moments.mean).all() and np.isfinite(moments.variance).all()):
            raise ValueError(
                f"The inputs of the layer '{layer.path}' are not finite: the data or the weights "
                "hold NaN or infinity, or a value overflows. The statistics were left as they "
                f"were. Received: mean={moments.mean}"
            )
        layer.moving_mean.assign(moments.mean)
        layer.moving_variance.assign(moments.variance)
        if layer.renorm:
            deviation = np.sqrt(moments.variance + layer.epsilon)
            layer.renorm_mean.assign(moments.mean)
            layer.renorm_stddev.assign(deviation)
            layer.moving_stddev.assign(deviation)


def _agree(before, after) -> bool:
    return all(
        np.all(np.abs(after[n].mean - b.mean) <= _TOLERANCE * np.sqrt(b.variance + n.epsilon))
        and np.all(np.abs(after[n].variance - b.variance) <= _TOLERANCE * (b.variance + n.epsilon))
        for n, b in before.items()
    )
