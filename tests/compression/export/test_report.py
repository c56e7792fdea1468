"""A report's forms, and the lines that its user adds."""

import dataclasses
import json
import os

import numpy as np
import pytest

from keras_optkit.compression.export.measure import Accuracy, Latency
from keras_optkit.compression.export.report import FileStats, ModelStats, Report


@pytest.fixture
def report():
    accuracy = Accuracy(0.95, 100, 0.8882, 0.9785)
    latency = Latency(0.1234, 0.2, 50, 1, 1)
    file = FileStats(12_345, 6_789, accuracy, latency, ["ELU"])
    files = {"float32": file, "int8": FileStats(error="refused")}
    return Report(
        {
            "plain": ModelStats(10_000, 10_000, accuracy, 45_678, 40_000, {"float32": file}),
            "a|b": ModelStats(10_000, 2_500, accuracy, 45_678, 20_000, files),
        },
        ["One note."],
    )


def cells(text, label):
    line = next(line for line in text.splitlines() if label in line)
    return [cell for cell in line.replace("|", " ").replace(label, "").split("  ") if cell.strip()]


def test_text(report):
    text = str(report)
    assert [c.strip() for c in cells(text, "non-zero parameters")] == [
        "10,000 (100.0%)",
        "2,500 (25.0%)",
    ]
    assert "95.00% [88.82%, 97.85%]" in text
    assert "0.123 ms" in text
    assert [c.strip() for c in cells(text, "int8 latency, median")] == ["-", "-"]
    assert text.endswith("- One note.")
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_markdown(report):
    lines = report.to_markdown().splitlines()
    assert lines[0] == "|  | plain | a\\|b |"
    assert lines[1] == "| --- | ---: | ---: |"
    assert "| .keras bytes | 45,678 | 45,678 |" in lines
    assert lines[-1] == "- One note."
    assert len({line.replace("\\|", "").count("|") for line in lines if line[:1] == "|"}) == 1


def test_print(report, capsys):
    report.print()
    assert "One note." in capsys.readouterr().out


def test_added_lines(report):
    same = report.add("epochs to best", {"plain": np.int64(7)}).add("time", [1.25, 2], "{:.1f} s")
    report.add("verdict", ["good", None], lambda value: value.upper())
    assert same is report
    text = str(report)
    assert [c.strip() for c in cells(text, "epochs to best")] == ["7", "-"]
    assert [c.strip() for c in cells(text, "time")] == ["1.2 s", "2.0 s"]
    assert "| verdict | GOOD | - |" in report.to_markdown()
    added = report.to_dict()["models"]["plain"]["added"]
    assert added == {"epochs to best": 7, "time": 1.25, "verdict": "good"}


@pytest.mark.parametrize(
    ("name", "values", "format", "message"),
    [
        ("x", [1], "{}", "one entry for each"),
        ("x", "ab", "{}", "one entry for each"),
        ("x", {"plane": 1}, "{}", "Did you mean 'plain'"),
        ("x", [1, object()], "{}", "which JSON can hold"),
        ("x", ["a", 1], "{:.1f}", "`format` does not fit"),
        ("taken", [1, 2], "{}", "has that line already"),
    ],
)
def test_lines_that_cannot_be_added(report, name, values, format, message):
    report.add("taken", [1, 2])
    with pytest.raises(ValueError, match=rf"{message}.*Received"):
        report.add(name, values, format)
    assert list(report.to_dict()["models"]["plain"]["added"]) == ["taken"]


def test_json_round_trip(report, tmp_path):
    report.add("time", [1.5, None])
    report.save(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == report.to_dict()
    assert read["models"]["a|b"]["files"]["float32"]["latency"]["p95_ms"] == 0.2
    assert read["models"]["a|b"]["files"]["int8"]["error"] == "refused"
    assert os.listdir(tmp_path) == ["report.json"]


def test_markdown_file(report, tmp_path):
    report.save(tmp_path / "report.md")
    assert (tmp_path / "report.md").read_text() == report.to_markdown()


def test_unusable_path(report, tmp_path):
    with pytest.raises(ValueError, match=r"is a folder.*Received"):
        report.save(tmp_path)
    with pytest.raises(ValueError, match=r"written by `plot`.*Received"):
        report.save(tmp_path / "report.png")
    assert os.listdir(tmp_path) == []


def test_picture(report, tmp_path):
    from matplotlib.image import imread

    (tmp_path / "report.png").write_bytes(b"old")
    report.plot(tmp_path / "report.png")
    assert os.listdir(tmp_path) == ["report.png"]
    picture = imread(tmp_path / "report.png")
    assert picture.shape[:2] == (560, 1200)
    report.plot(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["other.png", "report.png"]


def test_pictures_that_cannot_be_drawn(report, tmp_path):
    with pytest.raises(ValueError, match=r"is a PNG file; name it so.*Received"):
        report.plot(tmp_path / "report.svg")
    with pytest.raises(ValueError, match=r"folder that does not exist.*Received"):
        report.plot(tmp_path / "no" / "report.png")
    empty = Report({"a": report.models["plain"].__class__(1, 1, None, 1, 1, {})})
    with pytest.raises(ValueError, match=r"nothing to draw.*Received"):
        empty.plot(tmp_path / "report.png")
    assert os.listdir(tmp_path) == []


def test_flops_line(report):
    plain = report.models["plain"]
    counted = Report({"a": dataclasses.replace(plain, flops=12_345_678), "b": plain})
    assert [c.strip() for c in cells(str(counted), "FLOPs")] == ["12,345,678", "-"]
    assert "| FLOPs | 12,345,678 | - |" in counted.to_markdown()
    assert counted.to_dict()["models"]["a"]["flops"] == 12_345_678
