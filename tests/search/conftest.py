import gc

import pytest
import yaml

import kclr.search.running  # noqa: F401

# Window learners take no steps, so that a trial is a second; the digits need no download.
QUICK = """
data: {source: photos, channels: 1, tile: 32, limit: 200}
probe: {data: digits, limit: 200}
stack:
  - block: {filters: 6, kernel_size: 3}
    learner: {name: patches, windows: 500}
  - block: {filters: 6}
    learner: {name: patches, windows: 500}
search:
  space:
    stack.1.block.filters: {int: [2, 9]}
    stack.1.learner.threshold: {float: [0.1, 1.0]}
  tuner: random
  trials: 3
"""
STEPS = """
data: {source: photos, channels: 1, tile: 32, limit: 200}
probe: {data: digits, limit: 200}
stack:
  - block: {filters: 4, kernel_size: 3}
    train: {steps: 8, batch_size: 8, log_every: 3, jit: false}
search:
  space:
    stack.0.objective.margin: {float: [0.5, 3.0]}
  tuner: {name: hyperband, factor: 2, rounds: 2}
  trials: 3
"""


@pytest.fixture(scope="session", autouse=True)
def frozen():
    """Each trial collects the garbage, and what has been imported is none."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def quick():
    """The plain value of a search of the second of two layers, a second a trial."""
    return yaml.safe_load(QUICK)


@pytest.fixture
def steps():
    """The plain value of a search of a layer that is trained by steps."""
    return yaml.safe_load(STEPS)
