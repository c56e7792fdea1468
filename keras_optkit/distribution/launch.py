"""Real processes on one machine, to try what will run on several."""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO

import keras

# Where the workers of a launch say that they have come to `multi_worker`.
_ARRIVALS = "KERAS_OPTKIT_ARRIVALS"
_BACKENDS = ("tensorflow", "jax", "torch")
# Seconds that the others have to notice that one has failed, and to say so, before SIGTERM comes:
# the signal could end them in the middle of their message.
_TO_NOTICE = 5.0


def launch(
    command: Sequence[str],
    workers: int = 2,
    backend: str | None = None,
    startup_timeout: float = 300.0,
    grace: float = 10.0,
) -> int:
    """Runs a Python script in several processes of this machine that train together.

    Each gets the environment from which `auto()` and `multi_worker()` know the others, a share of
    the CPU's threads, and its number before each line that it writes. Where one fails, the others
    have five seconds to notice it and end by themselves, and are then ended.

    Args:
        command: The script and its arguments.
        workers: Integer >= 1, how many processes.
        backend: String, the backend of Keras in all of them; `None` is that of this process.
        startup_timeout: Float > 0, how many seconds the other workers may take until they come to
            `multi_worker`, once one is there.
        grace: Float >= 0, how many seconds a worker has to end itself on SIGTERM. Then it is
            killed.

    Returns:
        The exit code: 0 if all ended with 0, that of the worker that failed (128 and its signal
        where it was killed), or 124 if one never came.

    Raises:
        ValueError: If an argument is out of its range, or there is no such script.

    Example:

    ```sh
    python -m keras_optkit.distribution launch --workers 2 train.py --epochs 10
    ```
    """
    backend = keras.backend.backend() if backend is None else backend
    _check(command, workers, backend, startup_timeout, grace)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="keras_optkit_launch_"))
    crew: list[_Worker] = []
    try:
        with _ended_by_sigterm():
            for index, environment in enumerate(environments(workers, backend)):
                environment = {**os.environ, **environment, _ARRIVALS: str(folder)}
                crew.append(_Worker(index, command, environment))
            return _watch(crew, folder, startup_timeout)
    except KeyboardInterrupt:
        _say("Interrupted: the workers are ended.")
        return 128 + signal.SIGINT
    finally:
        _end(crew, grace)
        for worker in crew:
            worker.finish_output()
        shutil.rmtree(folder, ignore_errors=True)


def environments(workers: int, backend: str) -> list[dict[str, str]]:
    """Returns the variables that tell each worker of the others.

    Args:
        workers: Integer >= 1, how many there are.
        backend: String, the backend of Keras.
    """
    ports = _free_ports(workers)
    addresses = [f"127.0.0.1:{port}" for port in ports]
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    # TensorFlow; what is built with OpenMP, torch too; XLA.
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS", "NPROC")
    share = str(max(1, cores // workers))
    threads = {name: share for name in names if name not in os.environ}
    found = []
    for index in range(workers):
        if backend == "tensorflow":
            task = {"type": "worker", "index": index}
            config = {"cluster": {"worker": addresses}, "task": task}
            own = {"TF_CONFIG": json.dumps(config)}
        elif backend == "jax":
            own = {
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": addresses[0],
                "KERAS_DISTRIBUTION_NUM_PROCESSES": str(workers),
                "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
            }
        else:
            own = {
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(ports[0]),
                "WORLD_SIZE": str(workers),
                "RANK": str(index),
                "LOCAL_RANK": str(index),
            }
        found.append({**threads, **own, "KERAS_BACKEND": backend, "PYTHONUNBUFFERED": "1"})
    return found


def announce(index: int) -> None:
    """Tells the launcher, where there is one, that a worker has come to where the others wait.

    Args:
        index: Integer, which worker this is.
    """
    folder = os.environ.get(_ARRIVALS)
    if folder is not None:
        with contextlib.suppress(OSError):
            pathlib.Path(folder, str(index)).touch()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m keras_optkit.distribution")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    about = "run a script in several processes of this machine that train together"
    one = commands.add_parser("launch", help=about, description=about)
    one.add_argument("--workers", type=int, default=2, help="how many processes (default: 2)")
    one.add_argument("--backend", choices=_BACKENDS, help="default: KERAS_BACKEND, or Keras' own")
    one.add_argument(
        "--startup-timeout",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long the others may take to come to `multi_worker` (default: 300)",
    )
    one.add_argument(
        "--grace",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="how long a worker has to end on SIGTERM before it is killed (default: 10)",
    )
    one.add_argument("script", help="a Python script")
    one.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    args = parser.parse_args(arguments)
    try:
        return launch(
            [args.script, *args.arguments],
            args.workers,
            args.backend,
            args.startup_timeout,
            args.grace,
        )
    except ValueError as error:
        parser.error(str(error))


def _check(command, workers, backend, startup_timeout, grace) -> None:
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f"`workers` must be an integer >= 1. Received: workers={workers!r}")
    if backend not in _BACKENDS:
        names = ", ".join(_BACKENDS)
        raise ValueError(f"`backend` must be one of {names}. Received: backend={backend!r}")
    if not startup_timeout > 0 or not grace >= 0:
        raise ValueError(
            "`startup_timeout` must be a number of seconds > 0, and `grace` one >= 0. Received: "
            f"startup_timeout={startup_timeout!r}, grace={grace!r}"
        )
    if not command or not os.path.isfile(command[0]):
        raise ValueError(
            f"There is no such script. Received: {command[0] if command else 'nothing'}"
        )


class _Worker:
    """A process in a session of its own, so that what it starts ends with it."""

    def __init__(self, index: int, command: Sequence[str], environment: dict[str, str]):
        self.index = index
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        pairs = ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr))
        self._threads = [
            threading.Thread(target=_copy, args=(source, target, f"[{index}] "), daemon=True)
            for source, target in pairs
        ]
        for thread in self._threads:
            thread.start()

    @property
    def code(self) -> int | None:
        """The exit code, `None` while it runs, negative where a signal ended it."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Sends a signal to the process and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def finish_output(self) -> None:
        """Waits, not for long, until what it wrote is written."""
        self._process.wait()
        for thread in self._threads:
            thread.join(2)


_WRITING = threading.Lock()


def _copy(source: IO[bytes], target: IO[str], prefix: str) -> None:
    with source:
        for line in source:
            text = line.decode(errors="replace").rstrip("\n")
            with _WRITING, contextlib.suppress(OSError, ValueError):
                target.write(f"{prefix}{text}\n")
                target.flush()


def _say(text: str) -> None:
    with _WRITING:
        sys.stderr.write(f"launch: {text}\n")
        sys.stderr.flush()


def _watch(crew: list[_Worker], folder: pathlib.Path, startup_timeout: float) -> int:
    """Waits until all have ended, or one has failed or does not come."""
    since = None
    while True:
        codes = {worker.index: worker.code for worker in crew}
        arrived = {int(path.name) for path in folder.iterdir()}
        running = [index for index, code in codes.items() if code is None]
        failed = [index for index, code in codes.items() if code]
        if failed:
            index, code = failed[0], codes[failed[0]]
            rest = "; the others are ended" if running else ""
            _say(f"Worker {index} {_how(code)}{rest}.")
            _wait_for(crew, _TO_NOTICE)
            return code if code > 0 else 128 - code
        if not running:
            return 0
        waiting = arrived & set(running)
        absent = [i for i, code in codes.items() if i not in arrived and code == 0]
        if waiting and absent:
            _say(
                f"Worker {absent[0]} ended, with exit code 0, and never came to `multi_worker`, "
                f"where worker {min(waiting)} waits for it; the others are ended."
            )
            return 1
        late = [index for index in running if index not in arrived]
        if waiting and late:
            since = time.monotonic() if since is None else since
            if time.monotonic() - since > startup_timeout:
                _say(
                    f"Worker {', '.join(map(str, late))} did not come to `multi_worker` within "
                    f"{startup_timeout:g} s of worker {min(waiting)} (--startup-timeout); all are "
                    "ended."
                )
                return 124
        time.sleep(0.05)


def _how(code: int) -> str:
    if code > 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _end(crew: list[_Worker], grace: float) -> None:
    """Ends those that run: by SIGTERM, and by SIGKILL where that does not help."""
    for worker in crew:
        if worker.code is None:
            worker.signal(signal.SIGTERM)
    _wait_for(crew, grace)
    stubborn = [worker for worker in crew if worker.code is None]
    if stubborn:
        _say(
            f"Worker {', '.join(str(worker.index) for worker in stubborn)} did not end within "
            f"{grace:g} s of SIGTERM (--grace) and is killed."
        )
    for worker in crew:
        # Also what a worker that has ended left behind.
        worker.signal(signal.SIGKILL)


def _wait_for(crew: list[_Worker], seconds: float) -> None:
    """Waits until all have ended, but no longer than some time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and any(worker.code is None for worker in crew):
        time.sleep(0.05)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Lets a SIGTERM to the launcher end the workers, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
