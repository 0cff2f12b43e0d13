"""How a training is shown where nothing can be drawn over: a line at times, and never a bar."""

import contextlib
import sys

import pytest

from kclr import events
from kclr.search import listening
from kclr.spec import parse_spec
from kclr.transfer import progress as transfer_progress
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
    assert type(transfer_progress.listener_for()) is transfer_progress.Lines
    assert type(listening.listener_for()) is listening.Lines


def test_a_long_layer_says_where_it_is_and_a_short_one_does_not(monkeypatch, capsys):
    (layer,) = parse_spec("stack: [{}]").stack
    lines = events.Lines()
    lines.layer(0, layer, None)
    lines.started(1000, 0, 16)
    capsys.readouterr()
    monkeypatch.setattr(events, "EVERY_SECONDS", 1e9)
    lines.stepped(499, {"loss": 0.25})
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(events, "EVERY_SECONDS", 0)
    lines.stepped(500, {"loss": 0.25})
    lines.stepped(1000, {"loss": 0.25})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("conv1: step 500 of 1,000, loss 0.250, ")


def test_decoding_of_large_pictures_is_told_at_times(capsys):
    (layer,) = parse_spec("stack: [{}]").stack
    lines = events.Lines()
    lines.layer(0, layer, None)
    capsys.readouterr()
    for done in range(1, 9):
        lines.decoding(done, 8)
    assert capsys.readouterr().out == "conv1: decoded picture 1 of 8\n"


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
