"""Several replicas and workers train as one does, and none is waited for that has gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import kclr
from kclr.spec import parse_spec
from kclr.stack import train
from kclr.training.distribution import Cluster
from kclr.training.workers import Task

# Everything that looks at a whole batch: mining, batch normalisation, standardisation, a queue, a
# learned temperature; and a layer in between that takes no steps.
SPEC = """
data: {source: photos, limit: 300}
stack:
  - block: {filters: 8, batch_norm: true}
    train: {steps: 60, batch_size: 32, log_every: 10, checkpoint_seconds: 0}
  - block: {filters: 8}
    learner: {name: patches, windows: 500}
  - block: {filters: 6, batch_norm: true}
    objective: {name: ntxent, learn_temperature: true, queue_size: 64}
    embedding: {pool: mean, standardize: true, head: [12, 6]}
    train: {steps: 20, batch_size: 16, log_every: 10}
"""

MIRRORED = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
from kclr.training.distribution import Cluster
from kclr.spec import load_spec
from kclr.stack import train

cluster = Cluster(tf.distribute.MirroredStrategy())
with cluster.strategy.scope():
    random = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.RandomFlip(seed=1)])
cluster.vary_seeds(random)
(state,) = random.variables
assert len({tuple(copy.numpy()) for copy in state.value.values}) == 2, "flips are alike"

run = train(load_spec(sys.argv[1], ["train.distribute=mirrored"]), sys.argv[2])
assert run.layers[0].facts["replicas"] == 2
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return train(parse_spec(SPEC), tmp_path_factory.mktemp("one") / "run")


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def assert_same(run, one):
    for found, expected in zip(kclr.load_run(run).layers, one.layers, strict=True):
        for name in ("kernel", "bias"):  # each by its own scale: a bias sums over a window
            mine, theirs = getattr(found, name), getattr(expected, name)
            np.testing.assert_allclose(mine, theirs, atol=1e-4 * np.abs(theirs).max())
        for row, other in zip(found.history(), expected.history(), strict=True):
            row.pop("seconds"), other.pop("seconds")
            assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


def started(*words):
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process):
    try:
        out, err = process.communicate(timeout=500)
    finally:
        process.kill()
    assert "Traceback" not in err, err[-3000:]
    return process.returncode, out + err


def wait_for_rows(out, rows, *processes):
    path = Path(out) / "metrics.jsonl"
    while all(process.poll() is None for process in processes):
        if path.exists() and len(path.read_text().splitlines()) >= rows:
            return
        time.sleep(0.02)
    raise AssertionError([process.communicate() for process in processes])


@pytest.mark.cluster
def test_two_devices_with_half_the_batch_train_as_one_with_the_whole(one, spec, tmp_path):
    status, words = ended(started("-c", MIRRORED, spec, tmp_path / "two"))
    assert status == 0, words
    assert_same(tmp_path / "two", one)


@pytest.mark.cluster
def test_a_killed_worker_ends_all_and_the_run_goes_on_to_the_kernels_of_one(one, spec, tmp_path):
    out = tmp_path / "run"
    words = ("-m", "kclr", "train", spec, "--out", out, "--workers", "2")
    launcher = started(*words)
    wait_for_rows(out, 2, launcher)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    killed = time.monotonic()
    status, said = ended(launcher)
    assert status == 1
    assert time.monotonic() - killed < 60  # a bound for a machine that is busy, too
    assert "worker 1 of 2 was ended by signal 9" in said
    assert "--workers 2 --resume" in said
    assert not (out / "summary.json").exists()
    status, said = ended(started(*words, "--resume"))
    assert status == 0, said
    assert_same(out, one)


def test_a_batch_that_does_not_divide_among_the_replicas_is_refused(monkeypatch, tmp_path):
    class Three(Cluster):
        replicas = 3

    monkeypatch.setattr("kclr.stack.open_cluster", lambda options: Three())
    with pytest.raises(kclr.SpecError) as caught:
        train(parse_spec(SPEC), tmp_path / "run")
    assert "stack.0.train.batch_size: 32 crops do not divide among 3 replicas. Use 33." in str(
        caught.value
    )
    assert "stack.2.train.batch_size: 16 crops" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_worker_with_other_images_is_refused(monkeypatch):
    cluster = Cluster(task=Task(1, 2))
    told = {"start": np.asarray(0), "total": np.asarray(7)}
    monkeypatch.setattr(cluster, "from_chief", lambda arrays: told)
    assert cluster.agreed(0, 7) == 0
    with pytest.raises(kclr.RunError, match="worker 1 of 2: its images make a training of 8 steps"):
        cluster.agreed(0, 8)
