"""The `>>>` examples of the docstrings run, and give what they say."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest

import keras_optkit

MODULES = [
    module.name
    for module in pkgutil.walk_packages(keras_optkit.__path__, "keras_optkit.")
    if not module.name.endswith("worker")
]


@pytest.fixture(scope="module")
def names():
    """What the examples may use without saying where it comes from."""
    layers = [keras.layers.Dense(8, name="hidden"), keras.layers.Dense(3, name="head")]
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    cosine = keras_optkit.schedules.CosineDecay
    return {"np": np, "keras": keras, "model": model, "CosineDecay": cosine}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, names, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Nothing imports the engine of another backend, which need not be installed.
        if error.name not in {"tensorflow", "jax", "torch"} - {keras.backend.backend()}:
            raise
        pytest.skip(f"{error.name} is not installed")
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report = []
    for test in doctest.DocTestFinder().find(module, extraglobs=names):
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
