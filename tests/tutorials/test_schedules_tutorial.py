import pathlib
import re
import runpy
import sys

import cv2
import pytest

from keras_optkit import schedules

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "03_schedules.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    arguments = ["--output", tmp_path / "out", "--epochs", 1, "--seeds", 1]
    arguments += ["--optimizers", "SGD"]
    monkeypatch.setattr(sys, "argv", ["03_schedules.py", *map(str, arguments)])
    names = runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    assert re.search(r"^SGD( +\d+\.\d\d){3}$", printed, re.M), printed
    for picture in ("schedules.png", "range_test.png"):
        image = cv2.imread(str(tmp_path / "out" / picture))
        assert image.shape[1] > 900
        assert image.std() > 10
    kinds = (getattr(schedules, name) for name in schedules.__all__)
    kinds = {k.__name__ for k in kinds if isinstance(k, type) and issubclass(k, schedules.Schedule)}
    assert set(names["PICTURE"]) == kinds - {"Schedule"}
