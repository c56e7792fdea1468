"""What was found by the workers: one process of four devices, and two processes."""

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

HERE = pathlib.Path(__file__).parent


def _in_a_process_of_four_devices(folder, *parts):
    """Returns what parts of the worker with four logical devices found."""
    if keras.backend.backend() == "torch":
        pytest.skip("a process of torch has one device")
    done = subprocess.run(
        [sys.executable, str(HERE / "device_worker.py"), str(folder), *parts],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=570,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope="session")
def found_on_devices(tmp_path_factory):
    """What was found with batches split between four devices."""
    folder = tmp_path_factory.mktemp("devices")
    return _in_a_process_of_four_devices(folder, "exactness", "checks", "refusals")


@pytest.fixture(scope="session")
def found_with_split_weights(tmp_path_factory):
    """What was found with weights split between four devices, for another module's tests."""
    folder = tmp_path_factory.mktemp("devices")
    return _in_a_process_of_four_devices(folder, "split_weights")["split_weights"]


@pytest.fixture(scope="session")
def killed(tmp_path_factory):
    """The folder, the exit code and the messages of a training whose process 1 was killed."""
    folder, told = tmp_path_factory.mktemp("processes"), io.StringIO()
    with contextlib.redirect_stderr(told):
        code = launch([str(HERE / "process_worker.py"), str(folder), "killed"], 2, grace=60)
    return folder, code, told.getvalue()


@pytest.fixture(scope="session")
def found(killed):
    """What each of two processes found in a second start, which goes on with that training.

    Those of torch are started by torchrun, whose agent listens at their address.
    """
    folder = killed[0]
    command = [str(HERE / "process_worker.py"), str(folder), "rest"]
    if keras.backend.backend() == "torch":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        code = subprocess.run([*torchrun, "--nproc-per-node=2", *command], timeout=570).returncode
    else:
        code = launch(command, 2, grace=5)
    assert code == 0
    return [json.loads((folder / f"found-{index}.json").read_text()) for index in range(2)]
