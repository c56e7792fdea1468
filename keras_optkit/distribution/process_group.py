"""A line between the processes that train together, over which they meet and tell what they know.

The engines start theirs only when all are there, wait for ever for one that never comes, and carry
tensors. This one is made before them: it says in one line who is missing or disagrees, and carries
what is no tensor, such as the state of a training, or that it is time to stop.
"""

import contextlib
import errno
import json
import os
import socket
import struct
import time
from collections.abc import Callable

from keras_optkit.core.processes import Processes
from keras_optkit.distribution.environment import Environment

_HELLO = b"keras_optkit.distribution 1\n"
# The kind of a message, its number, and its length.
_HEAD = struct.Struct("<cQQ")
_VALUE, _ERROR, _OWN = b"v", b"e", b"o"
_MOST_OF_A_HELLO = 1 << 20
# Seconds to wait, once the engine has failed, for the news that a process has ended.
PATIENCE = 3.0


class ProcessGroup(Processes):
    """Several processes, each with a line to the chief. `connect` makes it.

    Args:
        environment: What the environment says of them.
        lines: Dictionary from the index of a process to a connected socket: in the chief those to
            all others, in the others that to the chief.
    """

    def __init__(self, environment: Environment, lines: dict[int, socket.socket]):
        self.environment = environment
        self.count = environment.count
        self.index = environment.index
        self._lines = lines
        self._number = 0

    def from_chief(self, make: Callable[[], bytes]) -> bytes:
        """Returns, in every process, what a function returned in the chief.

        Raises:
            RuntimeError: If it raised there, or if a process has gone.
        """
        self._number += 1
        if self.is_chief:
            try:
                value = make()
            except Exception as error:
                with contextlib.suppress(RuntimeError):
                    self._tell_all(_ERROR, f"{type(error).__name__}: {error}".encode())
                raise
            self._tell_all(_VALUE, value)
            return value
        kind, value = self._hear(0)
        if kind == _ERROR:
            raise RuntimeError(f"The chief could not go on. {value.decode()}")
        self._expect(kind, _VALUE)
        return value

    def gather(self, own: bytes) -> list[bytes] | None:
        """Returns what each process has, by its index, in the chief, and `None` in the others.

        Raises:
            RuntimeError: If a process has gone.
        """
        self._number += 1
        if not self.is_chief:
            self._tell(0, _OWN, own)
            return None
        values = [own]
        for index in range(1, self.count):
            kind, value = self._hear(index)
            self._expect(kind, _OWN)
            values.append(value)
        return values

    def gone(self, patience: float = 0.0) -> list[int]:
        """Returns the indices of the processes, of those with a line to this one, that have ended.

        The chief has a line to every other, the others to the chief only.

        Args:
            patience: Float >= 0, how many seconds to wait for the first. The lines of a process
                that ends are cut one after the other, and the engine's may be cut before this one.
        """
        limit = time.monotonic() + patience
        while True:
            found = [index for index, line in self._lines.items() if _is_cut(line)]
            if found or time.monotonic() >= limit:
                return found
            time.sleep(0.02)

    def told_that_gone(self, index: int) -> RuntimeError:
        """Returns the error that says that a process is missing."""
        return RuntimeError(
            f"{_name(index)} of {self.count} has ended or cannot be reached, and training cannot "
            "go on without it. Start all processes again: with `Resume` they go on from the last "
            f"save. Received: no answer in process {self.index}"
        )

    def _tell_all(self, kind: bytes, value: bytes) -> None:
        for index in self._lines:
            self._tell(index, kind, value)

    def _tell(self, index: int, kind: bytes, value: bytes) -> None:
        try:
            self._lines[index].sendall(_HEAD.pack(kind, self._number, len(value)) + value)
        except OSError as error:
            raise self.told_that_gone(index) from error

    def _hear(self, index: int) -> tuple[bytes, bytes]:
        try:
            kind, number, length = _HEAD.unpack(_receive(self._lines[index], _HEAD.size))
            value = _receive(self._lines[index], length)
        except OSError as error:
            raise self.told_that_gone(index) from error
        if number != self._number:
            self._expect(b"", kind)
        return kind, value

    def _expect(self, kind: bytes, expected: bytes) -> None:
        if kind != expected:
            raise RuntimeError(
                "The processes have parted: every process has to run the same script, with the "
                "same calls of `fit`, `evaluate` and `predict` in the same order. Received: "
                f"another message than number {self._number} in process {self.index}"
            )


def connect(environment: Environment, timeout: float, own_ports: bool = False) -> ProcessGroup:
    """Lets all processes meet at the chief's address, and returns the line between them.

    When it returns, nothing listens at the address any more, so that the engine can.

    Args:
        environment: What the environment says of them; more than one, with an address.
        timeout: Float > 0, how many seconds to wait for those that are not there yet.
        own_ports: Boolean, whether every process will listen at its own address.

    Raises:
        TimeoutError: If some have not come in time.
        ValueError: If an address is in use, or the processes disagree.
    """
    deadline = time.monotonic() + timeout
    problem = None
    if own_ports and environment.index > 0:
        try:
            _listen(environment.addresses[environment.index], environment).close()
        except ValueError as error:
            problem = str(error)
    if environment.index == 0:
        lines = _receive_all(environment, timeout, deadline)
    else:
        lines = {0: _join(environment, problem, timeout, deadline)}
    for line in lines.values():
        line.settimeout(None)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            # A machine that is gone says nothing; not every system lets one ask sooner.
            if hasattr(socket, name):
                line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return ProcessGroup(environment, lines)


def _is_cut(line: socket.socket) -> bool:
    try:
        return line.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def _name(index: int) -> str:
    return f"Process {index}" if index else "The chief (process 0)"


def split_address(address: str) -> tuple[str, int]:
    """Returns the host and the port of an address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listen(address: str, environment: Environment) -> socket.socket:
    host, port = split_address(address)
    for where in (host, ""):
        try:
            family = socket.AF_INET6 if ":" in where else socket.AF_INET
            return socket.create_server((where, port), family=family, backlog=environment.count)
        except OSError as error:
            # A name may be that of a machine whose own interfaces have other addresses.
            elsewhere = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
            if where == host and elsewhere:
                continue
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ValueError(
                f"{_name(environment.index)} cannot listen at {address} ({reason}). Choose a free "
                "port, and see that nothing of an earlier run is left. Received: "
                f"{environment.source} with {address!r}"
            ) from error
    raise AssertionError


def _receive_all(
    environment: Environment, timeout: float, deadline: float
) -> dict[int, socket.socket]:
    """Lets the others come, and tells all of them when they are there, or what is wrong."""
    lines: dict[int, socket.socket] = {}
    strangers: list[socket.socket] = []
    try:
        problem: Exception | None = None
        with _listen(environment.addresses[0], environment) as server:
            while len(lines) < environment.count - 1 and problem is None:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    line = server.accept()[0]
                except TimeoutError:
                    missing = [i for i in range(1, environment.count) if i not in lines]
                    problem = _missing(missing, environment, timeout)
                    break
                hello = _hello_of(line, deadline)
                if hello is None:
                    line.close()
                    continue
                problem = _disagreement(hello, environment, lines)
                if problem is None:
                    lines[hello["index"]] = line
                else:
                    strangers.append(line)
        answer = b"" if problem is None else str(problem).encode()
        for line in (*lines.values(), *strangers):
            with contextlib.suppress(OSError):
                line.sendall(_HELLO + _HEAD.pack(_VALUE, 0, len(answer)) + answer)
        if problem is not None:
            raise problem
        return lines
    except BaseException:
        for line in (*lines.values(), *strangers):
            line.close()
        raise


def _hello_of(line: socket.socket, deadline: float) -> dict | None:
    """Returns what a process says of itself, `None` if it is none of ours."""
    try:
        line.settimeout(max(min(deadline - time.monotonic(), 10.0), 0.001))
        if _receive(line, len(_HELLO)) != _HELLO:
            return None
        _, _, length = _HEAD.unpack(_receive(line, _HEAD.size))
        return json.loads(_receive(line, length)) if length < _MOST_OF_A_HELLO else None
    except (OSError, ValueError):
        return None


def _disagreement(hello: dict, environment: Environment, lines: dict) -> Exception | None:
    index, count = hello["index"], hello["count"]
    if hello["problem"] is not None:
        return ValueError(hello["problem"])
    if count != environment.count:
        return ValueError(
            f"The processes disagree on their number: the chief's {environment.source} says "
            f"{environment.count}, that of process {index} says {count}. Received: {count}"
        )
    if index in lines or index == 0:
        return ValueError(
            f"Two processes say that they are number {index}; each needs an index of its own in "
            f"{environment.source}. Received: {index} twice"
        )
    if tuple(hello["addresses"]) != environment.addresses:
        return ValueError(
            f"The processes disagree on their addresses: the chief's {environment.source} has "
            f"{list(environment.addresses)}. Received: {hello['addresses']} of process {index}"
        )
    return None


def _missing(missing: list[int], environment: Environment, timeout: float) -> TimeoutError:
    names = ", ".join(
        f"{i} ({environment.addresses[i]})" if len(environment.addresses) > i else str(i)
        for i in missing
    )
    return TimeoutError(
        f"{len(missing)} of {environment.count} processes did not come within {timeout:g} s: "
        f"number {names}. See whether it was started, and reaches the chief at "
        f"{environment.addresses[0]}; or wait longer. Received: startup_timeout={timeout:g}"
    )


def no_chief(environment: Environment, timeout: float) -> TimeoutError:
    """Returns the error that says that the chief has not come."""
    return _missing([0], environment, timeout)


def _join(
    environment: Environment, problem: str | None, timeout: float, deadline: float
) -> socket.socket:
    host, port = split_address(environment.addresses[0])
    while True:
        try:
            line = socket.create_connection((host, port), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise no_chief(environment, timeout) from error
            time.sleep(0.05)
    hello = {
        "index": environment.index,
        "count": environment.count,
        "addresses": environment.addresses,
        "problem": problem,
    }
    content = json.dumps(hello).encode()
    try:
        line.sendall(_HELLO + _HEAD.pack(_OWN, 0, len(content)) + content)
        # The chief may have come later, and waits as long.
        line.settimeout(timeout + 10)
        if _receive(line, len(_HELLO)) != _HELLO:
            raise OSError("what answers is no process of ours")
        _, _, length = _HEAD.unpack(_receive(line, _HEAD.size))
        answer = _receive(line, length).decode()
    except OSError as error:
        line.close()
        raise ValueError(
            f"The chief does not answer at {environment.addresses[0]} ({error}): it has ended, or "
            f"something else listens there. Received: {environment.source} with "
            f"{environment.addresses[0]!r}"
        ) from error
    if answer:
        line.close()
        kind = TimeoutError if "did not come" in answer else ValueError
        raise kind(answer)
    return line


def _receive(line: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = line.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise ConnectionError("the line is closed")
        parts += part
    return bytes(parts)
