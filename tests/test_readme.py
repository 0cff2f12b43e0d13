"""README's Python runs as it is printed, and its specs are right."""

import re
from pathlib import Path

import numpy as np
import pytest

import kclr
from kclr.spec import parse_spec

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
SPECS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
SPEC = "stack: [{block: {filters: 64}, train: {steps: 2, batch_size: 32}}]"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    kclr.train(parse_spec(SPEC), folder / "runs" / "layer1")
    return folder


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_of_the_readme_runs(block, place, monkeypatch):
    monkeypatch.chdir(place)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    exec(compile(block, "README.md", "exec"), {"images": images})


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_a_spec_of_the_readme_is_right(spec):
    assert parse_spec(spec)
