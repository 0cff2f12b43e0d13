"""A search's workers learn from its directory that their chief lives, or why it does not."""

import json
import time
from types import SimpleNamespace

import grpc
import pytest

from kclr.errors import RunError
from kclr.search import workers as chief
from kclr.search.running import run_search
from kclr.search.workers import STATE, Watch, leading, watch_chief
from kclr.spec import parse_spec


@pytest.fixture
def at_once(monkeypatch):
    """Signs of life without a wait between them."""
    monkeypatch.setattr(chief, "BEAT", 0.001)
    monkeypatch.setattr(chief, "SUCCESSOR", 0.0)


def write(place, **state):
    (place / STATE).write_text(json.dumps(state))


def test_a_chief_that_fails_ends_its_workers_with_the_reason(tmp_path, at_once):
    def fail():
        with leading(tmp_path):
            watch = watch_chief(tmp_path)
            assert watch.look(0) is None
            watches.append(watch)
            raise RunError("runs/x: the disk is\nfull")

    watches = []
    with pytest.raises(RunError, match="the disk"):
        fail()
    with pytest.raises(RunError, match="chief of this search has ended: runs/x: the disk is full"):
        watches[0].wait()
    with pytest.raises(RunError, match="has ended: runs/x: the disk is full. Restart the chief"):
        watch_chief(tmp_path)


class Stub:
    """keras-tuner's stub for questions, as far as it is used."""

    def __init__(self, place, answer):
        self.place, self.answer, self.cancelled = place, answer, 0

    def cancel(self):
        self.cancelled += 1

    def result(self, timeout):
        if self.answer == "late":
            self.answer = "a trial"
            raise grpc.FutureTimeoutError
        if self.answer == "never":
            write(self.place, session="a", beat=9, ended="it was interrupted")
            raise grpc.FutureTimeoutError
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class RefusalError(grpc.RpcError):
    def details(self):
        return "Exception calling application: no room"


def test_a_question_waits_for_its_answer_as_long_as_the_chief_lives(tmp_path, at_once):
    def ask(answer):
        stub = Stub(tmp_path, answer)
        # The plain call, which this stub has not, hears no Ctrl-C while it waits.
        stub.CreateTrial = SimpleNamespace(future=lambda request, timeout: stub)
        write(tmp_path, session="a", beat=len(asked))
        asked.append(stub)
        return Watch(tmp_path, time.monotonic()).asking(stub).CreateTrial("?", timeout=3600)

    asked = []
    assert ask("a trial") == ask("late") == "a trial"
    with pytest.raises(RunError, match="has ended: it was interrupted. Restart the chief"):
        ask("never")
    with pytest.raises(RunError, match="could not answer: Exception calling application: no room"):
        ask(RefusalError())
    assert [stub.cancelled for stub in asked] == [1] * 4


def test_a_finished_search_leaves_a_late_worker_nothing_to_do(tmp_path, at_once):
    with leading(tmp_path):
        pass
    assert watch_chief(tmp_path) is None


def test_a_chief_is_given_up_when_it_has_been_silent_for_long(tmp_path):
    write(tmp_path, session="a", beat=3)
    watch = Watch(tmp_path, now=0)
    assert watch.look(3600) is None  # it may yet be started: these are the last one's words
    assert "has not responded for 3,600 seconds" in watch.look(3601)
    write(tmp_path, session="b", beat=0)
    assert watch.look(4000) is None
    assert watch.alive
    assert watch.look(4300) is None
    assert "has not responded for 300 seconds" in watch.look(4301)
    (tmp_path / STATE).write_text("{")  # a disk that shows half of it
    assert watch.look(4302) is None


def test_the_end_of_an_earlier_chief_is_not_that_of_its_successor(tmp_path):
    write(tmp_path, session="a", beat=3, ended="it was interrupted")
    watch = Watch(tmp_path, now=0)
    assert watch.look(29) is None
    write(tmp_path, session="b", beat=0)
    assert watch.look(30) is None
    write(tmp_path, session="b", beat=1, ended=None)
    assert watch.look(31) is not None
    assert watch.finished


def test_a_worker_of_a_search_that_failed_ends_and_touches_nothing(
    quick, tmp_path, at_once, monkeypatch
):
    for name, value in (("TUNER_ID", "tuner0"), ("ORACLE_IP", "127.0.0.1"), ("ORACLE_PORT", "1")):
        monkeypatch.setenv(f"KERASTUNER_{name}", value)
    write(tmp_path, session="a", beat=3, ended="SpecError: other settings")
    with pytest.raises(RunError, match="has ended: SpecError: other settings"):
        run_search(parse_spec(json.dumps(quick)), quick, tmp_path, "")
    assert [entry.name for entry in tmp_path.iterdir()] == [STATE]
