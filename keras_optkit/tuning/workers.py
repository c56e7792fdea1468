"""Trials at the same time on one machine: worker processes, and who gives them trials."""

import contextlib
import copy
import glob
import os
import pathlib
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

import keras
from keras_tuner.src.engine import oracle as oracle_module
from keras_tuner.src.engine import trial as trial_module

from keras_optkit.tuning.sent_data import dumps

_MODULE = "keras_optkit.tuning.worker_process"
# How often, in seconds, a search that waits for its workers looks at the clock.
_TICK = 0.2


def search_in_parallel(tuner: Any, fit_args: tuple, fit_kwargs: dict[str, Any]) -> None:
    """Runs a search whose trials are trained by other processes of this machine.

    This process asks the oracle and keeps the files. A worker is started with its first trial and
    goes on to the next; one that dies is recorded as the failure of its trial, and replaced. When
    this process ends, however it ends, so do they.

    Args:
        tuner: An `OptkitTuner`, with `workers` > 1.
        fit_args: The arguments of `search`.
        fit_kwargs: The keyword arguments of `search`.

    Raises:
        ValueError: If the hypermodel or an argument cannot be sent to another process.
    """
    tuner.on_search_begin()
    with tempfile.TemporaryDirectory(prefix="optkit_workers_") as folder:
        path = os.path.join(folder, "search")
        pathlib.Path(path).write_bytes(_payload(tuner, fit_args, fit_kwargs))
        told: queue.Queue = queue.Queue()
        workers = [Worker(i, tuner.workers, path, told) for i in range(tuner.workers)]
        try:
            while _give_trials(tuner, workers):
                _take(tuner, *_wait(tuner, told))
        finally:
            for worker in workers:
                worker.kill()
    tuner.on_search_end()


def _give_trials(tuner: Any, workers: list["Worker"]) -> bool:
    """Gives a trial to each worker that has none; tells whether there is anything to wait for."""
    for worker in workers:
        if worker.trial is not None:
            continue
        tuner.pre_create_trial()
        trial = tuner.oracle.create_trial(worker.name)
        if trial.status == trial_module.TrialStatus.RUNNING:
            tuner.on_trial_begin(trial)
            worker.give(trial)
    return any(worker.trial is not None for worker in workers)


def _wait(tuner: Any, told: queue.Queue) -> tuple["Worker", Any]:
    while True:
        try:
            worker, process, message = told.get(timeout=_TICK)
        except queue.Empty:
            tuner.while_waiting()
            continue
        # What a process said that has been replaced since is of no use.
        if worker.has(process):
            return worker, message


def _take(tuner: Any, worker: "Worker", message: Any) -> None:
    """Records what a worker said of its trial."""
    trial, worker.trial = worker.trial, None
    if trial is None and message is None:
        worker.end()
        return
    if message is None:
        trial.status = trial_module.TrialStatus.INVALID
        trial.message = f"RuntimeError: The worker process {worker.end()} in this trial."
    elif isinstance(message, BaseException):
        raise message
    else:
        state, error = message
        after = trial_module.Trial.from_state(state)
        trial.metrics, trial.hyperparameters = after.metrics, after.hyperparameters
        trial.status, trial.message = after.status, after.message
        tuner.note_error(error)
    tuner.on_trial_end(trial)


class Worker:
    """A process that trains one trial after the other.

    Args:
        number: Integer, counted from 0.
        count: Integer, how many there are.
        path: String, the file of what each worker needs to know once.
        told: Queue that gets this object, the process and what it says: a state of the trial and
            an error, an exception that ends the search, or `None` when it has died.
    """

    def __init__(self, number: int, count: int, path: str, told: queue.Queue):
        # By this the oracle knows which trials run.
        self.name = f"worker{number}"
        self.trial: Any = None
        self._environment = worker_environment(number, count)
        self._path, self._told = path, told
        self._process: subprocess.Popen | None = None

    def has(self, process: subprocess.Popen) -> bool:
        """Tells whether this is the process that trains the trials."""
        return process is self._process

    def give(self, trial: Any) -> None:
        """Sends a trial, to a new process where there is none."""
        self.trial = trial
        if self._process is not None and self._process.poll() is not None:
            self.kill()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, self._path],
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()
        # One that dies in this moment is heard of by the thread that listens.
        with contextlib.suppress(OSError):
            pickle.dump(trial.get_state(), self._process.stdin)
            self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen) -> None:
        # Closed here alone: a pipe that is closed while it is read is an error of another kind.
        with process.stdout, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                self._told.put((self, process, pickle.load(process.stdout)))
        self._told.put((self, process, None))

    def end(self) -> str:
        """Returns in words how the process ended, of which there is none any more."""
        code = self._process.wait()
        self.kill()
        if code < 0:
            more = ", as when memory runs out" if -code == signal.SIGKILL else ""
            return f"was ended by {signal.Signals(-code).name}{more},"
        return f"ended with exit code {code}"

    def kill(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            # What was not sent is of no use any more.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process = None


def worker_environment(number: int, count: int) -> dict[str, str]:
    """Returns the environment of a worker process.

    It has its share of the cores, a GPU of its own where there are several, and no more of a GPU's
    memory than it needs. What the user has set is left as it is.

    Args:
        number: Integer, which worker, counted from 0.
        count: Integer, how many there are.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, (cores or 1) // count))
    environment = {
        "OMP_NUM_THREADS": threads,
        "TF_NUM_INTRAOP_THREADS": threads,
        # JAX on CPU counts its threads by this.
        "NPROC": threads,
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        **os.environ,
        "KERAS_BACKEND": keras.backend.backend(),
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        gpus = [str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*")))]
    else:
        gpus = [gpu for gpu in visible.split(",") if gpu]
    if len(gpus) > 1:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    return environment


def _payload(tuner: Any, fit_args: tuple, fit_kwargs: dict[str, Any]) -> bytes:
    """Returns the tuner without its trials, the arguments of `fit` and Keras' settings."""
    sent, oracle = copy.copy(tuner), copy.copy(tuner.oracle)
    # What was put on these objects is for this process, and the trials are on the disk.
    for part in (sent, oracle):
        for name in [n for n in vars(part) if callable(getattr(type(part), n, None))]:
            delattr(part, name)
    oracle._display = oracle_module.Display(oracle, verbose=0)
    oracle.trials, oracle.ongoing_trials = {}, {}
    sent.oracle = oracle
    settings = {
        "policy": keras.dtype_policies.serialize(keras.config.dtype_policy()),
        "floatx": keras.config.floatx(),
        "image_data_format": keras.config.image_data_format(),
    }
    return dumps((settings, sent, fit_args, fit_kwargs))
