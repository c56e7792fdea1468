import json
import pathlib
import re
import runpy
import sys

import cv2
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "04_stopping.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_and_goes_on_after_a_kill(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    arguments = ["--output", tmp_path / "out", "--epochs", 2, "--seeds", 1, "--budget", "1s"]
    monkeypatch.setattr(sys, "argv", ["04_stopping.py", *map(str, arguments)])
    names = runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    for name in (*names["STOPS"], *names["AVERAGES"]):
        assert re.search(rf"^{re.escape(name)} .*\d\.\d\d", printed, re.M), printed
    assert "Broken off in epoch 2" in printed
    assert "The same weights as in one go: True" in printed
    folder = tmp_path / "out" / "report"
    report = json.loads((folder / "training.json").read_text())
    assert report["history"]["epoch"] == [1, 2]
    assert "resumed" in [event["kind"] for event in report["events"]]
    assert cv2.imread(str(folder / "training.png")).shape[1] > 900
