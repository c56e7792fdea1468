"""Where processes meet that torchrun started, whose agent listens at the address itself."""

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator

from keras_optkit.distribution.environment import Environment
from keras_optkit.distribution.process_group import no_chief, split_address


def agent_listens() -> bool:
    """Returns whether a store of torchrun's agent listens at `MASTER_ADDR` and `MASTER_PORT`."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


@contextlib.contextmanager
def meeting_place(environment: Environment, timeout: float) -> Iterator[Environment]:
    """Yields the environment with an address at which the chief can listen.

    The chief chooses a free port of its machine, and the others read it from the agent's store. As
    the store outlives a restart of the processes, the address is forgotten when they have met.

    Args:
        environment: What the environment says of the processes; its address is the agent's.
        timeout: Float > 0, how many seconds to wait for the store, and for the chief's address.

    Raises:
        ValueError: If no store answers.
        TimeoutError: If the chief does not come in time.
    """
    import torch.distributed as dist

    host, port = split_address(environment.addresses[0])
    deadline = time.monotonic() + timeout
    limit = datetime.timedelta(seconds=timeout)
    try:
        store = dist.TCPStore(host, port, None, False, limit, wait_for_workers=False)
    except RuntimeError as error:
        raise ValueError(
            f"The agent of torchrun does not answer at {environment.addresses[0]}. Start all "
            "processes by torchrun, or unset `TORCHELASTIC_USE_AGENT_STORE`. Received: "
            f"{environment.source} with {environment.addresses[0]!r}"
        ) from error
    key = f"keras_optkit/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/chief"
    if environment.index == 0:
        address = _free_address(host, port)
        store.set(key, address)
    else:
        try:
            left = max(deadline - time.monotonic(), 0.001)
            store.wait([key], datetime.timedelta(seconds=left))
            address = store.get(key).decode()
        except RuntimeError as error:
            raise no_chief(environment, timeout) from error
    try:
        yield environment._replace(addresses=(address,))
    finally:
        if environment.index == 0:
            with contextlib.suppress(RuntimeError):
                store.delete_key(key)


def _free_address(host: str, port: int) -> str:
    """Returns an address of this machine that those who reach a host and port reach, too."""
    family, kind, _, _, agent = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as one:
        # Nothing is sent: this asks by which of its addresses the machine would send.
        one.connect(agent)
        own = one.getsockname()[0]
    if own.startswith("127.") or own == "::1":
        # The agent is here, and the others know it by this name.
        own = host
    with socket.socket(family) as one:
        one.bind(("", 0))
        free = one.getsockname()[1]
    return f"[{own}]:{free}" if ":" in own else f"{own}:{free}"
