"""The launcher, with scripts that import nothing heavy."""

import json
import os
import subprocess
import sys
import time

import pytest

from keras_optkit.distribution.launch import environments, launch, main

ARRIVE = "import os, pathlib\npathlib.Path(os.environ['KERAS_OPTKIT_ARRIVALS'], ME).touch()\n"
PRELUDE = "import os, sys, time, json\nME = json.loads(os.environ['TF_CONFIG'])['task']['index']\n"
# Waits for the other, and would do so for ever; SIGTERM does not end it.
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(100)\n"


@pytest.fixture(autouse=True)
def _notice_at_once(monkeypatch):
    monkeypatch.setattr(sys.modules[launch.__module__], "_TO_NOTICE", 0.5)


@pytest.fixture
def script(tmp_path):
    def write(first, second, arrive=True):
        path = tmp_path / "script.py"
        arrive = ARRIVE.replace("ME", "str(ME)") if arrive else ""
        blocks = "\n".join(f"    {line}" for line in first.splitlines())
        others = "\n".join(f"    {line}" for line in second.splitlines())
        path.write_text(f"{PRELUDE}{arrive}if ME == 0:\n{blocks}\nelse:\n{others}\n")
        return str(path)

    return write


def run(command, **kwargs):
    """Launches on any backend; the scripts know themselves by `TF_CONFIG`."""
    start = time.monotonic()
    code = launch(command, **{"backend": "tensorflow", "grace": 0.5, **kwargs})
    return code, time.monotonic() - start


def test_output_has_the_number_of_its_worker(script, capfd):
    path = script("print('one', *sys.argv[1:])", "print('two', file=sys.stderr)")
    code, _ = run([path, "--epochs", "3"])
    out, err = capfd.readouterr()
    assert code == 0
    assert out == "[0] one --epochs 3\n"
    assert err == "[1] two\n"


def test_a_worker_that_fails_ends_the_others(script, capfd):
    code, seconds = run([script("time.sleep(100)", "sys.exit(7)")])
    assert code == 7
    assert seconds < 20
    assert "Worker 1 ended with exit code 7; the others are ended.\n" in capfd.readouterr().err


def test_the_others_have_time_to_say_what_they_noticed(script, capfd, monkeypatch):
    monkeypatch.setattr(sys.modules[launch.__module__], "_TO_NOTICE", 20)
    path = script("time.sleep(1)\nprint('noticed', file=sys.stderr)\nsys.exit(5)", "sys.exit(3)")
    code, seconds = run([path])
    assert code == 3
    assert "[0] noticed" in capfd.readouterr().err
    # And no more than they need.
    assert seconds < 15


def test_a_worker_that_is_killed_ends_even_those_that_will_not(script, capfd):
    path = script(STUBBORN, "time.sleep(0.5)\nos.kill(os.getpid(), 9)")
    code, seconds = run([path])
    assert code == 137
    assert seconds < 20
    told = capfd.readouterr().err
    assert "Worker 1 was ended by SIGKILL; the others are ended." in told
    assert "Worker 0 did not end within 0.5 s of SIGTERM (--grace) and is killed." in told


def test_what_a_worker_started_ends_too(script, tmp_path):
    child = tmp_path / "child"
    start = "import subprocess\n" + (
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"open({str(child)!r}, 'w').write(str(p.pid))\ntime.sleep(100)"
    )
    wait = f"while not os.path.exists({str(child)!r}):\n    time.sleep(0.05)\nsys.exit(1)"
    run([script(start, wait)])
    pid = int(child.read_text())
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return
        except OSError:
            return
        time.sleep(0.05)
    pytest.fail("it runs on")


def test_a_worker_that_never_comes(script, capfd):
    path = script(ARRIVE.replace("ME", "'0'") + "time.sleep(100)", "time.sleep(100)", arrive=False)
    code, seconds = run([path], startup_timeout=1)
    assert code == 124
    assert seconds < 20
    told = capfd.readouterr().err
    assert "Worker 1 did not come to `multi_worker` within 1 s of worker 0" in told


def test_a_worker_that_leaves_without_coming(script, capfd):
    path = script(ARRIVE.replace("ME", "'0'") + "time.sleep(100)", "pass", arrive=False)
    assert run([path])[0] == 1
    assert "Worker 1 ended, with exit code 0, and never came" in capfd.readouterr().err


@pytest.mark.parametrize("number, code", [(2, 130), (15, 143)])
def test_a_signal_to_the_launcher_ends_all(script, tmp_path, number, code):
    path = script("time.sleep(100)", "os.kill(os.getppid(), int(sys.argv[1]))\ntime.sleep(100)")
    text = (
        "import sys; from keras_optkit.distribution.launch import launch; "
        f"sys.exit(launch([{path!r}, '{number}'], backend='tensorflow', grace=5))"
    )
    done = subprocess.run([sys.executable, "-c", text], timeout=60)
    assert done.returncode == code


def test_the_environment_of_each_backend(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    first, second = environments(2, "tensorflow")
    config = json.loads(second["TF_CONFIG"])
    assert config["task"] == {"type": "worker", "index": 1}
    workers = config["cluster"]["worker"]
    assert len(set(workers)) == 2
    assert json.loads(first["TF_CONFIG"])["cluster"] == config["cluster"]
    assert first["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    _, second = environments(2, "jax")
    assert second["KERAS_DISTRIBUTION_NUM_PROCESSES"] == "2"
    assert second["KERAS_DISTRIBUTION_PROCESS_ID"] == "1"
    assert second["KERAS_DISTRIBUTION_JOB_ADDRESSES"].startswith("127.0.0.1:")
    _, second = environments(2, "torch")
    assert (second["WORLD_SIZE"], second["RANK"], second["LOCAL_RANK"]) == ("2", "1", "1")
    assert second["MASTER_ADDR"] == "127.0.0.1"
    assert 0 < int(second["MASTER_PORT"]) < 65536


def test_threads_that_the_user_chose_stay(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in environments(2, "torch")[0]


def test_command_line(script, capfd):
    path = script("print(*sys.argv[1:])", "sys.exit(3)")
    arguments = ["launch", "--workers", "2", "--backend", "tensorflow", path, "--workers", "9"]
    assert main(arguments) == 3
    with pytest.raises(SystemExit):
        main(["launch", "nothing.py"])
    assert "There is no such script. Received: nothing.py" in capfd.readouterr().err


@pytest.mark.parametrize(
    "bad, message",
    [
        ({"workers": 0}, "Received: workers=0"),
        ({"workers": True}, "Received: workers=True"),
        ({"backend": "theano"}, "tensorflow, jax, torch. Received: backend='theano'"),
        ({"startup_timeout": 0}, "Received: startup_timeout=0"),
        ({"grace": float("nan")}, "grace=nan"),
    ],
)
def test_bad_arguments(bad, message):
    with pytest.raises(ValueError, match=message):
        launch([__file__], **bad)
