import os
import pathlib
import re
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[2] / "tutorials" / "09_distribution.py"


# In a process of its own, as devices must be made before anything else runs.
@pytest.mark.backends("tensorflow", "jax")
def test_every_variant_ends_as_one_device(tmp_path):
    environment = {**os.environ, "TFDS_DATA_DIR": str(tmp_path / "tfds")}
    command = [sys.executable, str(SCRIPT), "--epochs", "1", "--output", str(tmp_path)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    row = r"^(\S.*?) {2,}(\d\.\d{3}) +(\d\.\d{4}) +(\d\.\de[+-]\d\d) +\d+\.\d  ([\d, ]+)$"
    rows = re.findall(row, done.stdout, re.M)
    names = ["one device", "4 devices", "2 processes"]
    names += {
        "tensorflow": ["layers placed", "layers balanced"],
        "jax": ["weights split"],
    }[environment["KERAS_BACKEND"]]
    assert [name for name, *_ in rows] == names, done.stdout
    whole = 4 * (160 + 1024 * 64 + 64 + 650)
    for name, accuracy, _, gap, held in rows:
        assert accuracy == rows[0][1], done.stdout
        assert float(gap) < 1e-5, done.stdout
        sizes = [int(size.replace(",", "")) for size in held.split()]
        if name.startswith("layers"):
            assert len(sizes) == 2 and sum(sizes) == whole
        elif name == "weights split":
            assert len(sizes) == 4 and max(sizes) < 0.3 * whole
        else:
            assert set(sizes) == {whole}
