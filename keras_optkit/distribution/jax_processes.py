"""Data parallelism over processes of JAX, by `jax.distributed` and `keras.distribution`."""

import contextlib
import functools
import json
import math
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import keras
import numpy as np

from keras_optkit.distribution.devices import resolve_devices
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.launch import _free_ports
from keras_optkit.distribution.once_built import once_built
from keras_optkit.distribution.one_training import one_training
from keras_optkit.distribution.process_group import PATIENCE, ProcessGroup
from keras_optkit.distribution.replaced import replaced
from keras_optkit.distribution.sharded import Sharded


class JaxProcesses(Sharded):
    """Processes of JAX whose devices share every batch.

    Args:
        devices: The number of devices of this process, their names, or `None` for all of the
            fastest kind. Every process has equally many.
        group: The processes, which have met.
        timeout: Float > 0, how many seconds JAX may take to start.

    Raises:
        ValueError: If there is no such device, or the processes have different numbers of them.
        RuntimeError: If JAX cannot start.
    """

    def __init__(self, devices: int | Sequence[str] | None, group: ProcessGroup, timeout: float):
        _start(group, timeout)
        names = resolve_devices(devices)
        Distribution.__init__(self, names, group)
        self.distribution = keras.distribution.DataParallel(
            devices=_devices_of_all(names, group), auto_shard_dataset=False
        )
        self._running: set[int] = set()
        self._alike: weakref.WeakSet[keras.Model] = weakref.WeakSet()

    @property
    def engine(self) -> str:
        return f"jax.distributed, {super().engine}"

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares a model for a call of one of its methods, and puts it back afterwards."""
        if id(model) in self._running:
            # `fit` calls `evaluate`.
            yield
            return
        from keras.src.backend.jax import distribution_lib

        step = functools.partial(self._predict_step, model.predict_step)
        put = functools.partial(self._put, distribution_lib.distribute_tensor)
        self._running.add(id(model))
        if method == "fit":
            self._alike.discard(model)
        try:
            with (
                self._told(),
                super().running(model, method, arguments),
                one_training(model, self.group, method, arguments),
                once_built(model, lambda: self._make_alike(model)),
                replaced(model, predict_step=step),
                replaced(distribution_lib, distribute_tensor=put),
            ):
                yield
        finally:
            self._running.discard(id(model))

    def _make_alike(self, model: keras.Model) -> None:
        """Lets a model begin with what it has in the chief.

        Elsewhere it is other where a process drew random numbers of its own, or loaded weights;
        JAX takes what each process has for one array.
        """
        if model in self._alike:
            return
        optimizer = getattr(model, "optimizer", None)
        variables = list(model.variables) + list(optimizer.variables if optimizer else [])
        own = [np.asarray(v.value.addressable_data(0)) for v in variables]
        sums = [[str(v.dtype), v.shape, zlib.crc32(v.tobytes())] for v in own]
        every = self.group.gather(json.dumps(sums).encode())
        differ = self.group.from_chief(lambda: _differing(every))
        for i in json.loads(differ):
            content = self.group.from_chief(own[i].tobytes)
            if not self.is_chief:
                value = np.frombuffer(content, own[i].dtype).reshape(own[i].shape)
                variables[i].assign(value)
        if variables:
            self._alike.add(model)

    def place(self, batch: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        """Returns a batch, which every process has, on the devices of all of them."""
        batch = np.asarray(batch)
        return jax.make_array_from_callback(batch.shape, sharding, batch.__getitem__)

    def _put(self, own: Callable, tensor: Any, layout: Any) -> Any:
        """Stands in for Keras', by which JAX asks the others whether they put the same.

        What the chief does alone, such as saving, makes variables that the others do not.
        """
        local = isinstance(tensor, jax.Array) and not isinstance(tensor, jax.core.Tracer)
        if isinstance(tensor, np.ndarray) or (local and len(tensor.sharding.device_set) == 1):
            return self.place(tensor, getattr(layout, "backend_layout", layout))
        return own(tensor, layout)

    def _predict_step(self, own: Callable, *args) -> Any:
        """Stands in for a step whose outputs every process gets whole."""
        outputs, state = own(*args)
        whole = jax.sharding.NamedSharding(
            self.distribution.device_mesh.backend_mesh, jax.sharding.PartitionSpec()
        )
        return jax.lax.with_sharding_constraint(outputs, whole), state

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            gone = self.group.gone(PATIENCE)
            if gone:
                raise self.group.told_that_gone(gone[0]) from error
            raise


def _differing(every: list[bytes]) -> bytes:
    """Returns the places of the variables that the processes do not have alike.

    Args:
        every: The types, shapes and checksums of all variables, in each process.

    Raises:
        ValueError: If their types or shapes differ.
    """
    every = [json.loads(own) for own in every]
    kinds = [[variable[:2] for variable in own] for own in every]
    if any(each != kinds[0] for each in kinds):
        raise ValueError(
            "The processes built different models or optimizers. All must run the same script. "
            f"Received: {[len(own) for own in every]} variables in processes 0 to "
            f"{len(every) - 1}, of different shapes"
        )
    places = range(len(every[0]))
    return json.dumps([i for i in places if any(own[i] != every[0][i] for own in every)]).encode()


def _start(group: ProcessGroup, timeout: float) -> None:
    """Starts JAX in all processes, at a free port of the chief's machine."""
    if jax.distributed.is_initialized():
        return
    host = group.environment.addresses[0].rpartition(":")[0]
    port = group.from_chief(lambda: str(_free_ports(1)[0]).encode()).decode()
    start = functools.partial(jax.distributed.initialize, initialization_timeout=math.ceil(timeout))
    with replaced(jax.distributed, initialize=start):
        keras.distribution.initialize(f"{host}:{port}", group.count, group.index)


def _devices_of_all(names: Sequence[str], group: ProcessGroup) -> list[str]:
    """Returns the names that Keras has for the devices of all processes, in their order."""
    kind = names[0].partition(":")[0]
    there = jax.local_devices(backend=kind)
    own = [f"{kind}:{there[int(name.partition(':')[2])].id}" for name in names]
    parts = group.gather(json.dumps(own).encode())
    found = group.from_chief(lambda: json.dumps([json.loads(part) for part in parts]).encode())
    found = json.loads(found)
    if len({len(each) for each in found}) > 1:
        raise ValueError(
            "Every process must have equally many devices. Received: "
            f"{[len(each) for each in found]} devices in processes 0 to {group.count - 1}"
        )
    return [name for each in found for name in each]
