"""Two processes of JAX against one."""

import re

import pytest

pytestmark = pytest.mark.backends("jax")
NAMES = ["uneven last batch", "last batch of one", "class weights", "batch norm", "tf.data"]
NAMES += ["methods", "resume"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_equal_one(found_by_processes, name):
    """Loss, metrics, weights and outputs, relative to the largest number of each array."""
    for found in found_by_processes:
        difference = found.get(name, str(found))
        assert isinstance(difference, float), difference
        assert difference < 1e-6


def test_a_killed_process_ends_the_others_who_say_so(killed_processes):
    _, code, told = killed_processes
    assert code == 137
    assert "RuntimeError: Process 1 of 2 has ended or cannot be reached" in told, told[-2000:]


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


REFUSED = {
    "small batch": "ValueError: A batch is shared by 2 devices.* Received: batch_size=1",
    "other data": "ValueError: Every process has to pass the same.* in process 1",
    "indivisible": "ValueError: JAX splits a batch .* 8 or 10;.* Received: batch_size=9",
}


@pytest.mark.parametrize("name", REFUSED)
def test_told_in_all_processes(found_by_processes, name):
    for found in found_by_processes:
        message = found["refusals"][name]
        assert re.match(REFUSED[name], message), message
        assert "\n" not in message


def test_describe(found_by_processes):
    assert "jax.distributed, keras.distribution.DataParallel" in found_by_processes[0]["describe"]
