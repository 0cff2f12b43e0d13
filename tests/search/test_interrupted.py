"""Searches in processes of their own that are killed: nothing that was finished is lost."""

import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import yaml

from kclr.cli import main
from kclr.search.running import run_search
from kclr.spec import parse_spec
from tests.processes import Forked


def wait(condition):
    while not (found := condition()):
        time.sleep(0.01)
    return found


def outcome(found):
    return [(row["values"], row["score"]) for row in found["rows"]]


@pytest.mark.full
def test_a_search_that_was_killed_ends_as_one_that_was_not(steps, tmp_path):
    steps["search"] |= {"tuner": "random", "trials": 2, "objective": "loss"}
    steps["probe"] = None
    steps["stack"][0]["train"] |= {"steps": 30, "checkpoint_seconds": 0}
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(steps))
    process = Forked(["search", spec, "--out", tmp_path / "s"])
    # In the midst of the second trial.
    state = "*/trial_1/run/checkpoints/*.npz"
    wait(lambda: [*(tmp_path / "s").glob(state)] or process.poll() is not None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "s/search.json").exists()

    def run(out, **options):
        text = spec.read_text()
        return run_search(parse_spec(text), steps, out, text, **options)

    assert outcome(run(tmp_path / "s", resume=True)) == outcome(run(tmp_path / "whole"))


def test_a_worker_that_is_killed_is_started_again_and_its_trial_goes_on(
    steps, tmp_path, monkeypatch
):
    steps["search"] |= {"tuner": "random", "trials": 2, "objective": "loss", "keep": 9}
    steps["probe"] = None
    steps["stack"][0]["train"] |= {"steps": 60, "checkpoint_seconds": 0}
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(steps))
    started = []

    def start(*arguments, env, **options):
        started.append((env["KERASTUNER_TUNER_ID"], Forked(*arguments, env=env, **options)))
        return started[-1][1]

    monkeypatch.setattr("kclr.search.workers.subprocess.Popen", start)

    def begun():
        """The first worker's trial, where the oracle says so and a checkpoint is there."""
        for path in tmp_path.glob("s/01-*/oracle.json"):
            trial = json.loads(path.read_text())["ongoing_trials"].get("tuner0")
            if trial and [*path.parent.glob(f"trial_{trial}/run/checkpoints/*.npz")]:
                return trial
        return None

    def kill():
        trial = wait(lambda: begun() or not running.is_set())
        os.kill(dict(started)["tuner0"].pid, signal.SIGKILL)
        return trial

    running = Event()
    running.set()
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill)
        status = main(["search", str(spec), "--out", str(tmp_path / "s"), "--workers", "2"])
        running.clear()
    assert status == 0
    assert [name for name, _ in started].count("tuner0") == 2
    found = json.loads((tmp_path / "s/search.json").read_text())
    assert [row["status"] for row in found["rows"]] == ["COMPLETED"] * 2
    assert all(row["complete"] for row in found["rows"])
    # Its checkpoint was gone on from: the history of the run has every row once.
    run = next((tmp_path / "s").glob(f"*/trial_{killed.result()}/run"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(3, 61, 3)]
    assert (tmp_path / "s/best.yaml").exists()
