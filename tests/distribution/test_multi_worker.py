"""Two real processes against one: what trains in them, what they write, and when one is killed."""

import contextlib
import io
import json
import pathlib
import re
import time

import pytest
from distribution_cases import PROCESS_CASES

from keras_optkit.distribution.launch import launch

WORKER = pathlib.Path(__file__).with_name("process_worker.py")
pytestmark = pytest.mark.backends("tensorflow")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A training in which process 1 is killed in the third epoch."""
    folder = tmp_path_factory.mktemp("processes")
    told, start = io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(told):
        code = launch([str(WORKER), str(folder), "killed"], 2, grace=60)
    return folder, code, time.monotonic() - start, told.getvalue()


@pytest.fixture(scope="module")
def found(killed):
    """What each process found in a second start, which goes on with that training."""
    folder = killed[0]
    assert launch([str(WORKER), str(folder), "rest"], 2, grace=5) == 0
    return [json.loads((folder / f"found-{index}.json").read_text()) for index in range(2)]


def test_a_killed_process_ends_the_others_who_say_so(killed):
    _, code, seconds, told = killed
    assert code == 137
    assert seconds < 200
    assert "launch: Worker 1 was ended by SIGKILL; the others are ended." in told
    last = told.strip().splitlines()[-1]
    assert last.startswith("[0] RuntimeError: Process 1 of 2 has ended or cannot be reached"), told


def test_it_goes_on_from_the_last_save_with_the_same_result(found):
    """In the middle of an epoch, with the metrics of both processes."""
    assert [each["resumed from"] for each in found] == [[2, 2]] * 2
    assert found[0]["resume"] < 1e-6


@pytest.mark.parametrize("name", PROCESS_CASES)
def test_two_processes_equal_one(found, name):
    """Loss, metrics, weights and outputs, relative to the largest number of each array."""
    difference = found[0].get(name, str(found[0]))
    assert isinstance(difference, float), difference
    assert difference < 1e-6


def test_other_methods(found):
    assert found[0]["other methods"] < 1e-6


def test_only_the_chief_writes(found):
    chief, other = found
    assert other["all files"] == 0
    assert chief["files"] == [
        "backup/latest.weights.h5",
        "backup/training_metadata.json",
        "best-1.keras",
        "kept.keras",
        "log.csv",
        "model.keras",
        "report/training.json",
        "report/training.png",
    ]
    assert chief["all files"] > len(chief["files"])


def test_all_stop_in_one_epoch_with_the_best_weights(found):
    assert [each["epochs"] for each in found] == [3, 3]
    assert found[0]["stopped"] == found[1]["stopped"] == "no improvement within the patience"
    assert found[0]["files: best"] == 0
    assert found[0]["files: alike"] == 0


def test_the_chief_decides_in_which_batch_all_stop(found):
    assert [each["stopped in"] for each in found] == [[3, 7], [3, 7]]


def test_nobody_needs_to_set_a_seed(found):
    assert found[0]["seeds"] == 0
    assert found[0]["moved"] > 0


def test_distribution(found):
    chief, other = found
    assert chief["describe"].splitlines()[:2] == [
        "2 devices: cpu:0 in each of 2 processes",
        "This process: 0, the chief",
    ]
    assert "MultiWorkerMirroredStrategy" in chief["describe"]
    assert other["describe"].splitlines()[1] == "This process: 1"
    assert chief["again"] == other["again"] == 2
    assert chief["size"] == [2, 16]


REFUSED = {
    "other batch size": "ValueError: Every .* chief's batch size: 20. Received: 21 in process 1",
    "other data": r"ValueError: Every .* shapes of x: .*46, 6.* Received: .*45, 6.* in process 1",
    "other method": "ValueError: Every .* chief's method: fit. Received: evaluate in process 1",
    "small batch": "ValueError: A batch is shared by 2 devices.* Received: batch_size=1",
    "other devices": "ValueError: There are 1 devices to train on: cpu:0.* Received: devices=3",
}


@pytest.mark.parametrize("name", REFUSED)
def test_told_in_all_processes_before_the_first_step(found, name):
    for each in found:
        assert re.match(REFUSED[name], each[name]), each[name]
        assert "\n" not in each[name]
