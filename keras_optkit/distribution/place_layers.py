"""A model whose layers are on several devices."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_optkit.core.checks import check_count
from keras_optkit.core.graph import Graph
from keras_optkit.core.messages import did_you_mean
from keras_optkit.distribution.contiguous_parts import contiguous_parts
from keras_optkit.distribution.devices import resolve_devices
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.environment import check_one_process
from keras_optkit.distribution.layer_loads import KINDS, layer_loads
from keras_optkit.distribution.model_units import Unit, has_graph, model_units
from keras_optkit.distribution.preflight import optimizers


def place_layers(
    model: keras.Model,
    devices: Mapping[str, Sequence[str | keras.layers.Layer]] | int | Sequence[str] | None = None,
    balance: str | None = None,
    batch_size: int = 32,
    input_shapes: Any = None,
) -> Distribution:
    """Puts the layers of a model on several devices, for one that is too large for a single one.

    Weights move to the device of their layer, and `fit`, `evaluate` and `predict` compute the
    layer there, forward and backward, with the optimizer's state and updates beside the weights.
    One device works after the other: it saves memory, not time. Loss, metrics and weights are
    those of one device. It works on the tensorflow backend, with `steps_per_execution`, callbacks,
    and a `train_step` of one's own; files are those of an ordinary model, and a loaded one is on
    one device again. Weights that several layers share are on the device of the first of them.

    Args:
        model: A built model, compiled or not. With `balance`, a Sequential or Functional one.
        devices: A dictionary from each device to its layers or their names; those of a nested model
            go with it, or are named by themselves, as in `"encoder/dense"`. Layers without weights
            may be left out, and follow what they take. Or the devices, by number or names or `None`
            for all of the fastest kind, between which the layers are shared out in the order of the
            graph, so that the largest load is as small as it can be.
        balance: What the load is: `"parameters"`, which is the default; `"flops"`; or `"memory"`,
            that of the weights, of the optimizer's state for them (of a compiled model), and of
            what the layers return for a batch.
        batch_size: Integer >= 1, the batch size of the training, for `balance="memory"`.
        input_shapes: The inputs' shapes without the batch, for `"flops"` and `"memory"` of a model
            that leaves sizes open, as in `export.count_flops`.

    Returns:
        A `Distribution`. `describe()` tells what is where, with bytes, `placement` has the device
        of each layer, and `memory_per_device(model)` counts. Its `scope()` is for training loops
        of one's own: the layers are called on their devices inside of it.

    Raises:
        ValueError: If the backend cannot do this, a device or layer does not exist, a layer with
            weights is left out or named twice, or the model is not built, quantized, on a
            `tf.distribute` strategy, or compiled with `jit_compile=True`.

    Example:

    ```python
    model = keras.Sequential(
        [keras.Input((784,)), keras.layers.Dense(4096, "relu"), keras.layers.Dense(10)]
    )
    model.compile("adam", "mse")
    distribution = keras_optkit.distribution.place_layers(model, ["gpu:0", "gpu:1"])
    print(distribution.describe())
    model.fit(x, y)
    ```
    """
    backend = keras.backend.backend()
    if backend != "tensorflow":
        instead = "`model_parallel` splits weights there" if backend == "jax" else "jax splits them"
        raise ValueError(
            "Layers can be on devices of their own on the tensorflow backend only: "
            f"{_WHY[backend]}; {instead}. Received: the {backend} backend"
        )
    check_one_process()
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a `keras.Model`. Received: model={model!r}")
    if check_count("batch_size", batch_size) == 0:
        raise ValueError("`batch_size` must be an integer >= 1. Received: batch_size=0")
    named = isinstance(devices, Mapping)
    if named and balance is not None:
        raise ValueError(
            "`balance` shares the layers out by itself; pass a list of devices with it, or say "
            f"which layers go where without it. Received: balance={balance!r} and a dictionary"
        )
    if balance not in (None, *KINDS):
        kinds = ", ".join(map(repr, KINDS))
        raise ValueError(f"`balance` must be one of {kinds}. Received: balance={balance!r}")
    names = resolve_devices(list(devices) if named else devices, of_one_kind=False)

    from keras_optkit.distribution.layers_on_devices import LayersOnDevices, check_model
    from keras_optkit.distribution.placed_updates import slots_per_weight

    check_model(model)
    if not named:
        Graph(model)  # A subclassed model is told.
    units = model_units(model)
    if named:
        distribution = LayersOnDevices(
            model, names, _as_named(units, dict(zip(names, devices.values(), strict=True)))
        )
    else:
        kind = balance or "parameters"
        compiled = optimizers(model) if model.compiled else []
        slots = max(map(slots_per_weight, compiled), default=0)
        loads = layer_loads(model, units, kind, batch_size, slots, input_shapes)
        if len(units) < len(names):
            raise ValueError(
                f"The model '{model.name}' has {len(units)} layers, fewer than there are devices. "
                f"Received: devices={names}"
            )
        parts = contiguous_parts(loads, len(names))
        placement = {unit: names[part] for unit, part in zip(units, parts, strict=True)}
        distribution = LayersOnDevices(model, names, placement)
        distribution.loads = {name: 0 for name in names}
        for unit, load in zip(units, loads, strict=True):
            distribution.loads[placement[unit]] += load
    distribution.place()
    return distribution


_WHY = {
    "jax": "a step of jax is one program that all devices run alike",
    "torch": "on torch a process trains on one device",
}


def _as_named(
    units: Sequence[Unit], layers: Mapping[str, Sequence[str | keras.layers.Layer]]
) -> dict[Unit, str]:
    """Returns the device of each unit, as a user says."""
    given: dict[Unit, tuple[int, str]] = {}
    for device, group in layers.items():
        if isinstance(group, (str, keras.layers.Layer)) or not isinstance(group, Sequence):
            raise ValueError(
                "The layers of a device must be a list of layers or of their names. Received: "
                f"{group!r} for {device!r}"
            )
        for layer in group:
            found = _units_of(units, layer)
            for unit in found:
                # What is named by itself goes before the model that it is in.
                size, before = given.get(unit, (len(found) + 1, device))
                if size == len(found) and before != device:
                    raise ValueError(
                        f"A layer can be on one device only. Received: '{unit.path}' for "
                        f"{before!r} and for {device!r}"
                    )
                if size > len(found):
                    given[unit] = (len(found), device)
    left = [repr(unit.path) for unit in units if unit not in given and unit.weights]
    if left:
        raise ValueError(
            f"Every layer with weights needs a device. Received: none for {', '.join(left)}"
        )
    placement: dict[Unit, str] = {}
    for unit in units:
        near = [placement[each] for each in unit.follows if each in placement]
        near += [given[each][1] for each in units if unit in each.follows and each in given]
        if unit in given or near:
            placement[unit] = given[unit][1] if unit in given else near[0]
    return placement


def _units_of(units: Sequence[Unit], layer: Any) -> list[Unit]:
    """Returns the units that a layer, a nested model or the name of one stands for."""
    if isinstance(layer, str):
        found = [unit for unit in units if unit.path == layer]
        found = found or [unit for unit in units if unit.operation.name == layer]
        if len(found) > 1:
            paths = " or ".join(repr(unit.path) for unit in found)
            raise ValueError(f"Several layers have this name: {paths}. Received: {layer!r}")
        # A nested model is no unit itself; its name is in the paths of what it holds.
        found = found or [unit for unit in units if f"/{layer}/" in f"/{unit.path}"]
        if not found:
            known = {part for unit in units for part in (unit.path, *unit.path.split("/"))}
            raise ValueError(
                f"The model has no such layer. {did_you_mean(layer, sorted(known))} "
                f"Received: {layer!r}"
            )
        return found
    held = {id(layer)}
    if has_graph(layer):
        held = {id(unit.operation) for unit in model_units(layer)}
    found = [unit for unit in units if id(unit.operation) in held]
    if not found:
        raise ValueError(
            "A layer must be one that computes something in the model. What a subclassed model or "
            f"another layer in it holds goes as a whole. Received: {layer!r}"
        )
    return found
