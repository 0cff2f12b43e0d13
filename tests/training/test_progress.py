"""What a training says on its way."""

import json

import pytest

from kclr import events
from kclr.training.progress import LayerProgress


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    monkeypatch.setattr(events, "EVERY_SECONDS", 0)


def test_a_long_layer_says_where_it_is(capsys):
    lines = LayerProgress(events.Lines(), "conv1")
    lines.preparing(0)
    lines.started(1000, 200, 16)
    lines.stepped(500, {"loss": 0.25, "active_share": 0.5})
    lines.stepped(501, {"loss": 0.25, "probe_accuracy": 0.513})
    lines.stepped(502, {"loss": 0.25})
    preparing, started, *steps = capsys.readouterr().out.splitlines()
    assert preparing == "conv1: preparing"
    assert started == "conv1: training 1,000 steps after step 200 in float32"
    assert steps[0].startswith("conv1: step 500 of 1,000, loss 0.250, active 50%, ")
    for number, step in enumerate(steps[1:], 501):
        assert step.startswith(f"conv1: step {number} of 1,000, loss 0.250, probe 51.3%, ")
        assert step.endswith(" patches/s")


def test_decoding_of_large_pictures_is_said(capsys):
    LayerProgress(events.Lines(), "conv1").decoding(1200, 8000)
    assert capsys.readouterr().out == "conv1: decoded picture 1,200 of 8,000\n"


def test_a_machine_reads_the_name_of_a_layer_from_another_run_and_not_that_it_had_there(capsys):
    facts = {"seconds": 0.0, "run": "runs/first", "layer": "conv9"}
    facts |= {"dead_filters": 0, "duplicate_filters": 0}
    LayerProgress(events.JsonLines(), "conv1").learned(0, facts)
    said = json.loads(capsys.readouterr().out)
    assert (said["event"], said["layer"], said["run"]) == ("learned", "conv1", "runs/first")
