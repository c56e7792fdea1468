"""The devices that the backend has, by one kind of name on every backend."""

import re
import sys
from collections.abc import Sequence

import keras

from keras_optkit.core.messages import did_you_mean

# "/job:localhost/replica:0/task:0/device:GPU:1", "/GPU:1", "gpu:1", "cuda:1", "gpu".
_NAME = re.compile(r"(?:.*/)?(?:device:)?([a-z]+)(?::(\d+))?", re.IGNORECASE)


def list_devices(kind: str | None = None) -> list[str]:
    """Returns the devices of one kind that the backend has.

    Args:
        kind: `"cpu"`, `"gpu"` or `"tpu"`. `None` stands for the fastest kind that is there, which
            is what a model trains on where nobody says anything.

    Returns:
        A list of strings such as `"cpu:0"`; empty where there is no such device.

    Example:

    >>> list_devices("cpu")[0]
    'cpu:0'
    """
    kinds = ["tpu", "gpu", "cpu"] if kind is None else [kind]
    for one in kinds:
        count = _count(one)
        if count:
            return [f"{one}:{i}" for i in range(count)]
    return []


def resolve_devices(devices: int | Sequence[str] | None, of_one_kind: bool = True) -> list[str]:
    """Returns the names of devices that a user asks for, all of them there.

    Args:
        devices: `None` for all devices of the fastest kind, the number of them, or their names.
        of_one_kind: Boolean, whether devices of several kinds are refused.

    Returns:
        A list of strings such as `"gpu:1"`.

    Raises:
        ValueError: If a device does not exist or is named twice, or they are of several kinds where
            they must not be.
    """
    if devices is None:
        return list_devices()
    if isinstance(devices, int) and not isinstance(devices, bool):
        there = list_devices()
        if not 1 <= devices <= len(there):
            raise ValueError(
                f"There are {len(there)} devices to train on: {', '.join(there)}.{_how_to_split()} "
                f"Received: devices={devices}"
            )
        return there[:devices]
    if isinstance(devices, (str, bool)) or not isinstance(devices, Sequence) or not devices:
        raise ValueError(
            "`devices` must be a number of devices, a list of names such as `['gpu:0', 'gpu:1']`, "
            f"or None for all. Received: devices={devices!r}"
        )
    names = [_existing(name, devices) for name in devices]
    if len(set(names)) < len(names):
        raise ValueError(f"A device can be used once only. Received: devices={list(devices)}")
    if of_one_kind and len({name.split(":")[0] for name in names}) > 1:
        raise ValueError(
            "All devices must be of one kind, as the slowest would set the pace. "
            f"Received: devices={list(devices)}"
        )
    return names


def split_cpu(count: int) -> None:
    """Makes one CPU look like several devices, to try a distribution where there is one only.

    The devices share the cores. This has to come before anything else that runs an operation.

    Args:
        count: Integer >= 1, how many devices there should be.

    Raises:
        ValueError: If `count` is out of its range.
        RuntimeError: If the backend has started already with another number, or cannot do this.

    Example:

    >>> split_cpu(len(list_devices("cpu")))
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"`count` must be an integer >= 1. Received: count={count!r}")
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration()] * count
        try:
            tf.config.set_logical_device_configuration(cpu, parts)
        except RuntimeError:
            pass
    elif backend == "jax":
        import jax

        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:
            pass
    if len(list_devices("cpu")) != count:
        raise RuntimeError(
            "`split_cpu` must be called before anything that runs on the backend, and works on "
            f"TensorFlow and JAX. Received: count={count} on {backend}, where there are "
            f"{len(list_devices('cpu'))} devices"
        )


def short_name(name: str) -> str:
    """Returns what this package calls a device that a backend names.

    Args:
        name: String, such as `"/job:localhost/replica:0/task:0/device:GPU:1"` or `"cuda"`.

    Example:

    >>> short_name("/device:GPU:1")
    'gpu:1'
    """
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    kind, number = match.groups() if match else (None, None)
    kind = "gpu" if kind and kind.lower() == "cuda" else (kind or "").lower()
    return f"{kind}:{number or 0}"


def _existing(name: str, devices: Sequence[str]) -> str:
    short = short_name(name)
    there = [each for one in ("tpu", "gpu", "cpu") for each in list_devices(one)]
    if short not in there:
        raise ValueError(
            f"There is no device {name!r}. {did_you_mean(short, there)}{_how_to_split()} "
            f"Received: devices={list(devices)}"
        )
    return short


def _how_to_split() -> str:
    if keras.backend.backend() == "torch" or list_devices("gpu"):
        return ""
    return " `split_cpu(n)` makes several of one CPU, to try things out."


def _count(kind: str) -> int:
    backend = keras.backend.backend()
    if backend == "tensorflow":
        tf = sys.modules["tensorflow"]
        # With other processes, theirs are in the list, too, by the names of their tasks.
        names = [device.name for device in tf.config.list_logical_devices(kind.upper())]
        return len({name.rpartition("/")[2] for name in names})
    if backend == "jax":
        import jax

        try:
            return len(jax.local_devices(backend=kind))
        except RuntimeError:
            return 0
    if kind == "gpu":
        return sys.modules["torch"].cuda.device_count()
    return int(kind == "cpu")
