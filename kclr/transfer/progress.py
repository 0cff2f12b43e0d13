"""Progress of a transfer experiment: a bar on a terminal, lines elsewhere, or JSON."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from kclr import events
from kclr.events import Listener, print_event, redraws


class TransferListener:
    """Receives an experiment's progress events and does nothing; override the methods you need.

    A unit is a repeat of an arm at an amount of labels: `unit` has the keys arm, labels and seed.
    """

    def pretraining(self) -> Listener:
        """A run is about to be trained; the returned listener receives its progress events."""
        return Listener()

    def preparing(self, words):
        """A longer step begins."""

    def begun(self, units, kept, epochs):
        """The number of units, how many were finished before, and the epochs of each."""

    def started(self, unit):
        """A unit begins."""

    def epoch(self, unit, row):
        """An epoch of a unit is complete; `row` is that of its history."""

    def finished(self, unit):
        """A unit is finished and on disk."""

    def failed(self, unit):
        """A unit has failed and is on disk; `unit["failed"]` says why. The experiment continues."""

    def close(self):
        """The experiment has ended, well or early."""


def listener_for(json_lines=False) -> TransferListener:
    """The listener that suits the output."""
    if json_lines:
        return JsonLines()
    return Bar() if redraws() else Lines()


class JsonLines(TransferListener):
    """One JSON object a line on standard output, each with the key `event`."""

    def pretraining(self):
        return events.JsonLines()

    def preparing(self, words):
        print_event("preparing", what=words)

    def begun(self, units, kept, epochs):
        print_event("begun", units=units, kept=kept, epochs=epochs)

    def started(self, unit):
        print_event("started", **_place(unit))

    def epoch(self, unit, row):
        print_event("epoch", **_place(unit), **row)

    def finished(self, unit):
        facts = {key: value for key, value in unit.items() if key not in ("history", "start")}
        print_event("unit", **facts)

    def failed(self, unit):
        print_event("failed", **unit)


class Lines(TransferListener):
    """A line for each unit, and for the progress of a long one; failures on standard error."""

    def pretraining(self):
        return events.Lines()

    def begun(self, units, kept, epochs):
        before = f", {kept} of them already finished" if kept else ""
        print(f"{units} units of {epochs} epochs{before}", flush=True)
        self._epochs, self._told = epochs, time.perf_counter()

    def epoch(self, unit, row):
        now = time.perf_counter()
        if now - self._told >= events.EVERY_SECONDS and row["epoch"] < self._epochs:
            self._told = now
            words = f"epoch {row['epoch']} of {self._epochs}, test {row['test_accuracy']:.1%}"
            print(f"{describe(unit)}: {words}", flush=True)

    def finished(self, unit):
        print(f"{describe(unit)}: {_result(unit)}", flush=True)

    def failed(self, unit):
        print(f"{describe(unit)}: failed: {failure(unit)}", file=sys.stderr, flush=True)


class Bar(TransferListener):
    """One bar for the whole experiment, and a line for each finished unit."""

    def __init__(self):
        self._console = Console(stderr=True)
        self._status = self._console.status("preparing")
        self._status.start()
        self._bar: Any = None
        self._training: Any = None

    def pretraining(self):
        self._status.stop()
        self._training = events.Bars()
        self._training.preparing()
        return self._training

    def preparing(self, words):
        if self._bar is None:
            self._status.update(words)
            self._status.start()
        else:
            self._bar.update(self._task, facts=words)

    def begun(self, units, kept, epochs):
        self._status.stop()
        self._epochs = epochs
        self._bar = Progress(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            speed_estimate_period=600,
        )
        self._task = self._bar.add_task(
            "", total=units * epochs, completed=kept * epochs, facts="preparing"
        )
        self._bar.start()

    def started(self, unit):
        self._done = 0
        self._bar.update(self._task, description=escape(describe(unit)), facts="")

    def epoch(self, unit, row):
        self._done += 1
        facts = f"epoch {row['epoch']}/{self._epochs}  test {row['test_accuracy']:.1%}"
        self._bar.update(self._task, advance=1, facts=facts)

    def finished(self, unit):
        self._console.print(f"[bold]{escape(describe(unit))}[/]: {_result(unit)}", highlight=False)

    def failed(self, unit):
        self._bar.update(self._task, advance=self._epochs - self._done)
        self._console.print(
            f"[red]{escape(describe(unit))}: failed[/]: {escape(failure(unit))}",
            highlight=False,
            soft_wrap=True,
        )

    def close(self):
        self._status.stop()
        if self._training:
            self._training.close()
        if self._bar:
            self._bar.stop()


def describe(unit) -> str:
    """A unit in a few words."""
    return f"{unit['arm']}, labels {unit['labels']:g}, seed {unit['seed']}"


def failure(unit) -> str:
    """Why a unit failed, and where its trace is."""
    trace = f" (trace: {unit['trace']})" if "trace" in unit else ""
    return f"{unit['failed']}{trace}"


def _place(unit):
    return {key: unit[key] for key in ("arm", "labels", "seed")}


def _result(unit):
    return f"{unit['accuracy']:.1%} in {unit['seconds']:.1f} s"
