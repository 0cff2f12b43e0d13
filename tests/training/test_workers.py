"""The workers of a cluster: what TF_CONFIG may say, and a cluster on one machine."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kclr.errors import RunError
from kclr.training.workers import Task, launch, task_from_environment

HOSTS = {"worker": ["10.0.0.1:1", "10.0.0.2:1"]}


def told(monkeypatch, cluster, kind, index):
    task = {"type": kind, "index": index}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    return task_from_environment()


def test_a_cluster_is_as_tensorflow_documents_it(monkeypatch):
    assert told(monkeypatch, HOSTS, "worker", 1) == Task(1, 2)
    apart = HOSTS | {"chief": ["10.0.0.3:1"]}
    assert told(monkeypatch, apart, "chief", 0) == Task(0, 3)
    assert told(monkeypatch, apart, "worker", 0) == Task(1, 3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "TF_CONFIG on each machine.*--workers 2"),
        ("{", "Write it as in"),
        ('{"cluster": {}}', "Write it as in"),
        ('{"cluster": {}, "task": {"type": "worker", "index": 1e400}}', "Write it as in"),
        ("[" * 100_000, "Write it as in"),
        (json.dumps({"cluster": HOSTS, "task": {"type": "ps", "index": 0}}), "type is 'ps'"),
        (json.dumps({"cluster": HOSTS, "task": {"type": "worker", "index": 2}}), "Count from 0"),
    ],
)
def test_a_wrong_cluster_is_said_with_the_cure(monkeypatch, text, words):
    if text is None:
        monkeypatch.delenv("TF_CONFIG", raising=False)
    else:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(RunError, match=words):
        task_from_environment()


def worker(body):
    start = (
        "import json, os, signal, time; i = json.loads(os.environ['TF_CONFIG'])['task']['index']"
    )
    return [sys.executable, "-c", f"{start}\n{body}"]


def test_workers_that_end_well_are_waited_for():
    launch(worker("time.sleep(0.2 * i)"), 3, "again")


def test_a_worker_that_is_killed_ends_the_others_and_is_named(monkeypatch):
    monkeypatch.setattr("kclr.training.workers.GRACE_SECONDS", 0.1)
    body = "os.kill(os.getpid(), signal.SIGKILL) if i == 1 else time.sleep(60)"
    with pytest.raises(
        RunError, match=r"worker 1 of 2 was ended by signal 9.*Continue with: again"
    ):
        launch(worker(body), 2, "again")


def test_a_worker_that_fails_by_itself_has_the_word():
    body = "if i == 1: raise SystemExit('no images here')\ntime.sleep(0.5)\nraise SystemExit(1)"
    with pytest.raises(RunError, match=r"worker 1 of 2 failed with status 1(.|\n)*no images here"):
        launch(worker(body), 2, "again")


def test_a_chief_that_fails_has_said_why_and_its_status_counts():
    with pytest.raises(SystemExit) as caught:
        launch(worker("raise SystemExit(2) if i == 0 else SystemExit(time.sleep(0.3))"), 2, "again")
    assert caught.value.code == 2


def test_an_interruption_ends_all_workers():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            launch(worker("time.sleep(60)"), 2, "again")
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems leave the workers")
def test_workers_end_when_whoever_launched_them_is_killed(tmp_path):
    body = f"open({str(tmp_path)!r} + f'/{{i}}', 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"from kclr.training.workers import launch; launch({worker(body)!r}, 2, 'again')"
    with subprocess.Popen([sys.executable, "-c", code]) as launcher:
        while len(found := [path.read_text() for path in tmp_path.iterdir()]) < 2 or "" in found:
            time.sleep(0.02)
        launcher.kill()
    while any(running(pid) for pid in found):
        time.sleep(0.02)


def running(pid):
    """Whether a process is there, and not only its exit status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
