"""Progress of long work: what happened is an `Event`, and a `Listener` hears it.

There are three: bars on a terminal, lines elsewhere, JSON for machines. They know no domain: what a
training, an experiment or a search says, in words and facts, is written where it does its work.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

EVERY_SECONDS = 15.0  # at least, since the last line, before one about a step


_STYLES = {"warned": "yellow", "done": "bold", "failed": "red"}  # of lines that stay


@dataclass(frozen=True)
class Event:
    """Something that happened in long work.

    Attributes:
        kind: `begun`: work that takes `total` steps begins, of which `done` are done. `item`: a
            part of it begins. `step`: it goes on; there may be many of these. `row`: a row of its
            history is complete. `warned`: something is wrong, and the work continues. `done` and
            `failed`: a part has ended. `closed`: the work has ended, well or early.
        name: of the event in JSON, "" if it is not for machines.
        of: what it is about, such as a layer, a unit or a trial.
        words: the event in plain English, "" if it is not for people; a function that returns it
            if that takes time and few will ask.
        facts: the event's fields in JSON.
        done: int, how many steps of the work that has begun are done; None if that has not changed.
        total: int, the steps of the work, if `kind` is `begun`.
    """

    kind: Literal["begun", "item", "step", "row", "warned", "done", "failed", "closed"]
    name: str = ""
    of: str = ""
    words: str | Callable[[], str] = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    done: int | None = None
    total: int | None = None

    def in_words(self) -> str:
        """The words."""
        return self.words if isinstance(self.words, str) else self.words()

    def line(self) -> str:
        """What it is about and the words, or "" if it is not for people."""
        words = self.in_words()
        return f"{self.of}: {words}" if self.of and words else words


class Listener:
    """Hears the events of long work and does nothing; override `heard`.

    A `with` block that ends closes it.
    """

    def heard(self, event: Event) -> None:
        """Receive an event. It may come from another thread."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.heard(Event("closed"))


def listener_for(json_lines=False) -> Listener:
    """The listener that suits the output."""
    if json_lines:
        return JsonLines()
    return Bars() if redraws() else Lines()


def watched(verbose: bool | str = "auto") -> Listener:
    """The listener that prints progress, or one that does not: as `verbose` says; with "auto", one
    that does if output is seen at once, on a terminal or in a notebook."""
    if verbose == "auto":
        verbose = sys.stderr.isatty() or "ipykernel" in sys.modules
    return listener_for() if verbose else Listener()


def redraws() -> bool:
    """Whether standard error is a terminal that can redraw.

    The output of `!kclr train` in a notebook is not: it keeps each state of a bar.
    """
    in_notebook = "JPY_PARENT_PID" in os.environ or "COLAB_RELEASE_TAG" in os.environ
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not in_notebook


@contextlib.contextmanager
def status(words) -> Iterator[Callable[[str], None]]:
    """A function that shows a message during the work, if the output can be redrawn."""
    if not redraws():
        yield lambda words: None
        return
    with Console(stderr=True).status(words) as shown:
        yield shown.update


class JsonLines(Listener):
    """One JSON object a line on standard output, each with the key `event`."""

    def __init__(self):
        self._out = sys.stdout  # as it is now: keras-tuner's own prints are sent elsewhere

    def heard(self, event):
        if event.name:
            print(json.dumps({"event": event.name, **event.facts}), file=self._out, flush=True)


class Lines(Listener):
    """A line for each event, and at times for a step: for logs, pipes and notebooks.

    Warnings and failures go to standard error.
    """

    def __init__(self):
        self._out, self._errors = sys.stdout, sys.stderr
        self._printed = -EVERY_SECONDS

    def heard(self, event):
        now = time.perf_counter()
        if event.kind == "step" and now - self._printed < EVERY_SECONDS:
            return
        if line := event.line():
            out = self._errors if event.kind in ("warned", "failed") else self._out
            print(line, file=out, flush=True)
            self._printed = now


class _Words(ProgressColumn):
    """The words of the last event, cut off where the terminal ends: all else stays in its place."""

    def render(self, task):
        return Text(task.fields["words"], no_wrap=True, overflow="ellipsis")


class Bars(Listener):
    """A bar for work whose steps are counted, a spinner for other work, and lines that stay."""

    def __init__(self):
        # A descriptor of its own: standard error is shut while TensorFlow starts.
        self._console = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"))
        self._spinner = self._console.status("preparing")
        self._spinner.start()
        self._bar: Progress | None = None

    def heard(self, event):
        if event.kind in ("begun", "closed"):
            self._end_bar()
        if event.kind == "begun":
            self._begin_bar(event.total)
        if event.kind in ("begun", "item", "step"):
            self._show(event)
        elif event.kind in _STYLES:
            self._print(event, _STYLES[event.kind])
        elif event.kind == "closed":
            self._spinner.stop()
        if self._bar and event.done is not None:
            self._bar.update(self._task, completed=event.done)
            if self._bar.finished:
                self._end_bar()
                self._spinner.update(escape(event.line()))
                self._spinner.start()

    def _begin_bar(self, total):
        self._spinner.stop()
        self._bar = Progress(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            _Words(),
            console=self._console,
            transient=True,
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task("", total=total, words="")
        self._bar.start()

    def _end_bar(self):
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _show(self, event):
        if self._bar:
            of = escape(event.of) if event.of else None  # None leaves it as it is
            self._bar.update(self._task, description=of, words=event.in_words())
        elif line := event.line():
            self._spinner.update(escape(line))

    def _print(self, event, style):
        if words := event.in_words():
            of = f"[{style}]{escape(event.of)}:[/] " if event.of else ""
            self._console.print(f"{of}{escape(words)}", highlight=False, soft_wrap=True)
