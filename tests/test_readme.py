"""The README's code runs as it stands there."""

import pathlib
import re

import keras
import numpy as np

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_before_and_after(digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 2
    images, y = digits[0][:300], digits[1][:300]
    x = np.pad(255 * np.kron(images, np.ones((1, 3, 3, 1))), ((0, 0), (2, 2), (2, 2), (0, 0)))
    for block in blocks:
        names = {"keras": keras, "x": x, "y": y}
        exec(block.replace("epochs=30", "epochs=20, verbose=0"), names)
        assert names["model"].count_params() > 0
    assert (tmp_path / "model.tflite").stat().st_size > 10_000
