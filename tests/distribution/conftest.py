"""What the worker found, which takes four devices and so a process of its own."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest

WORKER = pathlib.Path(__file__).with_name("worker.py")


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
