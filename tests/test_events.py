"""How long work is shown: bars on a terminal, lines where nothing can be drawn over, JSON."""

import contextlib
import sys

import pytest

from kclr import events
from kclr.events import Event
from kclr.transfer.starting import InitializedLayer, InitializeReport


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for name in ("JPY_PARENT_PID", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@pytest.mark.parametrize(
    ("name", "value"),
    [("JPY_PARENT_PID", "12"), ("COLAB_RELEASE_TAG", "release"), ("TERM", "dumb")],
)
def test_a_notebooks_terminal_gets_lines_and_no_bars(terminal, monkeypatch, name, value):
    assert events.redraws()
    monkeypatch.setenv(name, value)
    assert not events.redraws()
    assert type(events.listener_for()) is events.Lines


STEP = Event("step", of="conv1", words="step 5", facts={"step": 5}, done=5)


def test_a_step_is_a_line_only_where_there_was_none_for_a_while(monkeypatch, capsys):
    lines = events.Lines()
    lines.heard(Event("begun", "started", "conv1", "training 10 steps", done=0, total=10))
    lines.heard(STEP)
    monkeypatch.setattr(events, "EVERY_SECONDS", 0)
    lines.heard(Event("row", "row", facts={"step": 5}))
    lines.heard(STEP)
    assert capsys.readouterr().out == "conv1: training 10 steps\nconv1: step 5\n"


def test_the_first_step_is_a_line_at_once(capsys):
    lines = events.Lines()
    lines.heard(STEP)
    lines.heard(STEP)
    assert capsys.readouterr().out == "conv1: step 5\n"


@pytest.mark.parametrize("kind", ["warned", "failed"])
def test_what_went_wrong_goes_to_standard_error(kind, capsys):
    events.Lines().heard(Event(kind, of="conv1", words="out of [memory]"))
    assert capsys.readouterr() == ("", "conv1: out of [memory]\n")


def test_a_machine_gets_what_has_a_name_and_nobody_works_out_words_for_it(capsys):
    with events.JsonLines() as heard:
        heard.heard(STEP)
        heard.heard(Event("row", "row", words=lambda: 1 / 0, facts={"loss": 0.5}))
    assert capsys.readouterr().out == '{"event": "row", "loss": 0.5}\n'


def test_a_bar_goes_when_it_is_full_and_what_is_said_in_lines_stays(capfd):
    with events.Bars() as bars:
        bars.heard(Event("item", of="conv1", words="preparing"))
        assert bars._bar is None
        bars.heard(Event("begun", of="conv1", words="training", done=0, total=10))
        bars.heard(STEP)
        (task,) = bars._bar.tasks
        assert (task.completed, task.total, task.fields["words"]) == (5, 10, "step 5")
        bars.heard(Event("warned", of="mine [b]", words="on [/device:CPU:0] [bold] x"))
        bars.heard(Event("step", words="step 10", done=10))
        assert bars._bar is None
        bars.heard(Event("done", of="conv1", words="10 steps"))
        bars.heard(Event("begun", words="another", done=0, total=10))
    assert bars._bar is None
    lines = capfd.readouterr().err.splitlines()
    assert "mine [b]: on [/device:CPU:0] [bold] x" in lines
    assert "conv1: 10 steps" in lines


def test_words_while_something_is_loaded_are_left_out_where_they_would_pile_up(capfd):
    with contextlib.ExitStack() as stack:
        tell = stack.enter_context(events.status("loading"))
        for _ in range(100):
            tell("still loading")
    assert capfd.readouterr() == ("", "")


def test_what_was_started_from_a_run_is_a_text_in_a_notebook_too(monkeypatch):
    report = InitializeReport((InitializedLayer("conv1", "conv2d", "moved as it is"),), "noise")
    expected = str(report)
    assert "conv2d" in expected
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert str(report) == expected
