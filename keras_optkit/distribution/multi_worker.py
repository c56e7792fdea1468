"""Several processes, on one machine or on several, each of which takes a part of every batch."""

import contextlib
import math
import numbers
import random
import sys
from collections.abc import Sequence

import keras

from keras_optkit.core.processes import Processes
from keras_optkit.distribution.data_parallel import data_parallel
from keras_optkit.distribution.distribution import Distribution
from keras_optkit.distribution.environment import Environment, read_environment
from keras_optkit.distribution.launch import announce
from keras_optkit.distribution.process_group import connect

# A process meets the others once.
_MET: dict[Environment, Processes] = {}


def multi_worker(
    devices: int | Sequence[str] | None = None,
    synchronize_batch_norm: bool = False,
    startup_timeout: float = 300.0,
) -> Distribution:
    """Returns a distribution that splits every batch over several processes.

    Every process runs the same script, with the same whole data and the batch size of all of them
    together, and takes its part of each batch. Loss, metrics and weights are those of one device
    that has the whole batch, up to rounding, in all of them. Files are written by the chief, which
    is process 0: on the others `model.save` and `model.save_weights` do nothing, and callbacks
    write nothing. When the chief's callbacks stop the training, it stops in all.

    Who takes part is said by the environment, as `python -m keras_optkit.distribution launch`,
    torchrun and `srun` set it: see `read_environment`. Without it, this is `data_parallel`. If the
    script sets no seed, the chief draws one for all.

    What shares the batch: `tf.distribute.MultiWorkerMirroredStrategy` on TensorFlow,
    `jax.distributed` with `keras.distribution` on JAX, `torch.distributed` on torch. It has to come
    before anything that runs on the backend.

    Args:
        devices: The devices of this process, as in `data_parallel`. `None` is all of the fastest
            kind; on torch, one.
        synchronize_batch_norm: Boolean, as in `data_parallel`, over all processes.
        startup_timeout: Float > 0, how many seconds to wait for the other processes.

    Returns:
        A `Distribution`.

    Raises:
        ValueError: If the environment is malformed, if the processes disagree on it, if a port is
            in use, or if a device cannot be used.
        TimeoutError: If a process does not come in time.

    Example:

    >>> distribution = multi_worker()
    >>> distribution.num_processes, distribution.process_index, distribution.is_chief
    (1, 0, True)
    """
    real = isinstance(startup_timeout, numbers.Real) and not isinstance(startup_timeout, bool)
    if not real or not 0 < startup_timeout < math.inf:
        raise ValueError(
            "`startup_timeout` must be a number of seconds > 0. "
            f"Received: startup_timeout={startup_timeout!r}"
        )
    environment = read_environment()
    if environment.count == 1:
        return data_parallel(devices, synchronize_batch_norm)
    backend = keras.backend.backend()
    group = _meet(environment, float(startup_timeout), backend)
    if backend == "tensorflow":
        from keras_optkit.distribution.multi_worker_mirrored import MultiWorkerMirrored

        return MultiWorkerMirrored(devices, synchronize_batch_norm, group)
    if backend == "jax":
        from keras_optkit.distribution.jax_processes import JaxProcesses

        return JaxProcesses(devices, group, float(startup_timeout))
    from keras_optkit.distribution.torch_processes import TorchProcesses

    return TorchProcesses(devices, synchronize_batch_norm, group)


def _meet(environment: Environment, timeout: float, backend: str) -> Processes:
    """Returns the line to the others, who all have come, with one seed in all."""
    if environment not in _MET:
        _check_untouched(backend)
        announce(environment.index)
        with _meeting_place(environment, timeout, backend) as place:
            group = connect(place, timeout, own_ports=backend == "tensorflow")
        _MET[environment] = group
        _share_seed(group)
    return _MET[environment]


def _meeting_place(
    environment: Environment, timeout: float, backend: str
) -> contextlib.AbstractContextManager[Environment]:
    """Returns the context in which the environment has an address that is free for the chief."""
    if backend == "torch":
        from keras_optkit.distribution.torch_agent import agent_listens, meeting_place

        if agent_listens():
            return meeting_place(environment, timeout)
    return contextlib.nullcontext(environment)


def _check_untouched(backend: str) -> None:
    """Raises, before others are kept waiting, if the backend has started alone already."""
    if backend == "tensorflow":
        context = sys.modules["tensorflow.python.eager.context"].context()
        started = getattr(context, "_context_handle", None) is not None
    elif backend == "jax":
        bridge = sys.modules.get("jax._src.xla_bridge")
        started = bool(getattr(bridge, "_backends", None))
    else:
        started = False
    if started:
        raise RuntimeError(
            "`multi_worker()` and `auto()` must come before anything that runs on the backend "
            "(data sets, models, `keras.ops`, lists of devices), as it starts alone otherwise. "
            f"Received: {backend}, which has started"
        )


def _share_seed(group: Processes) -> None:
    """Gives all processes one seed where the script has set none."""
    from keras.src.utils.rng_utils import get_random_seed

    unset = get_random_seed() is None
    seed = group.from_chief(lambda: str(random.getrandbits(32)).encode())
    if group.any(unset):
        keras.utils.set_random_seed(int(seed))
