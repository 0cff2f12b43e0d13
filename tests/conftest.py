import fcntl
import functools
import os
import random
import signal
from collections import Counter

import numpy as np
import pytest

from kclr.data import patches

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Trainings of a few steps spend their time on what comes before the first one. So XLA compiles only
# what is said to be compiled, and where a test asks for `with_xla`; and windows are counted sooner.
os.environ["KCLR_XLA"] = "0"
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
patches.MANY = 2_000
os.fsync = lambda descriptor: None  # no test cuts the power, and a disk that is busy takes seconds


def pytest_collection_modifyitems(items):
    """Files of few tests first: theirs are the long ones, and two processes then end together."""
    counts = Counter(item.path for item in items)
    items.sort(key=lambda item: counts[item.path])


@pytest.fixture
def with_xla(monkeypatch):
    """As users have it: XLA compiles, although no spec says so."""
    monkeypatch.delenv("KCLR_XLA")


@pytest.fixture
def without_export(monkeypatch):
    """A run is trained and drawn as ever, but not exported, which takes as long as a layer."""
    monkeypatch.setattr("kclr.stack._export", lambda *arguments: None)


@pytest.fixture(scope="module")
def without_pictures():
    """A layer's pictures are dots, for to draw them takes longer than to train for a few steps."""
    from PIL import Image

    from kclr.runs.paths import atomic

    def draw(trained, *arguments):
        names = ["filters.png"] + ["curves.png"] * bool(trained.history())
        for name in names:
            with atomic(trained.directory / name) as temporary:
                Image.new("L", (1, 1)).save(temporary, format="png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kclr.stack.draw_layer", draw)
        yield


@pytest.fixture
def with_pictures(monkeypatch):
    """As users have it, in a file of tests that are without pictures."""
    from kclr.drawing.layers import draw_layer

    monkeypatch.setattr("kclr.stack.draw_layer", draw_layer)


@pytest.fixture
def few_windows(monkeypatch):
    """A probe's baselines are made from a fiftieth of their windows."""
    from kclr.probing.baselines import baseline

    few = functools.partial(baseline, windows=2000)
    monkeypatch.setattr("kclr.probing.probe.baseline", few)


@pytest.fixture(scope="session")
def photographs():
    """Tiles of two photographs, uint8 (tiles, 32, 32, 3)."""
    from sklearn.datasets import load_sample_images

    tiles = []
    for image in load_sample_images().images:
        tiles += [
            image[y : y + 32, x : x + 32] for y in range(0, 400, 32) for x in range(0, 600, 32)
        ]
    return np.stack(tiles)


@pytest.fixture
def nothing_global_changes():
    """Around a call from Python: what is global when it comes back is as it was."""
    import keras
    import tensorflow as tf
    from keras.src.random.seed_generator import global_seed_generator

    def draws():
        # Older versions of Keras make it of Python's numbers, and do not seed it again.
        of_keras = global_seed_generator().state.numpy().tolist()
        return random.random(), np.random.rand(), float(tf.random.uniform(())), of_keras

    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    global_seed_generator()
    keras.utils.set_random_seed(11)
    before, expected = handlers(), draws()
    keras.utils.set_random_seed(11)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
    finally:
        keras.config.set_dtype_policy("float32")
    assert handlers() == before
    assert draws() == expected


TWO_LAYERS = """
data: photos
stack:
  - block: {filters: 8, kernel_size: 6}
    train: {steps: 12, batch_size: 32, log_every: 5}
  - block: {filters: 6, kernel_size: 3}
    train: {steps: 6, batch_size: 16, log_every: 5}
"""


@pytest.fixture(scope="session")
def two_layers(tmp_path_factory):
    """The finished run of `TWO_LAYERS`, for reading: copy what is to be changed."""
    import kclr
    from kclr.spec import parse_spec

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # of all workers, one of which trains it
    with (shared / "two.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (shared / "two/summary.json").exists():
            return kclr.load_run(shared / "two")
        return kclr.train(parse_spec(TWO_LAYERS), shared / "two", text=TWO_LAYERS)
