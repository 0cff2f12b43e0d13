"""Searches in processes of their own that are killed: nothing that was finished is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from kclr.search.running import run_search
from kclr.spec import parse_spec


def command(spec, *words):
    words = [sys.executable, "-m", "kclr", "search", str(spec), "--out", "s", *words]
    return subprocess.Popen(
        words, cwd=spec.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait(process, condition):
    while not (found := condition()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    return found


def outcome(found):
    return [(row["values"], row["score"]) for row in found["rows"]]


@pytest.mark.cluster
def test_a_search_that_was_killed_ends_as_one_that_was_not(steps, tmp_path):
    steps["search"] |= {"tuner": "random", "trials": 2, "objective": "loss"}
    steps["probe"] = None
    steps["stack"][0]["train"] |= {"steps": 60, "checkpoint_seconds": 0}
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(steps))
    process = command(spec)
    # In the midst of the second trial.
    state = "*/trial_1/run/checkpoints/*.npz"
    wait(process, lambda: [*(tmp_path / "s").glob(state)])
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "s/search.json").exists()

    def run(out, **options):
        text = spec.read_text()
        return run_search(parse_spec(text), steps, out, text, **options)

    assert outcome(run(tmp_path / "s", resume=True)) == outcome(run(tmp_path / "whole"))


def worker(process, name):
    """The process of a worker, among the children of `process`."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"KERASTUNER_TUNER_ID={name}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    return None


@pytest.mark.cluster
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for the workers in /proc")
def test_a_worker_that_is_killed_is_started_again_and_its_trial_goes_on(steps, tmp_path):
    steps["search"] |= {"tuner": "random", "trials": 2, "objective": "loss", "keep": 9}
    steps["probe"] = None
    steps["stack"][0]["train"] |= {"steps": 150, "checkpoint_seconds": 0}
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(steps))
    process = command(spec, "--workers", "2")
    # The first worker's trial has begun where the oracle says so and a checkpoint is there.
    oracle = tmp_path / "s/01-*/oracle.json"

    def begun():
        for path in tmp_path.glob(str(oracle.relative_to(tmp_path))):
            trial = json.loads(path.read_text())["ongoing_trials"].get("tuner0")
            if trial and [*path.parent.glob(f"trial_{trial}/run/checkpoints/*.npz")]:
                return trial
        return None

    trial = wait(process, begun)
    os.kill(worker(process, "tuner0"), signal.SIGKILL)
    out = process.communicate()[0]
    assert process.returncode == 0, out
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert [row["status"] for row in found["rows"]] == ["COMPLETED"] * 2
    assert all(row["complete"] for row in found["rows"])
    # Its checkpoint was gone on from: the history of the run has every row once.
    run = next((tmp_path / "s").glob(f"*/trial_{trial}/run"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(3, 151, 3)]
    assert (tmp_path / "s/best.yaml").exists()
