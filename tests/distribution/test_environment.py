"""What the environment says of other processes."""

import json

import keras
import pytest

from keras_optkit.distribution import auto, data_parallel
from keras_optkit.distribution.environment import Environment, read_environment

BACKEND = keras.backend.backend()
CLUSTER = '"cluster": {"worker": ["a:1", "b:1"]}'
FIRST = '"task": {"type": "worker", "index": 0}'
TWO = {
    "tensorflow": {"TF_CONFIG": "{" + CLUSTER + ', "task": {"type": "worker", "index": 1}}'},
    "jax": {
        "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
        "KERAS_DISTRIBUTION_PROCESS_ID": "1",
        "KERAS_DISTRIBUTION_JOB_ADDRESSES": "a:1,b:1",
    },
    "torch": {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
}[BACKEND]
SLURM = {
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_PROCID": "3",
    "SLURM_JOB_ID": "5",
    "SLURM_STEP_NODELIST": "gpu[08-09]-a,last",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
}


def put(monkeypatch, variables):
    for name, value in variables.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"cluster": []}',
        '{"cluster": {"worker": "a:1"}, ' + FIRST + "}",
        '{"cluster": {"worker": ["a:1", "a:1"]}, ' + FIRST + "}",
        '{"cluster": {"worker": ["a:1", "b"]}, ' + FIRST + "}",
        '{"cluster": {"worker": ["a:1", "b:70000"]}, ' + FIRST + "}",
        '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, ' + FIRST + "}",
        '{"cluster": {"chief": ["a:1", "b:1"]}, "task": {"type": "chief", "index": 0}}',
        "{" + CLUSTER + "}",
        "{" + CLUSTER + ', "task": {"type": "worker", "index": 2}}',
        "{" + CLUSTER + ', "task": {"type": "worker", "index": "0"}}',
        "{" + CLUSTER + ', "task": {"type": "boss", "index": 0}}',
    ],
)
def test_malformed(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="`TF_CONFIG` must be JSON such as .* Received: TF_") as e:
        auto()
    assert "\n" not in str(e.value)


@pytest.mark.backends("tensorflow")
def test_no_cluster_is_one_process(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    assert read_environment() == Environment(1, 0, "TF_CONFIG", ())


@pytest.mark.backends("tensorflow")
def test_a_chief_comes_before_the_workers(monkeypatch):
    cluster = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert read_environment() == Environment(3, 2, "TF_CONFIG", ("a:1", "b:1", "c:1"))


def test_two(monkeypatch):
    put(monkeypatch, TWO)
    addresses = ("a:1",) if BACKEND == "torch" else ("a:1", "b:1")
    assert read_environment() == Environment(2, 1, next(iter(TWO)), addresses)


@pytest.mark.backends("jax")
def test_the_variables_of_jax_itself(monkeypatch):
    names = {"JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "a:1"}
    put(monkeypatch, names)
    assert read_environment() == Environment(3, 0, "JAX_NUM_PROCESSES", ("a:1",))


def test_slurm_says_it_on_every_backend(monkeypatch):
    put(monkeypatch, SLURM)
    port = 61445
    addresses = (f"gpu08-a:{port}",)
    if BACKEND == "tensorflow":
        more = (f"gpu08-a:{port + 1}", f"gpu09-a:{port}", f"gpu09-a:{port + 1}", f"last:{port}")
        addresses += more
    assert read_environment() == Environment(5, 3, "SLURM_STEP_NUM_TASKS", addresses)


BAD = {
    "jax": [
        ("KERAS_DISTRIBUTION_NUM_PROCESSES", "two", "must be an integer >= 1"),
        ("KERAS_DISTRIBUTION_NUM_PROCESSES", "3", "has 2 addresses"),
        ("KERAS_DISTRIBUTION_PROCESS_ID", None, "must be an integer >= 0. Received: nothing"),
        ("KERAS_DISTRIBUTION_PROCESS_ID", "2", "must be below the number of processes"),
        ("KERAS_DISTRIBUTION_JOB_ADDRESSES", "", "must be addresses such as 'host:1234'"),
    ],
    "torch": [
        ("WORLD_SIZE", "", "must be an integer >= 1"),
        ("RANK", "-1", "must be an integer >= 0"),
        ("RANK", "2", "must be below the number of processes"),
        ("MASTER_ADDR", None, "must be the host of the process with `RANK` 0"),
        ("MASTER_PORT", "70000", "must be addresses such as 'host:1234'"),
    ],
}.get(BACKEND, [])


@pytest.mark.backends("jax", "torch")
@pytest.mark.parametrize("name, value, message", BAD)
def test_each_variable(monkeypatch, name, value, message):
    put(monkeypatch, {**TWO, name: value})
    with pytest.raises(ValueError, match=f"{message}.*Received: ") as e:
        read_environment()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "name, value",
    [
        ("SLURM_STEP_NUM_TASKS", "two"),
        ("SLURM_PROCID", "5"),
        ("SLURM_STEP_NODELIST", ""),
        pytest.param(*("SLURM_STEP_TASKS_PER_NODE", "2"), marks=pytest.mark.backends("tensorflow")),
    ],
)
def test_malformed_slurm(monkeypatch, name, value):
    put(monkeypatch, {**SLURM, name: value})
    with pytest.raises(ValueError, match=f"Received: {name}='{value}'"):
        auto()


def test_several_processes_are_not_one(monkeypatch):
    put(monkeypatch, TWO)
    name = next(iter(TWO))
    message = f"2 processes train together.*`multi_worker\\(\\)`.* Received: 2 .* by {name}"
    with pytest.raises(ValueError, match=message):
        data_parallel()
