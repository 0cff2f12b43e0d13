import os

import numpy as np
import pytest

import kclr.whitening

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Trainings of a few steps spend their time on what comes before the first one. So XLA compiles only
# what is said to be compiled, and where a test asks for `with_xla`; and windows are counted sooner.
os.environ["KCLR_XLA"] = "0"
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
kclr.whitening.CROPS = 2_000


@pytest.fixture
def with_xla(monkeypatch):
    """As users have it: XLA compiles, although no spec says so."""
    monkeypatch.delenv("KCLR_XLA")


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

    out = tmp_path_factory.mktemp("runs") / "two"
    with pytest.MonkeyPatch.context() as context:
        context.delenv("KCLR_XLA")
        return kclr.train(parse_spec(TWO_LAYERS), out, text=TWO_LAYERS)
