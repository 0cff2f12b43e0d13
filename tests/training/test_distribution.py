"""Several replicas and workers train as one does, and none is waited for that has gone."""

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import kclr
from kclr.cli import main
from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import as_images
from kclr.objectives.triplet import Triplet
from kclr.spec import load_spec, parse_spec
from kclr.stack import train
from kclr.training.distribution import Cluster
from kclr.training.workers import Task
from tests.processes import Forked

# Everything that looks at a whole batch: mining, batch normalisation, standardisation, a queue, a
# learned temperature; and a layer in between that takes no steps. Mining takes all triplets, with
# a soft margin: a choice that is near enough to another is made by rounding, and what comes after
# it differs by 2e-3.
SPEC = """
data: photos
stack:
  - block: {filters: 8, batch_norm: true}
    objective: {name: triplet, mining: all, margin: soft}
    train: {steps: 12, batch_size: 32, log_every: 4, checkpoint_seconds: 0}
  - block: {filters: 8}
    learner: {name: patches, windows: 500}
  - block: {filters: 6, batch_norm: true}
    objective: {name: ntxent, learn_temperature: true, queue_size: 64}
    embedding: {pool: mean, standardize: true, head: [12, 6]}
    train: {steps: 4, batch_size: 16, log_every: 2}
"""

FIRST = SPEC[: SPEC.index("  - block: {filters: 8}")]

# No batch norm: a replica's own crops are all that it sees.
APART = """
data: {source: photos, limit: 300}
train: {gather: false, shard: file}
stack:
  - block: {filters: 6}
    train: {steps: 12, batch_size: 16, log_every: 4}
"""


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return train(parse_spec(SPEC), tmp_path_factory.mktemp("one") / "run", bare=True)


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture
def workers(monkeypatch):
    """The workers that `--workers` starts, which are forked."""
    started = []

    def start(*arguments, preexec_fn=None, **options):
        started.append(Forked(*arguments, **options))
        return started[-1]

    monkeypatch.setattr("kclr.training.workers.subprocess.Popen", start)
    return started


def assert_same(run, one):
    """Up to rounding, which is some 2e-6 of an array's largest number.

    Where it decides a choice, as that of a pool's maximum, that becomes 1e-4 (2e-3 where negatives
    are mined). Shares of pairs move by whole pairs.
    """
    for found, expected in zip(kclr.load_run(run).layers, one.layers, strict=True):
        for name in ("kernel", "bias"):  # each by its own scale: a bias sums over a window
            mine, theirs = getattr(found, name), getattr(expected, name)
            np.testing.assert_allclose(mine, theirs, atol=1e-3 * np.abs(theirs).max())
        for row, other in zip(found.history(), expected.history(), strict=True):
            for name in row.keys() - {"seconds"}:
                share = name.endswith(("share", "accuracy"))
                bound = pytest.approx(other[name], rel=1e-3, abs=2e-3 if share else 1e-4)
                assert row[name] == bound, name


def mirrored(words):
    """Train on two devices, in a process in which TensorFlow has none yet."""
    import keras
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    cluster = Cluster(tf.distribute.MirroredStrategy())
    with cluster.strategy.scope():
        random = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.RandomFlip(seed=1)])
    cluster.vary_seeds(random)
    (state,) = random.variables
    assert len({tuple(copy.numpy()) for copy in state.value.values}) == 2, "flips are alike"
    run = train(load_spec(words[0], ["train.distribute=mirrored"]), words[1], bare=True)
    assert run.layers[0].facts["replicas"] == 2


def test_two_devices_with_half_the_batch_train_as_one_with_the_whole(one, spec, tmp_path):
    process = Forked((spec, tmp_path / "two"), run=mirrored, stderr=subprocess.PIPE)
    said = process.communicate()
    assert process.returncode == 0, said
    assert_same(tmp_path / "two", one)


def replicated(words):
    """Fit a model on two devices and on one."""
    import keras
    import tensorflow as tf

    from kclr.layers import ContrastiveConvBlock
    from kclr.losses import ContrastiveLoss
    from kclr.model import TripletModel

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    rng = np.random.default_rng(0)
    half = rng.random((8, 4, 7, 7, 3)).astype("float32")
    # Each replica sees the same half, so two of them must do what one does.
    patches, images = np.concatenate([half, half]), np.tile(np.arange(8), 2)

    def kernel_and_loss(strategy, patches, images):
        with strategy.scope():
            initializer = keras.initializers.GlorotUniform(1)
            model = TripletModel(ContrastiveConvBlock(4, 6, kernel_initializer=initializer))
            model.compile("sgd", loss=ContrastiveLoss(mining="hardest"))
        data = tf.data.Dataset.from_tensor_slices((patches, images)).batch(len(patches), True)
        losses = [model.fit(data, verbose=0).history["loss"][0] for _ in range(3)]
        return model.encoder.kernel.numpy(), losses

    two = kernel_and_loss(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), patches, images)
    one = kernel_and_loss(tf.distribute.get_strategy(), half, images[:8])
    np.testing.assert_allclose(two[1], one[1], rtol=1e-4)
    np.testing.assert_allclose(two[0], one[0], atol=1e-5)


@pytest.mark.full
def test_a_model_of_two_replicas_takes_the_steps_of_one():
    process = Forked((), run=replicated, stderr=subprocess.PIPE)
    said = process.communicate()
    assert process.returncode == 0, said


def replicated_list(words):
    """Fit a list of objectives that take labels, turns and maps, on two devices and on one."""
    import keras
    import tensorflow as tf

    from kclr.layers import ContrastiveConvBlock
    from kclr.losses import ContrastiveLoss
    from kclr.model import TripletModel

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    patches = np.random.default_rng(0).integers(0, 256, (16, 2, 9, 9, 3), dtype=np.uint8)
    each = np.arange(16)
    data = tf.data.Dataset.from_tensor_slices(
        (patches, np.stack([each, each % 3 - 1, each % 4], 1))
    )
    asked = ["ntxent", "supcon", {"name": "cross_entropy", "classes": 3}, "rotation"]

    def losses(strategy):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = TripletModel(ContrastiveConvBlock(4, 4), embedding="mean")
            model.compile("sgd", loss=ContrastiveLoss(asked))
            model.build((None, 9, 9, 3))
        for variable in model.trainable_variables:
            start = np.random.default_rng(2).normal(size=variable.shape, scale=0.1)
            variable.assign(start.astype("float32"))
        return model.fit(data.batch(16, True), epochs=3, verbose=0).history

    two = losses(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
    one = losses(tf.distribute.get_strategy())
    for name in ("loss", "supcon_loss", "cross_entropy_loss", "rotation_loss"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-4)


@pytest.mark.full
def test_a_list_of_objectives_is_trained_alike_by_two_replicas():
    process = Forked((), run=replicated_list, stderr=subprocess.PIPE)
    said = process.communicate()
    assert process.returncode == 0, said


def kill_after(rows, out, workers):
    """Kill the second worker once the history has so many rows, and say when."""
    path, end = Path(out) / "metrics.jsonl", time.monotonic() + 120
    while not path.exists() or len(path.read_text().splitlines()) < rows:
        time.sleep(0.02)
        assert time.monotonic() < end
        assert not any(worker.poll() for worker in workers)
    os.kill(workers[1].pid, signal.SIGKILL)
    return time.monotonic()


def test_a_killed_worker_ends_all_and_the_run_goes_on_to_the_kernels_of_one(
    tmp_path, workers, capfd
):
    out, spec = tmp_path / "run", tmp_path / "spec.yaml"
    spec.write_text(FIRST)
    one = train(parse_spec(FIRST), tmp_path / "one", bare=True)
    words = ["train", str(spec), "--out", str(out), "--workers", "2"]
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_after, 2, out, workers)
        assert main(words) == 1
    assert time.monotonic() - killed.result() < 60  # a bound for a machine that is busy, too
    said = capfd.readouterr()
    assert "worker 1 of 2 was ended by signal 9" in said.err
    assert "--workers 2 --resume" in said.err
    assert not (out / "summary.json").exists()
    assert main([*words, "--resume"]) == 0
    assert "Traceback" not in said.err + capfd.readouterr().err
    assert_same(out, one)


class Merged:
    """The batches of two workers, each with half of the pictures, as one."""

    def __init__(self, images, batch_size, seed, **options):
        self.images = as_images(images)
        seeds = [np.random.SeedSequence([seed, part]).generate_state(1)[0] for part in range(2)]
        self.parts = [
            PatchTripletGenerator(
                self.images.part(part, 2), batch_size=batch_size // 2, seed=int(own), **options
            )
            for part, own in enumerate(seeds)
        ]
        self.image_count = sum(part.image_count for part in self.parts)

    def __getattr__(self, name):
        return getattr(self.parts[0], name)

    def crops(self, start=0, share=(0, 1)):
        import tensorflow as tf

        def merged(one, other):
            return tf.concat([one[0], other[0]], 0), tf.concat([2 * one[1], 2 * other[1] + 1], 0)

        return tf.data.Dataset.zip(tuple(part.crops(start) for part in self.parts)).map(merged)


def test_workers_with_their_own_pictures_that_gather_nothing_train_as_the_mean_of_both(
    tmp_path, workers, monkeypatch
):
    (tmp_path / "spec.yaml").write_text(APART)
    words = ["train", str(tmp_path / "spec.yaml"), "--out", str(tmp_path / "two"), "--workers", "2"]
    assert main(words) == 0
    found = kclr.load_run(tmp_path / "two").layers[0]

    own = Triplet.__call__

    def of_halves(self, images, embeddings):
        halves = slice(None, 8), slice(8, None)
        answers = [own(self, images[half], embeddings[half]) for half in halves]
        means = {name: sum(each[1][name] for each in answers) / 2 for name in answers[0][1]}
        return sum(loss for loss, _ in answers) / 2, means

    monkeypatch.setattr(Triplet, "__call__", of_halves)
    monkeypatch.setattr("kclr.training.fit.PatchTripletGenerator", Merged)
    expected = train(parse_spec(APART), tmp_path / "one", bare=True).layers[0]
    scale = np.abs(expected.kernel).max()
    np.testing.assert_allclose(found.kernel, expected.kernel, atol=1e-4 * scale)
    for row, other in zip(found.history(), expected.history(), strict=True):
        for name in ("loss", *Triplet.statistics):
            assert row[name] == pytest.approx(other[name], rel=1e-3)


def test_a_batch_that_does_not_divide_among_the_replicas_is_refused(monkeypatch, tmp_path):
    class Three(Cluster):
        replicas = 3

    monkeypatch.setattr("kclr.stack.open_cluster", lambda options: Three())
    with pytest.raises(kclr.SpecError) as caught:
        train(parse_spec(SPEC), tmp_path / "run")
    assert (
        "stack.0.train.batch_size: 32 crops cannot be divided evenly among 3 replicas. Use 33."
        in str(caught.value)
    )
    assert "stack.2.train.batch_size: 16 crops" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_worker_with_other_images_is_refused(monkeypatch):
    cluster = Cluster(task=Task(1, 2))
    told = {"start": np.asarray(0), "total": np.asarray(7)}
    monkeypatch.setattr(cluster, "from_chief", lambda arrays: told)
    assert cluster.agreed(0, 7) == 0
    with pytest.raises(kclr.RunError, match="worker 1 of 2: its images give a training of 8 steps"):
        cluster.agreed(0, 8)
