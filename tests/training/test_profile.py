"""`kclr train --profile`: where the time goes, without any change of what is learned."""

import time

import numpy as np
import pytest

import kclr
from kclr.errors import SpecError
from kclr.events import Listener
from kclr.runs.directories import RUN, contents
from kclr.runs.run import Run
from kclr.spec import parse_spec
from kclr.training.profile import Profile, spent

pytestmark = pytest.mark.usefixtures("without_pictures")


class Heard(Listener):
    def __init__(self):
        self.events = []

    def heard(self, event):
        self.events.append(event)


def test_a_profiled_run_has_the_same_kernels_and_says_where_its_time_went(two_layers, tmp_path):
    heard = Heard()
    spec = parse_spec((two_layers.path / "spec.yaml").read_text())
    run = kclr.train(spec, tmp_path / "run", bare=True, listener=heard, profile=True)
    for found, expected in zip(run.layers, two_layers.layers, strict=True):
        np.testing.assert_array_equal(found.kernel, expected.kernel)
        rows = [[row | {"seconds": 0} for row in own.history()] for own in (found, expected)]
        assert rows[0] == rows[1]
    (told,) = [event for event in heard.events if event.name == "profiled"]
    parts = told.facts["parts"]
    assert {"first step", "wait for input", "other steps", "all else"} <= parts["conv2"].keys()
    whole = sum(seconds for own in parts.values() for seconds in own.values())
    assert whole == pytest.approx(told.facts["seconds"], abs=0.05)
    assert 0 < told.facts["frozen_share_of_steps"]["conv2"] <= 1
    assert "conv1" not in told.facts["frozen_share_of_steps"]
    assert "Where the time went, in seconds:" in told.in_words()
    (trace,) = (run.path / "tensorboard" / "conv1").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0
    ours, others = contents(run.path, RUN)
    assert not others
    assert {"profile.json", trace.relative_to(run.path).as_posix()} <= {*ours}


def test_what_one_part_spends_within_another_counts_once(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with Profile(Run(tmp_path)) as profile:
        now[0] = 1
        profile.turn("conv1")
        with spent("pictures"):
            now[0] = 3
            with spent("export"):
                now[0] = 7
            now[0] = 8
        now[0] = 10
        facts = profile.finished().facts
    assert facts["parts"] == {
        "": {"all else": 1}, "conv1": {"export": 4, "pictures": 3, "all else": 2}
    }  # fmt: skip
    with spent("pictures"):
        now[0] = 20
    assert profile.seconds["conv1"]["pictures"] == 3


def test_a_profile_of_several_devices_is_refused_with_the_cure(tmp_path):
    spec = parse_spec("{stack: [{}], train: {distribute: mirrored}}")
    with pytest.raises(SpecError, match=r"distribute: mirrored: only .* without profile"):
        kclr.train(spec, tmp_path / "run", profile=True)
