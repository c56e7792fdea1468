import json
import pathlib
import re
import runpy
import sys

import cv2
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "08_tuning.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_searches_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    short = ["--output", str(tmp_path), "--trials", "3", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, *short])
    runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\S.*?) {2,}(\d\.\d{3})? +(\d\.\d{3})$", printed, re.M)
    assert [row[0] for row in rows] == ["as it was written", "bayesian", "grid"], printed
    # A line in each table for each trial.
    assert len(re.findall(r"^ +\d+  +\d\.\d{4} ", printed, re.M)) == 3 + 4
    assert len(json.loads((tmp_path / "grid" / "tuning.json").read_text())["trials"]) == 4
    for picture in ("objective", "parallel"):
        assert cv2.imread(str(tmp_path / "bayesian" / f"{picture}.png")).std() > 10
