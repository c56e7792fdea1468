"""What the environment says of the processes that train together."""

import json
import os
import re
from typing import NamedTuple

import keras

_JAX = (
    (
        "KERAS_DISTRIBUTION_NUM_PROCESSES",
        "KERAS_DISTRIBUTION_PROCESS_ID",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES",
    ),
    ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "JAX_COORDINATOR_ADDRESS"),
)


class Environment(NamedTuple):
    """The processes that train together, as the environment tells of them.

    Attributes:
        count: Integer >= 1, how many there are.
        index: Integer, which of them this one is, counted from 0; 0 is the chief.
        source: String, who says so, such as `"TF_CONFIG"`.
        addresses: Tuple of strings `"host:port"`: those of all processes, in their order, or that
            of the chief only, or none where the backend finds out by itself.
    """

    count: int = 1
    index: int = 0
    source: str = "nothing"
    addresses: tuple[str, ...] = ()


def read_environment() -> Environment:
    """Returns what the environment says to the backend that is used.

    TensorFlow reads `TF_CONFIG`; JAX `KERAS_DISTRIBUTION_NUM_PROCESSES`, `_PROCESS_ID` and
    `_JOB_ADDRESSES`, or `JAX_NUM_PROCESSES`, `JAX_PROCESS_ID` and `JAX_COORDINATOR_ADDRESS`; torch
    `WORLD_SIZE`, `RANK`, `MASTER_ADDR` and `MASTER_PORT`, as torchrun sets them. Without them, a
    step of SLURM with several tasks (`srun`) counts on each of the three.

    Raises:
        ValueError: If it is malformed, or contradicts itself.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow" and "TF_CONFIG" in os.environ:
        return _tf_config(os.environ["TF_CONFIG"])
    if backend == "jax":
        for names in _JAX:
            if names[0] in os.environ:
                return _jax(*names)
    if backend == "torch" and "WORLD_SIZE" in os.environ:
        return _torch()
    if "SLURM_STEP_NUM_TASKS" in os.environ:
        return _slurm(backend)
    return Environment()


def _integer(name: str, least: int, below: int | None = None) -> int:
    value = os.environ.get(name)
    if value is None or not value.isascii() or not value.isdigit() or int(value) < least:
        received = "nothing" if value is None else f"{name}={value!r}"
        raise ValueError(f"`{name}` must be an integer >= {least}. Received: {received}")
    if below is not None and int(value) >= below:
        raise ValueError(
            f"`{name}` must be below the number of processes, which is {below}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def _addresses(name: str, text: str) -> tuple[str, ...]:
    found = tuple(part.strip() for part in text.split(","))
    for address in found:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ValueError(
                f"`{name}` must be addresses such as 'host:1234', with commas between them. "
                f"Received: {name}={text!r}"
            )
    return found


def _jax(count_name: str, index_name: str, address_name: str) -> Environment:
    count = _integer(count_name, 1)
    if count == 1:
        return Environment(source=count_name)
    index = _integer(index_name, 0, count)
    addresses = _addresses(address_name, os.environ.get(address_name, ""))
    if len(addresses) not in (1, count):
        raise ValueError(
            f"`{address_name}` has {len(addresses)} addresses, and `{count_name}` says that there "
            f"are {count} processes. Received: {address_name}={os.environ[address_name]!r}"
        )
    return Environment(count, index, count_name, addresses)


def _torch() -> Environment:
    count = _integer("WORLD_SIZE", 1)
    if count == 1:
        return Environment(source="WORLD_SIZE")
    index = _integer("RANK", 0, count)
    if not os.environ.get("MASTER_ADDR"):
        raise ValueError(
            "`MASTER_ADDR` must be the host of the process with `RANK` 0. Received: "
            f"MASTER_ADDR={os.environ.get('MASTER_ADDR')!r}"
        )
    address = f"{os.environ['MASTER_ADDR']}:{_integer('MASTER_PORT', 1)}"
    return Environment(count, index, "WORLD_SIZE", _addresses("MASTER_ADDR:MASTER_PORT", address))


def _slurm(backend: str) -> Environment:
    count = _integer("SLURM_STEP_NUM_TASKS", 1)
    if count == 1:
        return Environment(source="SLURM_STEP_NUM_TASKS")
    index = _integer("SLURM_PROCID", 0, count)
    # A port that the other jobs on a machine do not have.
    port = 61440 + _integer("SLURM_JOB_ID", 0) % 4096
    hosts = _slurm_hosts(os.environ.get("SLURM_STEP_NODELIST", ""))
    if backend != "tensorflow":
        return Environment(count, index, "SLURM_STEP_NUM_TASKS", (f"{hosts[0]}:{port}",))
    tasks = _slurm_tasks(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if len(tasks) != len(hosts) or sum(tasks) != count:
        raise ValueError(
            f"The tasks on each node must add up to `SLURM_STEP_NUM_TASKS`, which is {count}. "
            f"Received: SLURM_STEP_TASKS_PER_NODE={os.environ.get('SLURM_STEP_TASKS_PER_NODE')!r}"
        )
    addresses = [f"{h}:{port + i}" for h, n in zip(hosts, tasks, strict=True) for i in range(n)]
    return Environment(count, index, "SLURM_STEP_NUM_TASKS", tuple(addresses))


def _slurm_hosts(text: str) -> list[str]:
    """Returns the hosts of a list such as `"gpu[01-03,7],login"`."""
    hosts = []
    parts = re.findall(r"([^,\[\]]+)(?:\[([\d,-]+)\])?([^,\[\]]*)(?:,|$)", text)
    for prefix, ranges, suffix in parts:
        for each in ranges.split(",") if ranges else [None]:
            if each is None:
                hosts.append(prefix)
                continue
            first, _, last = each.partition("-")
            for number in range(int(first), int(last or first) + 1):
                hosts.append(f"{prefix}{number:0{len(first)}}{suffix}")
    if not hosts:
        raise ValueError(
            "`SLURM_STEP_NODELIST` must name the nodes, such as 'gpu[01-03]'. Received: "
            f"SLURM_STEP_NODELIST={text!r}"
        )
    return hosts


def _slurm_tasks(text: str) -> list[int]:
    """Returns the numbers of a text such as `"2(x3),1"`, which is 2, 2, 2 and 1."""
    found = re.findall(r"(\d+)(?:\(x(\d+)\))?(?:,|$)", text)
    return [int(tasks) for tasks, times in found for _ in range(int(times or 1))]


def _tf_config(text: str) -> Environment:
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        if any(isinstance(addresses, str) for addresses in cluster.values()):
            raise TypeError("an address where a list of addresses is expected")
        if not cluster:
            return Environment(source="TF_CONFIG")
        job, index = config["task"]["type"], config["task"]["index"]
        count = len(cluster[job])
        if not 0 <= index < count:
            raise IndexError(f"task {index} of {count} in '{job}'")
        all_addresses = [address for addresses in cluster.values() for address in addresses]
        for address in all_addresses:
            _addresses("TF_CONFIG", address)
        if len(set(all_addresses)) < len(all_addresses):
            raise LookupError("an address is there twice")
        if job not in ("chief", "worker") or set(cluster) - {"chief", "worker"}:
            other = next(name for name in [job, *cluster] if name not in ("chief", "worker"))
            raise LookupError(f"a '{other}', where only a 'chief' and 'worker's train together")
        if len(cluster.get("chief", [])) > 1:
            raise LookupError("several chiefs")
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            '`TF_CONFIG` must be JSON such as {"cluster": {"worker": ["host:port", ...]}, "task": '
            f'{{"type": "worker", "index": 0}}}} ({reason}). Correct it, or unset it to train in '
            "one process. "
            f"Received: TF_CONFIG={text!r}"
        ) from error
    addresses = tuple([*cluster.get("chief", []), *cluster.get("worker", [])])
    before = len(cluster.get("chief", [])) if job == "worker" else 0
    return Environment(len(addresses), before + index, "TF_CONFIG", addresses)


def check_one_process() -> None:
    """Raises if the environment says that several processes train together.

    Raises:
        ValueError: If it does, or is malformed.
    """
    environment = read_environment()
    if environment.count > 1:
        raise ValueError(
            f"The environment says that {environment.count} processes train together, and this "
            "trains on the devices of one: each would train a model of its own. Use "
            f"`multi_worker()`, or unset {environment.source} to do just that. Received: "
            f"{environment.count} processes by {environment.source}"
        )
