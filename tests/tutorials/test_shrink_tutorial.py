import pathlib
import re
import runpy
import sys

import pytest

from keras_optkit.export import LiteRTModel

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "07_shrink.py"


@pytest.mark.backends("tensorflow")
def test_it_runs_and_leaves_smaller_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setattr(sys, "argv", [SCRIPT.name, "--output", str(tmp_path), "--epochs", "2"])
    names = runpy.run_path(str(SCRIPT))
    printed = capsys.readouterr().out
    assert re.search(r"operations \((4\d\.\d|50\.0)% stay\)", printed), printed
    assert "ms on LiteRT" in printed
    sizes = {p.stem: p.stat().st_size for p in tmp_path.glob("*.tflite")}
    assert len(sizes) == 8
    assert sizes["gradual_float32"] < sizes["half_float32"] < 0.7 * sizes["original_float32"]
    assert 0 < names["gone"] <= 1 or "0% of the channels" in printed
    lite = LiteRTModel(tmp_path / "half_int8.tflite")
    assert lite.predict(names["test"][0][:5]).shape == (5, 10)
