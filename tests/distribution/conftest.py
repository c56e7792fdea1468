"""What the worker found, which takes four devices and so a process of its own."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

from keras_optkit.distribution.launch import launch

WORKER = pathlib.Path(__file__).with_name("worker.py")
PROCESSES = pathlib.Path(__file__).with_name("processes_worker.py")


@pytest.fixture(scope="session")
def found(tmp_path_factory):
    if keras.backend.backend() == "torch":
        pytest.skip("a process of torch has one device")
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path_factory.mktemp("worker"))],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def killed_processes(tmp_path_factory):
    """The folder, the exit code and the messages of a training whose process 1 was killed."""
    folder, told = tmp_path_factory.mktemp("processes"), io.StringIO()
    with contextlib.redirect_stderr(told):
        code = launch([str(PROCESSES), "kill", str(folder)], 2, grace=60)
    return folder, code, told.getvalue()


@pytest.fixture(scope="session")
def found_by_processes(killed_processes):
    """What each of two processes found, which go on with that training, too.

    Those of torch are started by torchrun, whose agent listens at their address.
    """
    folder = killed_processes[0]
    command = [str(PROCESSES), "train", str(folder)]
    if keras.backend.backend() == "torch":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        code = subprocess.run([*torchrun, "--nproc-per-node=2", *command], timeout=570).returncode
    else:
        code = launch(command, 2, grace=5)
    assert code == 0
    return [json.loads((folder / f"{index}.json").read_text()) for index in range(2)]
