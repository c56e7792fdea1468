"""What the environment says of the processes that train together."""

import json
import os

import keras


def processes() -> tuple[int, str]:
    """Returns how many processes train together as the environment tells it, and who tells it.

    Raises:
        ValueError: If `TF_CONFIG` cannot be read.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow" and "TF_CONFIG" in os.environ:
        return _tf_config_workers(os.environ["TF_CONFIG"]), "TF_CONFIG"
    names = {
        "jax": ("KERAS_DISTRIBUTION_NUM_PROCESSES", "JAX_NUM_PROCESSES"),
        "torch": ("WORLD_SIZE",),
    }.get(backend, ())
    for name in (*names, "SLURM_STEP_NUM_TASKS"):
        if name in os.environ:
            value = os.environ[name]
            if not value.isdigit() or int(value) < 1:
                raise ValueError(f"`{name}` must be an integer >= 1. Received: {name}={value!r}")
            return int(value), name
    return 1, "nothing"


def _tf_config_workers(text: str) -> int:
    try:
        config = json.loads(text)
        cluster = config.get("cluster", {})
        jobs = {job: len(addresses) for job, addresses in cluster.items()}
        if any(isinstance(addresses, str) for addresses in cluster.values()):
            raise TypeError("an address where a list of addresses is expected")
        if jobs:
            job, index = config["task"]["type"], config["task"]["index"]
            if not 0 <= index < jobs[job]:
                raise IndexError(f"task {index} of {jobs[job]} in '{job}'")
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            '`TF_CONFIG` must be JSON such as {"cluster": {"worker": ["host:port", ...]}, "task": '
            f'{{"type": "worker", "index": 0}}}} ({reason}). Correct it, or unset it to train in '
            "one process. "
            f"Received: TF_CONFIG={text!r}"
        ) from error
    return max(1, jobs.get("worker", 0) + jobs.get("chief", 0))


def check_one_process() -> None:
    """Raises if the environment says that several processes train together.

    Raises:
        ValueError: If it does, or is malformed.
    """
    count, who = processes()
    if count > 1:
        raise ValueError(
            f"The environment says that {count} processes train together, and this trains on the "
            f"devices of one: each would train a model of its own. Unset {who} to do just that. "
            f"Received: {count} processes by {who}"
        )
