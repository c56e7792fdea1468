"""Two processes of torch against one, and against DistributedDataParallel."""

import re

import keras
import pytest
from distribution_cases import CASES

from keras_optkit.distribution import multi_worker

pytestmark = pytest.mark.backends("torch")
NAMES = [name for name in CASES if "steps_per_execution" not in name]
NAMES += ["methods", "own loss", "two models", "add_loss", "DDP", "plain norm", "resume"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(found_by_processes, name):
    """Loss, metrics, weights and outputs, relative to the largest number of each array."""
    for found in found_by_processes:
        difference = found.get(name, str(found))
        assert isinstance(difference, float), difference
        assert difference < 1e-6


def test_mixed_precision_rounds_in_parts(found_by_processes):
    """Sums of bfloat16, of 8 binary digits, are rounded in each part."""
    assert found_by_processes[0]["mixed precision"] < 2**-7


def test_a_killed_process_ends_the_others_who_say_so(killed_processes):
    _, code, told = killed_processes
    assert code == 137
    last = told.strip().splitlines()[-1]
    assert "RuntimeError: Process 1 of 2 has ended or cannot be reached" in told, last


def test_it_goes_on_from_the_last_save(found_by_processes):
    assert [found["resume: from"] for found in found_by_processes] == [[2, 0]] * 2


def test_the_chief_writes_and_stops_all(found_by_processes):
    chief, other = found_by_processes
    assert chief["epochs"] == other["epochs"] == 2
    assert chief["files"] == ["1.keras", "2.keras", "end.keras"]
    assert other["files"] == []
    assert chief["saved"] == 0


def test_the_order_of_the_data_is_that_of_the_chief(found_by_processes):
    chief, other = found_by_processes
    assert chief["shuffled"] == other["shuffled"]


def test_each_process_drops_others(found_by_processes):
    """A unit is dropped for 0 to 2 of the samples, not for both or none; alike in every run."""
    for found in found_by_processes:
        assert found["dropped: values"] == [0, 1, 2]
        assert found["dropped: again"] == 0


def test_a_part_without_samples_leaves_no_statistics(found_by_processes):
    assert found_by_processes[0]["plain norm: finite"]


REFUSED = {
    "small batch": "ValueError: A batch is shared by 2 devices.* Received: batch_size=1",
    "other data": "ValueError: Every process has to pass the same.* in process 1",
    "jit_compile": "ValueError: torch.compile cannot .* Received: jit_compile=True",
    "split already": "ValueError: The step splits each batch by itself.* Received: sampler=",
    "shuffled apart": r"ValueError: The processes got different batches.*batches of \[20, 20\] ",
    "one row": r"ValueError: .* each output of the model must have a row.*shape \(1, 3\) for 4 ",
    "own optimizer": "RuntimeError: `Untracked.train_step` changes weights, but not by .*Received:",
    "several devices": "ValueError: There are 1 devices to train on.* Received: devices=2",
}


@pytest.mark.parametrize("name", REFUSED)
def test_told_in_all_processes(found_by_processes, name):
    for found in found_by_processes:
        message = found["refusals"][name]
        assert re.match(REFUSED[name], message), message
        assert "\n" not in message


def test_describe(found_by_processes):
    lines = found_by_processes[0]["describe"].splitlines()
    assert lines[2] == "Engine: torch.distributed, gloo"
    assert lines[3] == "BatchNorm: synchronized"


def test_one_process_changes_nothing():
    distribution = multi_worker()
    assert distribution.num_processes == 1
    with distribution.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile("sgd", "mse")
    assert "fit" not in vars(model)
