"""Data parallelism over processes of torch, by `torch.distributed`."""

import contextlib
import os
import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import torch

from keras_optkit.distribution import preflight
from keras_optkit.distribution.devices import list_devices, resolve_devices
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.once_built import once_built
from keras_optkit.distribution.one_training import one_training
from keras_optkit.distribution.placed_model import placing
from keras_optkit.distribution.process_group import ProcessGroup
from keras_optkit.distribution.torch_exchange import TorchExchange
from keras_optkit.distribution.torch_parts import SharedSteps, optimizers_of


class TorchProcesses(Distribution):
    """Processes of torch, each of which computes its part of every batch on one device.

    Args:
        devices: List of one string such as `"gpu:0"`, or 1. `None` is the
            GPU of number `LOCAL_RANK`, or the CPU where there is no GPU.
        synchronize_batch_norm: Boolean, whether BatchNorm uses the statistics of all processes.
            Otherwise each normalizes its part by itself, and the moving statistics are the mean.
        group: The processes, which have met.

    Raises:
        ValueError: If there is no such device, or several are asked for.
        RuntimeError: If `torch.distributed` cannot start.
    """

    def __init__(
        self, devices: int | Sequence[str] | None, synchronize_batch_norm: bool, group: ProcessGroup
    ):
        super().__init__([_device(devices)], group)
        self.synchronize_batch_norm = bool(synchronize_batch_norm)
        self.exchange = TorchExchange(group, self.devices[0])
        self._alike: weakref.WeakSet[keras.Model] = weakref.WeakSet()
        self._running: weakref.WeakSet[keras.Model] = weakref.WeakSet()

    @property
    def engine(self) -> str:
        norm = "synchronized" if self.synchronize_batch_norm else "each process by itself"
        return f"torch.distributed, {self.exchange.backend}\nBatchNorm: {norm}"

    @contextlib.contextmanager
    def scope(self) -> Iterator["TorchProcesses"]:
        """Returns the context in which the model is built and compiled."""
        with placing(self):
            yield self

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares a model for a call of one of its methods, and puts it back afterwards."""
        if model in self._running:
            # `fit` calls `evaluate`.
            yield
            return
        if method in ("fit", "train_on_batch"):
            _check_settings(model)
            preflight.check_large_enough(preflight.batch_size(arguments), self.num_devices)
        _check_whole(arguments.get("x"))
        if method == "fit":
            self._alike.discard(model)
        steps = SharedSteps(model, self.exchange, self.synchronize_batch_norm)
        self._running.add(model)
        try:
            with (
                one_training(model, self.group, method, arguments),
                once_built(model, lambda: self._make_alike(model)),
                steps.installed(),
            ):
                yield
        finally:
            self._running.discard(model)

    def _make_alike(self, model: keras.Model) -> None:
        """Lets a model begin with what it has in the chief."""
        if model in self._alike:
            return
        optimizers = [v for optimizer in optimizers_of(model) for v in optimizer.variables]
        variables = list({id(v): v for v in (*model.variables, *optimizers)}.values())
        shapes = str([(tuple(v.shape), str(v.dtype)) for v in variables])
        told = self.exchange.tell([len(variables), zlib.crc32(shapes.encode())])
        if len({tuple(numbers) for numbers in told}) > 1:
            raise ValueError(
                "The processes built different models or optimizers. All must run the same script. "
                f"Received: {[count for count, _ in told]} variables in processes 0 to "
                f"{self.num_processes - 1}, of different shapes"
            )
        self.exchange.broadcast([v._value for v in variables])
        if variables:
            self._alike.add(model)


def _device(devices: int | Sequence[str] | None) -> str:
    """Returns the name of the one device that this process trains on."""
    if devices is None:
        there = list_devices()
        return there[int(os.environ.get("LOCAL_RANK", "0")) % len(there)]
    names = resolve_devices(devices)
    if len(names) > 1:
        raise ValueError(
            "On torch a process trains on one device; start one process for each of them. "
            f"Received: devices={devices!r}"
        )
    return names[0]


def _check_settings(model: keras.Model) -> None:
    if model.jit_compile:
        raise ValueError(
            "torch.compile cannot compile a step that several processes share; compile with "
            "`jit_compile='auto'` or False. Received: jit_compile=True"
        )


def _check_whole(x: Any) -> None:
    sampler = getattr(x, "sampler", None)
    if isinstance(sampler, torch.utils.data.DistributedSampler):
        raise ValueError(
            "The step splits each batch by itself; pass a DataLoader of the whole data without "
            "a DistributedSampler, with the batch size of all processes together. Received: "
            f"sampler={sampler!r}"
        )
