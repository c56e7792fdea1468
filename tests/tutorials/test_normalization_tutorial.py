import importlib.util
import pathlib
import re
import sys

import cv2
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "02_normalization.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    spec = importlib.util.spec_from_file_location("normalization_tutorial", SCRIPT)
    tutorial = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tutorial)
    monkeypatch.setattr(tutorial, "EPOCHS", 3)
    monkeypatch.setattr(tutorial, "SEEDS", 1)
    monkeypatch.setattr(tutorial, "BATCHES", (128, 256))
    monkeypatch.setattr(sys, "argv", ["02_normalization.py", "--output", str(tmp_path / "out")])
    tutorial.main()
    printed = capsys.readouterr().out
    for name in tutorial.NORMS:
        assert len(re.findall(rf"^ +\d+  {name} +\d+\.\d%", printed, re.M)) == 2, printed
    assert "norms 4 before, 0 after" in printed
    difference = float(re.search(r"difference of a logit (\S+)", printed)[1])
    assert difference < 1e-4
    image = cv2.imread(str(tmp_path / "out" / "curves.png"))
    assert image.shape[1] > 1000
    assert image.std() > 10
