"""Data parallelism over processes on TensorFlow, by `tf.distribute.MultiWorkerMirroredStrategy`."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_optkit.distribution.devices import list_devices, resolve_devices
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.environment import Environment
from keras_optkit.distribution.mirrored import Mirrored
from keras_optkit.distribution.one_training import one_training
from keras_optkit.distribution.process_group import PATIENCE, ProcessGroup
from keras_optkit.distribution.replaced import replaced

# TensorFlow starts its server once in a process.
_STRATEGIES: dict[Environment, tf.distribute.Strategy] = {}


class MultiWorkerMirrored(Mirrored):
    """Copies of a model in several processes of TensorFlow, which are updated alike.

    Args:
        devices: `None`, or the number or the names of all devices of the fastest kind that this
            process sees.
        synchronize_batch_norm: Boolean, whether BatchNorm uses the statistics of all devices.
        group: The processes, which have met.

    Raises:
        ValueError: If other devices are asked for, or the processes have different numbers of them.
        RuntimeError: If another `tf.distribute` strategy is in scope.
    """

    _step_by_step = True

    def __init__(
        self,
        devices: int | Sequence[str] | None,
        synchronize_batch_norm: bool,
        group: ProcessGroup,
    ):
        self.synchronize_batch_norm = bool(synchronize_batch_norm)
        self.strategy = _strategy(group)
        names = resolve_devices(devices)
        if names != list_devices():
            raise ValueError(
                "`MultiWorkerMirroredStrategy` uses all devices that a process sees; choose them "
                f"by CUDA_VISIBLE_DEVICES, which is -1 for the CPU. Received: devices={devices!r}, "
                f"where there are {list_devices()}"
            )
        # Of the parts of a CPU that was split, it uses the first.
        Distribution.__init__(self, names[: len(self.strategy.extended.worker_devices)], group)
        if self.strategy.num_replicas_in_sync != self.num_devices:
            raise ValueError(
                "Every process must have as many devices as the others. Received: "
                f"{len(self.devices)} in process {group.index}, and "
                f"{self.strategy.num_replicas_in_sync} in all {group.count}"
            )

    @property
    def engine(self) -> str:
        return super().engine.replace("MirroredStrategy", "MultiWorkerMirroredStrategy")

    @contextlib.contextmanager
    def running(self, model: keras.Model, method: str, arguments: dict[str, Any]) -> Iterator[None]:
        """Prepares a model for a call of one of its methods, and puts it back afterwards."""
        trainer = sys.modules["keras.src.backend.tensorflow.trainer"]
        with (
            _told_who_has_gone(self.group),
            one_training(model, self.group, method, arguments),
            replaced(trainer, reduce_per_replica=_reduce_per_replica),
            super().running(model, method, arguments),
        ):
            yield


def _strategy(group: ProcessGroup) -> tf.distribute.Strategy:
    environment = group.environment
    if environment not in _STRATEGIES:
        before = os.environ.get("TF_CONFIG")
        task = {"type": "worker", "index": group.index}
        config = {"cluster": {"worker": list(environment.addresses)}, "task": task}
        # The names of jobs that it knows, whoever spoke of the processes. It reads nothing else.
        os.environ["TF_CONFIG"] = json.dumps(config)
        try:
            _STRATEGIES[environment] = tf.distribute.MultiWorkerMirroredStrategy()
        finally:
            if before is None:
                del os.environ["TF_CONFIG"]
            else:
                os.environ["TF_CONFIG"] = before
    return _STRATEGIES[environment]


@contextlib.contextmanager
def _told_who_has_gone(group: ProcessGroup) -> Iterator[None]:
    """Says in one line which process is missing, where TensorFlow says it in many."""
    try:
        yield
    except tf.errors.OpError:
        gone = group.gone(PATIENCE)
        if not gone:
            raise
        raise group.told_that_gone(gone[0]) from None


def _reduce_per_replica(values: Any, strategy: tf.distribute.Strategy, reduction: str) -> Any:
    """Stands in for Keras', which takes the mean along an axis that a number does not have.

    It is the mean over the replicas, with all values in one exchange.
    """
    if reduction == "concat":
        return keras.tree.map_structure(lambda value: strategy.gather(value, axis=0), values)
    flat = keras.tree.flatten(values)
    together = strategy.run(lambda *parts: tf.stack([tf.cast(p, "float32") for p in parts]), flat)
    means = tf.unstack(strategy.reduce("MEAN", together, axis=None), len(flat))
    return keras.tree.pack_sequence_as(values, means)
