"""The moments of what each BatchNorm of a model gets to see over a data set."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_optkit.normalization.moments import RunningMoments, merged_moments, sample_moments


def batch_norm_layers(model: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Returns the BatchNorm layers of a model, also those in nested models and in blocks.

    Args:
        model: A model or any other layer.

    Returns:
        A list in the order in which the layers are held, each layer once. Subclasses of
        `keras.layers.BatchNormalization` are among them.

    Example:

    >>> batch_norm_layers(keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()]))
    [<BatchNormalization name=batch_normalization..., built=True>]
    """
    layers = dict.fromkeys(model._flatten_layers())
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


def require_batch_norm_layers(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Returns the BatchNorm layers of a model.

    Args:
        model: A built `keras.Model`.

    Returns:
        A list, see `batch_norm_layers`.

    Raises:
        ValueError: If `model` is not a built `keras.Model`, or has no BatchNorm.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a `keras.Model`. Received: model={model!r}")
    if not model.built:
        raise ValueError(
            f"The model '{model.name}' is not built, so its layers may not all be there. Call it "
            f"on a batch first. Received: model={model!r}"
        )
    layers = batch_norm_layers(model)
    if not layers:
        raise ValueError(
            f"The model '{model.name}' has no BatchNorm layer (`keras.layers.BatchNormalization` "
            f"or a subclass). Received: model={model!r}"
        )
    return layers


def collect_moments(
    model: keras.Model,
    data: Any,
    layers: Sequence[keras.layers.BatchNormalization],
    normalize_with: str = "batch",
    batch_size: int = 32,
    steps: int | None = None,
) -> dict[keras.layers.BatchNormalization, RunningMoments]:
    """Returns mean and variance over all of the data, in one pass, of what BatchNorm layers see.

    The model runs in inference mode, and nothing of it is changed.

    Args:
        model: A built model.
        data: As for `recalibrate_batch_norm`.
        layers: The BatchNorm layers that are looked at.
        normalize_with: `"batch"`: meanwhile these layers normalize by the statistics of each
            batch. `"moving"`: by their moving statistics.
        batch_size: Integer, the size of the batches where `data` is arrays.
        steps: Integer, how many batches are read at most, or `None` for all.

    Returns:
        A dictionary from those of the layers that were called to their `RunningMoments`.

    Raises:
        ValueError: If the data is empty, endless, or does not fit the model.
    """
    with measuring(model, layers, normalize_with) as measure:
        return measure(data, batch_size, steps)


@contextlib.contextmanager
def measuring(
    model: keras.Model, layers: Sequence[keras.layers.BatchNormalization], normalize_with: str
) -> Iterator[Callable[..., dict[keras.layers.BatchNormalization, RunningMoments]]]:
    """A context that gives a function `(data, batch_size, steps)` to call once for each pass.

    What it runs is compiled once; it reads the weights and statistics of the moment. For the
    arguments see `collect_moments`.
    """
    with _recorded(model, layers, normalize_with) as probe, _seeds_kept(model):
        step = _compiled(probe)

        def measure(data, batch_size=32, steps=None):
            found = [RunningMoments() for _ in layers]
            empty = True
            for x in _inputs(data, batch_size, steps):
                if empty:
                    _check_fit(model, x)
                empty = False
                for index, calls in step(x).items():
                    for means, squares, counts in calls:
                        found[int(index)].update(means, squares, counts)
            if empty:
                raise ValueError(f"`data` is empty: it has no batch. Received: data={data!r}")
            return {
                layer: moments
                for layer, moments in zip(layers, found, strict=True)
                if np.any(moments.count)
            }

        yield measure


class _Probe(keras.Model):
    """Calls a model and returns what was recorded meanwhile."""

    def __init__(self, model: keras.Model, take: Callable[[], dict[str, list]]):
        # The model itself casts what it is called with.
        super().__init__(name="probe", autocast=False)
        self._model = model
        self._take = take
        self.built = True

    def call(self, inputs):
        self._take()  # what a call that failed has left
        self._model(inputs, training=False)
        return self._take()


@contextlib.contextmanager
def _recorded(model, layers, normalize_with) -> Iterator[_Probe]:
    """Lets layers record the moments of their inputs for as long as the context lasts."""
    records: dict[str, list] = {str(index): [] for index in range(len(layers))}

    def take():
        taken = {name: list(calls) for name, calls in records.items() if calls}
        for calls in records.values():
            calls.clear()
        return taken

    try:
        for layer, calls in zip(layers, records.values(), strict=True):
            layer.call = functools.partial(_record, layer, layer.call, calls, normalize_with)
        yield _Probe(model, take)
    finally:
        for layer in layers:
            vars(layer).pop("call", None)


def _record(layer, own_call, calls, normalize_with, inputs, training=None, mask=None):
    """Stands in for the `call` of a BatchNorm."""
    moments = sample_moments(inputs, layer.axis, mask)
    calls.append(moments)
    if normalize_with == "moving":
        return own_call(inputs, training=False, mask=mask)
    mean, variance = merged_moments(*moments)
    outputs = ops.batch_normalization(
        ops.cast(inputs, mean.dtype),
        mean,
        variance,
        axis=layer.axis,
        offset=None if layer.beta is None else ops.cast(layer.beta, mean.dtype),
        scale=None if layer.gamma is None else ops.cast(layer.gamma, mean.dtype),
        epsilon=layer.epsilon,
    )
    return ops.cast(outputs, layer.compute_dtype)


@contextlib.contextmanager
def _seeds_kept(model) -> Iterator[None]:
    """Puts the states of random generators back, of layers that draw in inference mode too."""
    states = [g.state for layer in model._flatten_layers() for g in layer._seed_generators]
    before = [ops.convert_to_numpy(state) for state in states]
    try:
        yield
    finally:
        for state, value in zip(states, before, strict=True):
            state.assign(value)


def _compiled(probe: _Probe) -> Callable[[Any], dict[str, list]]:
    """Returns a function from a batch to the moments as arrays."""
    if keras.backend.backend() != "jax":
        return probe.predict_on_batch
    # There `predict` gives the buffers of the weights away, and with them those of an optimizer's
    # moving averages, which may be the same.
    jax = importlib.import_module("jax")
    step = jax.jit(lambda *arguments: probe.stateless_call(*arguments)[0])
    return lambda x: jax.device_get(
        step(
            [v.value for v in probe.trainable_variables],
            [v.value for v in probe.non_trainable_variables],
            x,
        )
    )


def _inputs(data: Any, batch_size: int, steps: int | None) -> Iterator[Any]:
    """Yields the inputs of each batch."""
    from keras.src.trainers.data_adapters import get_data_adapter

    if steps is None and _is_endless(data):
        raise ValueError(
            "`data` repeats without end; pass `steps=`, the number of batches to read. "
            f"Received: data={data!r}, steps=None"
        )
    if isinstance(data, keras.utils.PyDataset) and data.num_batches == 0:
        return
    parts = data if isinstance(data, tuple) else (data,)
    adapter = get_data_adapter(*parts, batch_size=batch_size)
    for index, batch in enumerate(adapter.get_numpy_iterator()):
        if index == steps:
            break
        yield keras.utils.unpack_x_y_sample_weight(batch)[0]


def _is_endless(data: Any) -> bool:
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    # tf.data.INFINITE_CARDINALITY
    return hasattr(data, "cardinality") and int(data.cardinality()) == -1


def _check_fit(model: keras.Model, x: Any) -> None:
    """Calls the model on shapes only, so that data that does not fit is told before any work."""
    specs = keras.tree.map_structure(
        lambda part: keras.KerasTensor(part.shape, keras.backend.standardize_dtype(part.dtype)), x
    )
    try:
        model.compute_output_spec(specs, training=False)
    except Exception as error:
        shapes = keras.tree.map_structure(lambda part: tuple(part.shape), x)
        raise ValueError(
            f"A batch of `data` does not fit the model '{model.name}', which takes inputs of shape "
            f"{getattr(model, 'input_shape', 'that its `call` asks for')}: {error} "
            f"Received: data with a batch of shape {shapes}"
        ) from error
