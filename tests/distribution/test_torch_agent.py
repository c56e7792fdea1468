"""The address at which those whom torchrun started meet; a launch by it is in conftest.py."""

import concurrent.futures
import contextlib
import socket

import pytest

from keras_optkit.distribution.environment import Environment
from keras_optkit.distribution.multi_worker import _meeting_place
from keras_optkit.distribution.process_group import connect

pytestmark = pytest.mark.backends("torch")


@pytest.fixture
def store(monkeypatch):
    """What torchrun's agent has."""
    import torch.distributed as dist

    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    return dist.TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)


def environments(port):
    return [Environment(2, index, "WORLD_SIZE", (f"127.0.0.1:{port}",)) for index in range(2)]


def meet(environment):
    with _meeting_place(environment, 20, "torch") as place:
        return connect(place, 20)


def test_they_meet_elsewhere_and_again_after_a_restart(store):
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            other, chief = pool.map(meet, reversed(environments(store.port)))
        with contextlib.ExitStack() as stack:
            for line in (*other._lines.values(), *chief._lines.values()):
                stack.enter_context(line)
            assert other.environment.addresses == chief.environment.addresses
            assert other.environment.addresses[0] != f"127.0.0.1:{store.port}"
        # Else, those who start again read the address of the chief that has gone.
        assert not store.check(["keras_optkit/0/chief"])


def test_a_chief_that_never_comes(store):
    told = "1 of 2 processes did not come within 0.3 s: number 0 .*Received: startup_timeout=0.3$"
    with pytest.raises(TimeoutError, match=told):
        _meeting_place(environments(store.port)[1], 0.3, "torch").__enter__()


def test_an_agent_that_is_not_there(store):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    told = f"The agent of torchrun does not answer at 127.0.0.1:{port}. .*Received: WORLD_SIZE with"
    with pytest.raises(ValueError, match=told):
        _meeting_place(environments(port)[0], 0.3, "torch").__enter__()


def test_no_agent(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    environment = environments(1)[0]
    with _meeting_place(environment, 1, "torch") as place:
        assert place is environment
