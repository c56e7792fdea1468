"""The README's code runs as it stands there."""

import pathlib
import re

import keras
import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_before_and_after(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 300)
    x = rng.uniform(0, 255, size=(300, 28, 28, 1)).astype("float32")
    for block in blocks:
        names = {"keras": keras, "x": x, "y": y}
        exec(block.replace("epochs=30", "epochs=20, verbose=0"), names)
        assert names["model"].count_params() > 0
    assert (tmp_path / "model.tflite").stat().st_size > 10_000
