"""Two real processes against one: what trains in them, what they write, and when one is killed."""

import re

import keras
import pytest
from distribution_cases import FOREIGN, PROCESS_CASES

from keras_optkit.distribution import multi_worker

BACKEND = keras.backend.backend()
of_torch = pytest.mark.backends("torch")


def test_a_killed_process_ends_the_others_who_say_so(killed):
    _, code, told = killed
    assert code == 137
    assert "launch: Worker 1 was ended by SIGKILL" in told
    # Torch says in each line that it is of rank 0, and JAX says more when it ends.
    said = r"\[0\] (\[rank0\]: )?RuntimeError: Process 1 of 2 has ended or cannot be reached"
    lines = [line for line in told.splitlines() if line.startswith("[0]")]
    here = lines if BACKEND == "jax" else lines[-1:]
    assert any(re.match(said, line) for line in here), told[-2000:]


def test_it_goes_on_from_the_last_save_with_the_same_result(found):
    """In the middle of an epoch, with the metrics of both processes."""
    assert [each["resumed from"] for each in found] == [[2, 2]] * 2
    assert found[0]["resume"] < 1e-6


def check_small(found, name, limit=1e-6):
    difference = found[0].get(name, str(found[0]))
    assert isinstance(difference, float), difference
    assert difference < limit


@pytest.mark.parametrize("name", PROCESS_CASES[BACKEND])
def test_two_processes_equal_one(found, name):
    """Loss, metrics, weights and outputs, relative to the largest number of each array."""
    check_small(found, name)


@pytest.mark.parametrize("name", FOREIGN)
def test_scripts_that_were_not_written_for_it(found, name):
    """Sums of bfloat16, of 8 binary digits, are rounded in each part."""
    check_small(found, name, 2**-7 if name == "mixed precision" else 1e-6)


def test_other_methods(found):
    check_small(found, "other methods")


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
    assert found[0]["files: best-1"] == 0
    assert found[0]["files: model"] == 0
    assert found[0]["files: alike"] == 0


def test_the_chief_decides_in_which_batch_all_stop(found):
    assert [each["stopped in"] for each in found] == [[3, 7], [3, 7]]


def test_nobody_needs_to_set_a_seed(found):
    assert found[0]["seeds"] == 0
    assert found[0]["moved"] > 0


def test_each_process_drops_others(found):
    """A unit is dropped for 0 to 2 of the samples, not for both or none; alike in every run."""
    for each in found:
        assert each["dropped: values"] == [0, 1, 2]
        assert each["dropped: again"] == 0


@of_torch
@pytest.mark.parametrize("name", ["own loss", "two models", "add_loss"])
def test_own_steps(found, name):
    check_small(found, name)


@of_torch
def test_as_distributed_data_parallel_does(found):
    for each in found:
        assert each["DDP"] < 1e-6


@of_torch
def test_unsynchronized_norm(found):
    """The moving statistics are the mean over the parts, and a part without samples has none."""
    check_small(found, "plain norm")
    assert found[0]["plain norm: finite"]


ENGINES = {
    "tensorflow": "tf.distribute.MultiWorkerMirroredStrategy\nBatchNorm: synchronized",
    "jax": "jax.distributed, keras.distribution.DataParallel\nBatchNorm: synchronized",
    "torch": "torch.distributed, gloo\nBatchNorm: synchronized",
}


def test_describe(found):
    chief, other = found
    first = "2 devices: cpu:0 in each of 2 processes\nThis process: "
    assert chief["describe"].startswith(f"{first}0, the chief\nEngine: {ENGINES[BACKEND]}")
    assert other["describe"].startswith(f"{first}1\nEngine: {ENGINES[BACKEND]}")
    assert chief["again"] == other["again"] == 2
    assert chief["size"] == other["size"] == [2, 16]


REFUSED = {
    "other batch size": "ValueError: Every .* chief's batch size: 20. Received: 22 in process 1",
    "other data": r"ValueError: Every .* shapes of x: .*46, 6.* Received: .*45, 6.* in process 1",
    "shuffled apart": r"ValueError: Every .* last sample of x: \d+. Received: \d+ in process 1",
    "other method": "ValueError: Every .* chief's method: fit. Received: evaluate in process 1",
    "small batch": "ValueError: A batch is shared by 2 devices.* Received: batch_size=1",
    "other devices": "ValueError: There are 1 devices to train on.* Received: devices=3",
}
REFUSED |= {
    "tensorflow": {"jit_compile": "ValueError: XLA cannot compile .* Received: jit_compile=True"},
    "jax": {
        "indivisible": "ValueError: JAX splits a batch .* 8 or 10;.* Received: batch_size=9",
    },
    "torch": {
        "jit_compile": "ValueError: torch.compile cannot .* Received: jit_compile=True",
        "steps_per_execution": "ValueError: `steps_per_execution` must be 1 with the PyTorch",
        "split already": "ValueError: The step splits each batch by itself.* Received: sampler=",
        "dataset shuffled apart": r"ValueError: The processes got different.*of \[20, 20\] ",
        "one row": r"ValueError: .* each output of the model must have a row.*shape \(1, 3\) for ",
        "own optimizer": "RuntimeError: `Untracked.train_step` changes weights, but not by .*Rec",
    },
}[BACKEND]


@pytest.mark.parametrize("name", REFUSED)
def test_told_in_all_processes(found, name):
    for each in found:
        message = each.get(f"refused: {name}", str(each))
        assert re.match(REFUSED[name], message), message
        assert "\n" not in message


def test_one_process_changes_nothing():
    distribution = multi_worker(1)
    assert distribution.num_processes == 1
    with distribution.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        model.compile("sgd", "mse")
    assert "fit" not in vars(model)
