"""A sample of what ./tools/faults does in full, and that the harness sees what it should see."""

import json
import random
import runpy
import shutil
import subprocess
from pathlib import Path

import commands
import damage
import numpy as np
import pytest
import record
import specs
import strangers

from kclr.spec import findings
from kclr.spec.reading import read_yaml
from tests.processes import Forked

ROOT = Path(__file__).resolve().parents[2]


def faults(words):
    return runpy.run_path(str(ROOT / "tools/faults"))["main"]()


@pytest.mark.faults
@pytest.mark.parametrize(
    "words",
    [
        ["--kills", "1", "--seed", "24"],  # which is killed once, in its second layer
        pytest.param(["--disks", "1"], marks=pytest.mark.full),
    ],
)
def test_a_killed_training_and_one_without_room_end_as_an_undisturbed_one(words):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = Forked(["--of", "train", *words], run=faults, **streams)
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert " 1 times, 1 survived" in said


@pytest.mark.faults
def test_a_sample_of_damaged_and_hostile_files_is_answered_in_words(
    two_layers, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # and back from where the cases go
    shutil.copytree(two_layers.path, tmp_path / "ends/train/out")
    read = strangers.Strangers(tmp_path / "ends")
    try:
        wrong = [found for number in range(20) if (found := read.case(number))]
    finally:
        read.close()
    assert not wrong, wrong[0]


@pytest.mark.faults
@pytest.mark.parametrize("part", range(2))
def test_a_sample_of_fuzzed_specs_is_taken_or_explained(part):
    fuzzed = specs.Specs()
    wrong = [found for n in range(part * 150, part * 150 + 150) if (found := fuzzed.case(n))]
    assert not wrong, wrong[0]


def test_a_kernel_that_differs_in_one_bit_and_a_file_left_over_are_seen(tmp_path):
    work = commands.WORKS["train"]
    for name in ("one", "other"):
        layer = tmp_path / name / "out/layers/01-conv1"
        layer.mkdir(parents=True)
        np.save(layer / "kernel.npy", np.arange(8, dtype=np.float32))
        (layer / "layer.json").write_text(json.dumps({"loss": 1, "seconds": len(name)}))
    ends = [commands.end_of(work, tmp_path / name) for name in ("one", "other")]
    assert commands.differences(*ends) == []
    damage.flipped(layer / "kernel.npy", random.Random(1))
    (layer / ".02-conv2.part").touch()
    found = commands.differences(ends[0], commands.end_of(work, tmp_path / "other"))
    assert found == ["layers/01-conv1/.02-conv2.part", "layers/01-conv1/kernel.npy"]


def test_fuzzed_values_are_written_as_the_yaml_that_they_are():
    value = {"a": [1, -2.5, None, True, "x: y", "é\u2028"], "b": {"c": [float("inf")]}}
    assert read_yaml(specs.as_yaml(value), "spec").value == value


def test_what_is_changed_was_right_before():
    for value, root in specs.originals():
        assert findings.draft(specs.as_yaml(value), (), "spec", root).finished()


def test_a_case_is_the_same_each_time():
    assert specs.Specs().make(7)[:2] == specs.Specs().make(7)[:2]


def test_the_page_about_reliability_has_the_counts_that_were_recorded():
    page = record.PAGE.read_text(encoding="utf-8")
    assert record.table() in page, "./tools/faults --table writes it anew"
