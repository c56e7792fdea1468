"""Layers of a model on devices of TensorFlow."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optkit.distribution.devices import list_devices, short_name
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.memory import memory_per_device
from keras_optkit.distribution.model_units import Unit
from keras_optkit.distribution.moved_variables import move
from keras_optkit.distribution.placed_calls import follow, placed_calls
from keras_optkit.distribution.placed_model import attach, detach
from keras_optkit.distribution.placed_updates import placed_updates, slots
from keras_optkit.distribution.preflight import optimizers
from keras_optkit.distribution.replaced import replaced


class LayersOnDevices(Distribution):
    """A model whose layers are called on devices of their own. `place_layers` makes it.

    Args:
        model: The model.
        devices: List of strings such as `"gpu:0"`, which exist.
        placement: The device of each unit of the model; of none where TensorFlow shall choose.
    """

    engine = "layers on devices of tensorflow, one after the other"

    def __init__(self, model: keras.Model, devices: Sequence[str], placement: Mapping[Unit, str]):
        super().__init__(devices)
        self.model = model
        self.loads: dict[str, int] | None = None
        self._placement = dict(placement)
        self._settled: set[int] = set()
        self._depth = 0

    @property
    def placement(self) -> dict[str, str]:
        """The device of each layer, by its name, which has that of nested models in front."""
        return {unit.path: device for unit, device in self._placement.items()}

    @property
    def num_devices(self) -> int:
        """How many devices share a batch: each batch goes through all of them, as on one."""
        return 1

    def describe(self) -> str:
        """Returns a few lines on the devices, what is on each, and how large it is."""
        memory = memory_per_device(self.model)
        lines = [
            f"{len(self.devices)} device{'s' * (len(self.devices) > 1)}: {', '.join(self.devices)}",
            f"Engine: {self.engine}",
        ]
        for device in sorted({*self.devices, *memory}, key=[*self.devices, *memory].index):
            held = memory.get(device, {"weights": 0, "optimizer": 0})
            names = [path for path, where in self.placement.items() if where == device]
            load = (
                f" ({self.loads[device]:,} by the balance)" if device in (self.loads or ()) else ""
            )
            lines.append(
                f"{device}: {held['weights']:,} bytes of weights, {held['optimizer']:,} of the "
                f"optimizer's state{load}: {', '.join(names) or 'no layer'}"
            )
        return "\n".join(lines)

    def place(self) -> None:
        """Moves the weights, and lets the model train on the devices.

        On the one device that is the default, nothing is left to do: the model is as any other.
        """
        move(
            [
                (variable, _full_name(device))
                for unit, device in self._placement.items()
                for variable in unit.variables
            ]
        )
        self._move_slots()
        # What was traced before knows the weights where they were.
        self.model.train_function = self.model.test_function = self.model.predict_function = None
        detach(self.model)
        if self.devices != list_devices()[:1]:
            attach(self.model, self)

    @contextlib.contextmanager
    def scope(self) -> Iterator["LayersOnDevices"]:
        """Returns the context in which the layers are called on their devices, by whomever.

        `fit`, `evaluate` and `predict` need no scope.
        """
        with self._open():
            yield self

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares the model for a call of one of its methods, and puts it back afterwards."""
        check_model(model)
        with self._open():
            yield

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        self._depth += 1
        try:
            if self._depth > 1:
                # `fit` calls `evaluate`.
                yield
                return
            self._move_slots()
            with contextlib.ExitStack() as stack:
                stack.enter_context(placed_calls(self._operations(), _full_name))
                for optimizer in _optimizers(self.model):
                    stack.enter_context(placed_updates(optimizer))
                steps = {name: _Step(getattr(self.model, name)) for name in _STEPS}
                stack.enter_context(replaced(self.model, **steps))
                if self.model.compiled and self.model.jit_compile:
                    # Keras chose it by itself; `check_model` has looked.
                    stack.enter_context(replaced(self.model, _jit_compile=False))
                yield
        finally:
            self._depth -= 1

    def _operations(self) -> dict[keras.Operation, str]:
        return {unit.operation: device for unit, device in self._placement.items()}

    def _move_slots(self) -> None:
        """Moves what an optimizer keeps for weights to the weights' devices."""
        for optimizer in _optimizers(self.model):
            variables = optimizer.variables if optimizer.built else []
            if not all(id(variable) in self._settled for variable in variables):
                pairs = slots(optimizer)
                move([(slot, _full_name(short_name(of.value.device))) for slot, of in pairs])
                self._settled.update(map(id, variables))


_STEPS = ("train_step", "test_step", "predict_step")


class _Step:
    """A step of the model in which what nobody places stays where its inputs are."""

    def __init__(self, own: Callable):
        self._own = own
        self.__name__ = own.__name__

    def __call__(self, *args, **kwargs) -> Any:
        if tf.executing_eagerly():
            return self._own(*args, **kwargs)
        with tf.compat.v1.get_default_graph().device(follow):
            return self._own(*args, **kwargs)


def check_model(model: keras.Model) -> None:
    """Raises where the layers of a model cannot be on devices of their own.

    Args:
        model: The model, compiled or not.

    Raises:
        ValueError: If it is not built, quantized, on a strategy, or compiled for XLA by hand.
    """
    for layer in [model, *model._flatten_layers()]:
        if not layer.built:
            raise ValueError(
                "A layer must have its weights before it is put on a device; let the model begin "
                "with `keras.Input(shape)`, or call it on a batch first. Received: "
                f"model='{model.name}' whose '{layer.name}' is not built"
            )
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                "A quantized layer cannot be put on a device of its own; `place_layers` comes "
                f"before `quantize`. Received: model='{model.name}' whose '{layer.name}' is "
                "quantized"
            )
    strategy = model._distribute_strategy
    if strategy is not None or tf.distribute.has_strategy():
        raise ValueError(
            "Layers on devices of their own and a `tf.distribute` strategy cannot be combined; "
            "build the model outside of `strategy.scope()` and of `data_parallel(...).scope()`. "
            f"Received: {strategy or tf.distribute.get_strategy()!r}"
        )
    if model.compiled and model.jit_compile and not model._resolve_auto_jit_compile():
        raise ValueError(
            "XLA compiles a step for one device; compile with `jit_compile='auto'` or False. "
            "Received: jit_compile=True"
        )


def _optimizers(model: keras.Model) -> list[keras.optimizers.Optimizer]:
    return optimizers(model) if model.compiled else []


def _full_name(device: str) -> str:
    return f"/device:{device.upper()}"
