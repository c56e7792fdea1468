import pathlib
import re
import runpy
import sys

import cv2
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "05_pruning.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_prunes_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(sys, "argv", ["05_pruning.py", "--output", str(tmp_path), "--epochs", "2"])
    names = runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    assert re.search(r"After one more epoch with keep_zeros: 80\.\d% zeros", printed), printed
    assert names["smaller"]["80 % of all"] > 1.5
    for picture in ("sensitivity.png", "sparsity.png"):
        assert cv2.imread(str(tmp_path / picture)).std() > 10
    assert len(list(tmp_path.glob("*.tflite"))) == 3
