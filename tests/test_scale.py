"""The plan for very many images is the arithmetic that its table says."""

import importlib.machinery
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def scale():
    loader = importlib.machinery.SourceFileLoader("scale", str(ROOT / "tools/scale"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("scale", loader))
    loader.exec_module(module)
    return module


def hours(scale, capsys, **options):
    """Hours and the first bottleneck for each layer and number of workers."""
    usual = {"images": 1e9, "workers": "1,4,16,64", "speed": 1, "network": 10, "storage": 1}
    scale.plan(SimpleNamespace(**(usual | {"crops": 1, "own": False} | options)))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if row[0] == "layer"]
    return {(int(row[1]), int(row[2])): (float(row[11].replace(",", "")), row[12]) for row in rows}


def test_a_ring_sends_an_array_twice_but_for_its_own_part(scale):
    assert scale.ring(100, 1) == 0
    assert scale.ring(100, 4) == pytest.approx(2 * 100 * 3 / 4)


def test_one_worker_takes_a_pass_of_steps(scale, capsys, monkeypatch):
    monkeypatch.setattr(scale, "DECODE", (0.001, 1000))
    monkeypatch.setattr(scale, "RATES", {"layer 1": (100, 2, 8, 50, 0.3, 0.1)})
    found = hours(scale, capsys, images=3.6e6, workers="1,2")
    # 36,000 steps of 0.1 s decoding and 0.3 s; with two workers half of them, comparing 4 times.
    assert found[1, 1][0] == pytest.approx(36_000 * 0.4 / 3600, abs=0.1)
    assert found[1, 2][0] == pytest.approx(18_000 * 0.7 / 3600, abs=0.1)
    assert found[1, 2][1] == "compare"


def test_the_table_of_the_documentation_is_what_the_script_says(scale, capsys):
    text = (ROOT / "docs/scale.md").read_text()
    table = [row.split("|")[1:-1] for row in re.findall(r"^\| (?:1|4|16|64) \|.*$", text, re.M)]
    assert len(table) == 4
    both = hours(scale, capsys), hours(scale, capsys, own=True)
    words = {"decode": "decoding", "compare": "comparing", "step": "step"}
    for row in table:
        workers, *cells = (cell.strip() for cell in row)
        for index, cell in enumerate(cells):
            taken, first = both[index // 3][index % 3 + 1, int(workers)]
            if cell != "not possible":
                number, reason = cell.split(", ")
                assert float(number) == pytest.approx(taken, rel=0.02)
                assert reason == words[first]
