"""The main job from the command line: what it writes, and what it says to bad input."""

import json
import pathlib
import re
import subprocess
import sys

import cv2
import keras
import numpy as np
import pytest

TUTORIALS = pathlib.Path(__file__).parents[2] / "tutorials"
NAMES = ["curves.png", "report.json"] + [
    name + ending
    for name in ("plain", "with_parts")
    for ending in (".keras", ".tflite", "_int8.tflite")
]


@pytest.fixture
def quickstart(monkeypatch, tmp_path, capsys):
    """Runs the script in this process; returns its exit code, output and errors."""
    monkeypatch.syspath_prepend(str(TUTORIALS))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))

    def run(*arguments):
        import quickstart
        import side_by_side

        monkeypatch.setattr(sys, "argv", ["quickstart.py", *map(str, arguments)])
        code = 0
        try:
            side_by_side.run(
                {"plain": quickstart.plain, "with parts": quickstart.with_parts}, "Quickstart."
            )
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def folder(tmp_path):
    """A folder of two classes of small pictures that are easy to tell apart, one file broken."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            picture = np.clip(rng.normal(level, 30, size=(12, 10, 3)), 0, 255).astype("uint8")
            cv2.imwrite(str(tmp_path / "images" / name / f"{i}.png"), picture)
    (tmp_path / "images" / "dark" / "broken.png").write_bytes(b"not a picture")
    return tmp_path / "images"


# As the other tutorials: its parts are tested on each backend by themselves.
@pytest.mark.backends("tensorflow")
# A set this small trains for fewer steps than pruning likes to refresh its masks.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_own_images_from_folder_to_report(quickstart, folder, tmp_path):
    output = tmp_path / "results" / "run"
    arguments = ["--data-dir", folder, "--image-size", 16, "--epochs", 3, "--seeds", 2]
    code, printed, errors = quickstart(*arguments, "--output", output)
    assert code == 0, errors
    assert "Skipped 1 files that are no readable image: dark/broken.png" in printed
    assert "Accuracy, 2 seeds: " in printed and "Time: " in printed
    assert sorted(path.name for path in output.iterdir()) == sorted(NAMES)
    result = json.loads((output / "report.json").read_text())
    assert len(result["runs"]["plain"]) == len(result["runs"]["with parts"]) == 2
    assert "epochs to the best of 'plain'" in result["report"]["models"]["plain"]["added"]
    assert cv2.imread(str(output / "curves.png")).shape[0] > 500
    model = keras.models.load_model(output / "with_parts.keras")
    assert model.input_shape == (None, 16, 16, 3)
    nonzero = result["report"]["models"]["with parts"]["nonzero"]
    assert nonzero < result["report"]["models"]["with parts"]["parameters"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "-3"], "argument --epochs: must be a whole number .* not '-3'"),
        (["--epochs", "ten"], "not 'ten'"),
        (["--seeds", "0"], "not '0'"),
        (["--dataset", "fashion_mnits"], "fashion_mnist"),
        (["--dataset", "mnist"], "download=True"),
        (["--data-dir", "no/such/folder"], "there is no such folder.*no/such/folder"),
        (["--dataset", "mnist", "--data-dir", "x"], "not allowed with"),
        (["--color"], "unrecognized arguments: --color"),
    ],
)
def test_bad_input_is_told_in_one_line(quickstart, tmp_path, arguments, message):
    output = tmp_path / "results"
    code, _, errors = quickstart(*arguments, "--output", output)
    assert code == 2
    (line,) = errors.strip().splitlines()
    assert line.startswith("quickstart: ")
    assert re.search(message, line), line
    assert not output.exists()


def test_a_folder_with_one_class(quickstart, folder, tmp_path):
    for path in (folder / "light").iterdir():
        path.unlink()
    (folder / "light").rmdir()
    code, _, errors = quickstart("--data-dir", folder, "--output", tmp_path / "results")
    assert code == 2 and len(errors.strip().splitlines()) == 1
    assert "at least two classes" in errors and str(folder) in errors
    assert not (tmp_path / "results").exists()


def test_an_output_folder_that_cannot_be_written(quickstart, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, errors = quickstart("--output", tmp_path / "file" / "results")
    assert code == 2 and len(errors.strip().splitlines()) == 1
    assert "cannot write to the output folder" in errors


@pytest.mark.backends("tensorflow")
def test_the_exit_code_of_the_script_itself(tmp_path):
    script = [sys.executable, str(TUTORIALS / "quickstart.py"), "--epochs", "0"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("quickstart: argument --epochs")
    assert not list(tmp_path.iterdir())
