import pathlib
import re
import runpy
import sys

import keras
import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "06_distillation.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_and_leaves_a_student(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--output", str(tmp_path), "--epochs", "2"])
    runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    rows = re.findall(r"^(\S.*?) {2,}([\d,]+) +(\d\.\d\d) +(\d\.\d{3})$", printed, re.M)
    assert [row[0] for row in rows] == ["teacher", "student alone", "student", "pruned"], printed
    assert [row[2] for row in rows] == ["0.00", "0.00", "0.00", "0.50"]
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert f"{loaded.count_params():,}" == rows[2][1]
    if keras.backend.backend() == "tensorflow":
        assert (tmp_path / "student.tflite").stat().st_size > 1000
