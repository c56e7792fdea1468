import json
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.backends("tensorflow")
def test_a_chief_and_workers_search_together_though_one_is_killed(tmp_path):
    script = pathlib.Path(__file__).parent / "chief_and_workers.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout.splitlines()[-1])
    # Every point once, though messages round 0.1 to 32 bits.
    points = sorted((round(values["a"], 6), values["b"]) for _, values, *_ in trials)
    assert points == [(a / 10, b) for a in range(1, 6) for b in (1, 2)]
    log = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(trial for _, trial in log) == sorted(trial for trial, *_ in trials)
    assert {worker for worker, _ in log} == {"worker0", "worker1"}
    # The trial that was killed is the one that its worker began with again.
    assert next(t for w, t in log if w == "worker1") == (tmp_path / "killed").read_text()
    failed = [(status, message) for *_, status, _, message in trials if status != "COMPLETED"]
    assert [status for status, _ in failed] == ["FAILED"]
    assert "this point fails" in failed[0][1]
