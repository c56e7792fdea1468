"""What the environment says of other processes."""

import keras
import pytest

from keras_optkit.distribution import auto
from keras_optkit.distribution.environment import processes

CLUSTER = '"cluster": {"worker": ["a:1", "b:1"]}'


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"cluster": []}',
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
        "{" + CLUSTER + "}",
        "{" + CLUSTER + ', "task": {"type": "worker", "index": 2}}',
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
    assert processes() == (1, "TF_CONFIG")


def test_several_processes_are_not_one(monkeypatch):
    name, value = {
        "tensorflow": ("TF_CONFIG", "{" + CLUSTER + ', "task": {"type": "worker", "index": 1}}'),
        "jax": ("KERAS_DISTRIBUTION_NUM_PROCESSES", "2"),
        "torch": ("WORLD_SIZE", "2"),
    }[keras.backend.backend()]
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"2 processes train together.* Received: 2 .* by {name}"):
        auto()


def test_a_count_that_is_none(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "two")
    with pytest.raises(ValueError, match="Received: SLURM_STEP_NUM_TASKS='two'"):
        auto()
