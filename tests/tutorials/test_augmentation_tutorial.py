import pathlib
import re
import runpy
import sys

import cv2
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "01_augmentation.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_and_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    out = tmp_path / "out"
    arguments = ["--output", out, "--epochs", 2, "--seeds", 1, "--share", 10]
    monkeypatch.setattr(sys, "argv", ["01_augmentation.py", *map(str, arguments)])
    names = runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    for choice in names["CHOICES"]:
        assert re.search(rf"^  {choice} +\d+\.\d\d%", printed, re.M), printed
    for picture in ("samples.png", "curves.png"):
        image = cv2.imread(str(out / picture))
        assert image.shape[1] > 600
        assert image.std() > 10
