"""What is said of latencies, on times that are made up."""

import numpy as np
import pytest

from keras_optkit.compression.export.findings import about_latency

RNG = np.random.default_rng(0)
# A machine that drifts by half over the rounds, which hits all files of a round alike.
DRIFT = np.linspace(1.0, 1.5, 50) * RNG.uniform(0.99, 1.01, 50)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [
        (0.8, "'other' faster (0.80 times"),
        (1.25, "'other' slower (1.25 times"),
        # Nearly always ahead, but by too little to hold in another process.
        (0.97, "'other' within noise (0.97 times"),
    ],
)
def test_between_models(factor, verdict):
    times = {("base", "int8"): DRIFT, ("other", "int8"): factor * DRIFT}
    (note,) = about_latency({"base": None, "other": None}, times)
    assert note.startswith("Latency of the int8 files against that of 'base' (")
    assert f": {verdict}, p = " in note


def test_a_few_slow_rounds_are_no_difference():
    other = DRIFT * RNG.choice([0.5, 2.0], 50)
    times = {("base", "int8"): DRIFT, ("other", "int8"): other}
    (note,) = about_latency({"base": None, "other": None}, times)
    assert "'other' within noise" in note


def test_between_the_files_of_a_model_and_without_any():
    times = {("base", "float32"): DRIFT, ("base", "int8"): DRIFT / 4}
    (note,) = about_latency({"base": None}, times)
    assert "files of 'base' against its float32 one" in note
    assert "int8 faster (0.25 times" in note
    assert about_latency({"base": None, "refused": None}, {}) == []
