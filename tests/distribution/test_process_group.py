"""How processes meet; here they are threads, as the line between them knows no difference."""

import concurrent.futures
import random
import socket
import threading

import keras
import pytest

from keras_optkit.distribution import multi_worker
from keras_optkit.distribution.environment import Environment
from keras_optkit.distribution.process_group import connect


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def group_of(count, addresses=None):
    addresses = addresses or tuple(f"127.0.0.1:{free_port()}" for _ in range(count))
    return [Environment(count, index, "TF_CONFIG", addresses) for index in range(count)]


def meet(environments, timeout=20, **kwargs):
    """Returns what each of them got: its line to the others, or the error."""
    with concurrent.futures.ThreadPoolExecutor(len(environments)) as pool:
        calls = [pool.submit(connect, each, timeout, **kwargs) for each in environments]
        return [call.exception() or call.result() for call in calls]


def at_once(groups, call):
    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(call, groups))


def close(groups):
    for group in groups:
        for line in group._lines.values():
            line.close()


def test_three_tell_each_other_what_they_know():
    groups = meet(group_of(3), own_ports=True)
    assert [group.is_chief for group in groups] == [True, False, False]
    big = random.Random(0).randbytes(3_000_000)
    assert at_once(groups, lambda g: g.from_chief(lambda: big)) == [big] * 3
    gathered = at_once(groups, lambda g: g.gather(str(g.index).encode()))
    assert gathered == [[b"0", b"1", b"2"], None, None]
    assert at_once(groups, lambda g: g.any(g.index == 2)) == [True] * 3
    assert at_once(groups, lambda g: g.any(False)) == [False] * 3
    assert [group.gone() for group in groups] == [[], [], []]
    close(groups)


def test_the_chief_is_last_to_come_and_its_port_is_free_afterwards():
    environments = group_of(2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        other = pool.submit(connect, environments[1], 20)
        threading.Event().wait(0.3)
        groups = [connect(environments[0], 20), other.result()]
    host, port = environments[0].addresses[0].split(":")
    socket.create_server((host, int(port))).close()
    close(groups)


def test_strangers_are_not_let_in():
    environments = group_of(2)
    host, port = environments[0].addresses[0].split(":")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        chief = pool.submit(connect, environments[0], 20)
        for content in (b"GET / HTTP/1.1\r\n\r\n" + b"x" * 50, b""):
            while True:
                try:
                    with socket.create_connection((host, int(port))) as stranger:
                        stranger.sendall(content)
                    break
                except ConnectionRefusedError:
                    threading.Event().wait(0.05)
        groups = [connect(environments[1], 20), chief.result()]
    assert at_once(groups, lambda g: g.any(True)) == [True, True]
    close(groups)


def test_what_the_chief_raises_is_raised_in_all():
    groups = meet(group_of(2))

    def call(group):
        def make():
            raise ZeroDivisionError("no")

        try:
            return group.from_chief(make)
        except Exception as error:
            return error

    first, second = at_once(groups, call)
    assert isinstance(first, ZeroDivisionError)
    assert str(second) == "The chief could not go on. ZeroDivisionError: no"
    close(groups)


def test_one_that_has_gone_is_told():
    groups = meet(group_of(2))
    close(groups[1:])
    assert groups[0].gone() == [1]
    with pytest.raises(RuntimeError, match="Process 1 of 2 has ended .*`Resume`.* in process 0"):
        groups[0].gather(b"")
    close(groups)


def test_the_line_of_one_that_ends_may_be_cut_last():
    groups = meet(group_of(2))
    assert groups[0].gone(0.1) == []
    threading.Timer(0.3, close, [groups[1:]]).start()
    assert groups[0].gone(20) == [1]
    close(groups)


def test_processes_that_do_not_make_the_same_calls():
    groups = meet(group_of(2))

    def call(group):
        try:
            return group.from_chief(lambda: b"") if group.is_chief else group.gather(b"")
        except RuntimeError as error:
            return error

    assert at_once(groups, call) == [b"", None]
    with pytest.raises(RuntimeError, match="The processes have parted.*Received: .* in process 0"):
        groups[0].gather(b"")
    close(groups)


@pytest.mark.parametrize("absent", [0, 1])
def test_one_that_never_comes(absent):
    environments = group_of(2)
    (error,) = meet([environments[1 - absent]], timeout=0.3)
    assert isinstance(error, TimeoutError)
    address = environments[0].addresses[absent]
    told = f"1 of 2 processes did not come within 0.3 s: number {absent} ({address}). "
    assert str(error).startswith(told)
    assert str(error).endswith("Received: startup_timeout=0.3")
    assert "\n" not in str(error)


def test_the_others_are_told_who_is_missing():
    errors = meet(group_of(3)[:2], timeout=0.5)
    assert [type(error) for error in errors] == [TimeoutError] * 2
    assert len({str(error) for error in errors}) == 1
    assert "number 2 (" in str(errors[0])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"count": 3}, "disagree on their number: the chief's TF_CONFIG says 2, .*Received: 3"),
        ({"addresses": ("", "b:1")}, "disagree on their addresses: .* Received: .*process 1"),
    ],
)
def test_processes_that_disagree(change, message):
    first, second = group_of(2)
    second = second._replace(**change)
    if "addresses" in change:
        second = second._replace(addresses=(first.addresses[0], *change["addresses"][1:]))
    for error in meet([first, second]):
        assert isinstance(error, ValueError)
        assert "\n" not in str(error)
        with pytest.raises(ValueError, match=message):
            raise error


def test_two_of_one_number():
    first, second, _ = group_of(3)
    errors = meet([first, second, second])
    assert any("Two processes say that they are number 1" in str(error) for error in errors)
    assert all(isinstance(error, ValueError) for error in errors)


def test_a_port_in_use_is_told_in_all():
    environments = group_of(2)
    port = int(environments[1].addresses[1].split(":")[1])
    with socket.create_server(("127.0.0.1", port)):
        errors = meet(environments, own_ports=True)
    for error in errors:
        told = f"Process 1 cannot listen at 127.0.0.1:{port} (Address already in use). Choose"
        assert isinstance(error, ValueError)
        assert str(error).startswith(told)


@pytest.mark.parametrize("bad", [0, -1, True, "5", float("nan"), None])
def test_bad_startup_timeout(bad):
    with pytest.raises(ValueError, match="`startup_timeout` must be .* Received: startup_timeout="):
        multi_worker(startup_timeout=bad)


def test_alone_it_is_one_process():
    distribution = multi_worker(1)
    assert (distribution.num_processes, distribution.process_index) == (1, 0)
    assert distribution.is_chief
    assert distribution.describe().startswith("1 device: ")


@pytest.mark.backends("tensorflow", "jax")
def test_a_backend_that_has_started_alone(monkeypatch):
    keras.ops.zeros(1)
    for name, value in {
        "TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}, '
        '"task": {"type": "worker", "index": 0}}',
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        "KERAS_DISTRIBUTION_PROCESS_ID": "0",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="must come before anything.* which has started"):
        multi_worker()
