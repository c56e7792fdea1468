import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
import zlib

import keras
import keras_tuner
import numpy as np
import pytest

from keras_optkit import tuning
from keras_optkit.tuning.sent_data import dumps
from keras_optkit.tuning.workers import worker_environment


def statuses(tuner):
    return [trial.status for trial in tuner.oracle.trials.values()]


def test_workers_train_and_their_search_is_as_any_other(build, toy, tmp_path):
    kwargs = {"objective": "val_loss", "directory": str(tmp_path), "seed": 0}
    tuner = tuning.GridSearch(
        build, max_trials=3, workers=2, trial_pruner=tuning.MedianStopping(min_trials=9), **kwargs
    )
    tuner.search(*toy, validation_split=0.25, epochs=2, verbose=0)
    assert statuses(tuner) == ["COMPLETED"] * 3
    assert tuner.epochs_saved() == {"trials": 3, "pruned": 0, "epochs": 6, "saved": 0}
    x, y = toy
    best = tuner.oracle.get_best_trials()[0]
    (model,) = tuner.get_best_models()
    assert model.evaluate(x[48:], y[48:], verbose=0)[0] == pytest.approx(best.score, rel=1e-5)
    # One process goes on with it.
    one = tuning.GridSearch(build, max_trials=4, **kwargs)
    one.search(*toy, validation_split=0.25, epochs=1, verbose=0)
    assert statuses(one) == ["COMPLETED"] * 4


@pytest.mark.backends("tensorflow")
def test_trials_run_at_the_same_time_and_what_fails_or_dies_is_recorded(
    search_function, six_points, tmp_path
):
    # Sent by value, for nothing else is known of this test in another process.
    folder = str(tmp_path)

    def function(hp):
        pathlib.Path(folder, f"{os.getpid()}-{hp['a']}-{hp['b']}").touch()
        if (hp["a"], hp["b"]) == (1, 0):
            # Comes to its end only if another trial runs meanwhile.
            while not pathlib.Path(folder, "other").exists():
                time.sleep(0.01)
        pathlib.Path(folder, "other").touch()
        if (hp["a"], hp["b"]) == (2, 1):
            # The last point is left to the worker that comes in the place of the dead one.
            while not list(pathlib.Path(folder).glob("*-2-2")):
                time.sleep(0.01)
        if (hp["a"], hp["b"]) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        if hp["a"] == 2 and hp["b"] == 0:
            raise ArithmeticError("this point fails")
        return hp["a"] + hp["b"] + float(keras.random.uniform(()))

    tuner = search_function("GridSearch", function, six_points, workers=2)
    tuner.search(verbose=0)
    trials = {tuple(t.hyperparameters.values.values()): t for t in tuner.oracle.trials.values()}
    failed = {point: t.message for point, t in trials.items() if t.status == "FAILED"}
    assert set(failed) == {(1, 2), (2, 0)}
    assert "ended by SIGKILL, as when memory runs out" in failed[1, 2]
    assert "this point fails" in failed[2, 0]
    scores = {point: t.score for point, t in trials.items() if t.status == "COMPLETED"}
    assert sorted(scores) == [(1, 0), (1, 1), (2, 1), (2, 2)]
    for point, score in scores.items():
        # What a trial draws depends on the search's seed and on the trial alone.
        keras.utils.set_random_seed(zlib.crc32(f"0 {trials[point].trial_id}".encode()))
        assert score == pytest.approx(sum(point) + float(keras.random.uniform(())), abs=1e-6)
    ran = [path.name.split("-") for path in tmp_path.glob("*-*-*")]
    processes = {process for process, *_ in ran}
    # Two, and one in the place of the one that died; each point once, none of them here.
    assert len(ran) == 6 and len(processes) == 3 and str(os.getpid()) not in processes
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(int(process), 0)


@pytest.mark.backends("tensorflow")
def test_a_search_with_workers_that_is_killed_goes_on_and_leaves_no_worker(tmp_path):
    script = pathlib.Path(__file__).parent / "killed_workers.py"
    log = tmp_path / "log"
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as search:
        # Two trials have ended, and two run.
        while not log.exists() or len(log.read_text().splitlines()) < 6:
            assert search.poll() is None, search.stderr.read()
            time.sleep(0.05)
        search.kill()
    entries = [line.split() for line in log.read_text().splitlines()]
    workers = {int(process) for _, process, _ in entries}
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(pathlib.Path(f"/proc/{process}").exists() for process in workers):
        assert time.monotonic() < deadline, "a worker outlived its search"
        time.sleep(0.05)
    ended = {trial for what, _, trial in entries if what == "end"}
    (tmp_path / "go").touch()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    later = [line.split() for line in log.read_text().splitlines()][len(entries) :]
    begun = [trial for what, _, trial in later if what == "begin"]
    # What was finished does not run again, and what ran is repeated once.
    stored = {
        json.loads(path.read_text())["trial_id"]
        for path in tmp_path.glob("search/trial_*/trial.json")
    }
    assert sorted(begun) == sorted(stored - ended) and len(stored) == 6


@pytest.mark.backends("tensorflow")
def test_without_a_completed_trial_the_first_error_is_told(search_function, six_points):
    def function(hp):
        raise ArithmeticError("nothing works")

    kwargs = {"workers": 2, "max_trials": 1}
    tuner = search_function("GridSearch", function, six_points, **kwargs)
    with pytest.raises(RuntimeError, match="No trial completed(?s:.*)nothing works") as info:
        tuner.search(verbose=0)
    assert isinstance(info.value.__cause__, ArithmeticError)

    def ends_all(hp):
        raise keras_tuner.errors.FatalValueError("stop it all")

    tuner = search_function("GridSearch", ends_all, six_points, project_name="other", **kwargs)
    with pytest.raises(keras_tuner.errors.FatalValueError, match="stop it all"):
        tuner.search(verbose=0)


@pytest.mark.backends("tensorflow")
def test_a_dataset_is_sent_as_its_graph():
    import tensorflow as tf

    x = np.arange(10, dtype="float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, x)).map(lambda a, b: (a + 1, b)).batch(4)
    again = pickle.loads(dumps({"x": dataset}))["x"]
    assert int(again.cardinality()) == 3 and again.element_spec == dataset.element_spec
    for one, other in zip(dataset, again, strict=True):
        np.testing.assert_array_equal(one, other)
    python = dataset.map(lambda a, b: (tf.py_function(lambda v: v, [a], tf.float32), b))
    with pytest.raises(ValueError, match="calls Python cannot be.*Received: .*EagerPyFunc"):
        dumps(python)


def test_the_environment_of_a_worker(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    cores = len(os.sched_getaffinity(0))
    before = dict(os.environ)
    found = [worker_environment(i, 4) for i in range(4)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["2", "5", "7", "2"]
    assert {each["OMP_NUM_THREADS"] for each in found} == {"3"}
    assert {each["NPROC"] for each in found} == {str(max(1, cores // 4))}
    assert {each["KERAS_BACKEND"] for each in found} == {keras.backend.backend()}
    assert dict(os.environ) == before


def test_bad_input(build, toy, tmp_path, monkeypatch):
    kwargs = {"objective": "loss", "directory": str(tmp_path / "kept")}
    for workers, match in ((0, "workers=0"), (1.5, "workers=1.5"), (True, "workers=True")):
        with pytest.raises(ValueError, match=match):
            tuning.RandomSearch(build, **kwargs, workers=workers)
    tuner = tuning.RandomSearch(build, **kwargs, workers=2)
    with (tmp_path / "open").open("w") as file:
        with pytest.raises(ValueError, match="sent to other processes(?s:.*)PicklingError"):
            tuner.search(*toy, callbacks=[keras.callbacks.LambdaCallback(file.write)])
    assert not tuner.oracle.trials
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "127.0.0.1")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "1")
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    with pytest.raises(ValueError, match="one machine.*Received: workers=2"):
        tuning.RandomSearch(build, **kwargs, workers=2)
