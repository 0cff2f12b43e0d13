"""Progress of a search: a bar on a terminal, lines elsewhere, or JSON."""

import os
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from kclr.events import Listener, print_event, redraws


class SearchListener:
    """Receives a search's progress events and does nothing; override the methods you need."""

    training: Listener = Listener()
    """The listener for the training of a layer."""

    def stage(self, name, trials, done):
        """The search of layer `name` begins: at most `trials` trials, of which `done` ended."""

    def trial(self, trial_id, values):
        """A trial begins."""

    def warned(self, trial_id, message):
        """A warning about a trial's training; the trial continues."""

    def ended(self, trial_id, result):
        """A trial has ended; `result` has the key `score`, or `failed` with the reason."""

    def close(self):
        """The search has ended, well or early."""


def listener_for(json_lines=False) -> SearchListener:
    """The listener that suits the output."""
    if json_lines:
        return JsonLines()
    return Bar() if redraws() else Lines()


class JsonLines(SearchListener):
    """One JSON object a line on standard output, each with the key `event`."""

    def __init__(self):
        self._out = sys.stdout  # keras-tuner's own prints are sent elsewhere

    def stage(self, name, trials, done):
        print_event("stage", self._out, layer=name, trials=trials, done=done)

    def trial(self, trial_id, values):
        print_event("trial", self._out, trial=trial_id, values=values)

    def warned(self, trial_id, message):
        print_event("warning", self._out, trial=trial_id, message=message)

    def ended(self, trial_id, result):
        print_event("ended", self._out, trial=trial_id, **result)


class Lines(SearchListener):
    """A line for each trial's end, for logs and pipes; warnings on standard error."""

    def __init__(self):
        self._out, self._errors = sys.stdout, sys.stderr

    def stage(self, name, trials, done):
        ended = f", {done} already ended" if done else ""
        print(f"{name}: up to {trials} trials{ended}", file=self._out, flush=True)

    def warned(self, trial_id, message):
        print(f"  trial {trial_id}: {message}", file=self._errors, flush=True)

    def ended(self, trial_id, result):
        print(f"  trial {trial_id}: {in_words(result)}", file=self._out, flush=True)


class Bar(SearchListener):
    """A bar over the trials, with the layer in training and the last results."""

    def __init__(self):
        self._console = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"))
        self._bar = Progress(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("search", total=None, now="loading TensorFlow")
        self._bar.start()
        self.training = _Steps(self._tell)

    def _tell(self, words):
        self._bar.update(self._task, now=words)

    def stage(self, name, trials, done):
        self._bar.update(self._task, description=name, total=trials, completed=done, now="")

    def trial(self, trial_id, values):
        self._name = trial_id
        self._tell(f"trial {trial_id}")

    def warned(self, trial_id, message):
        self._console.print(f"[yellow]trial {trial_id}[/]: {escape(message)}", highlight=False)

    def ended(self, trial_id, result):
        self._console.print(f"trial {trial_id}: {escape(in_words(result))}", highlight=False)
        self._bar.advance(self._task)

    def close(self):
        self._bar.stop()


class _Steps(Listener):
    """Says in a few words which layer is at which step."""

    def __init__(self, tell):
        self._tell = tell

    def hashing(self, done, total):
        self._tell(f"hashing pictures: {done:,} of {total:,}")

    def decoding(self, done, total):
        self._tell(f"{self._name}: decoded picture {done:,} of {total:,}")

    def layer(self, index, layer, sizes):
        self._name = layer.name
        self._tell(f"{layer.name}: preparing")

    def started(self, total, done, patches):
        self._total = total

    def stepped(self, step, metrics):
        self._tell(f"{self._name}: step {step:,} of {self._total:,}")


def in_words(result: dict[str, Any]) -> str:
    """The result of a trial, in a line."""
    if "failed" in result:
        return f"failed: {' '.join(result['failed'].split())}"
    if not result:
        return "unfinished"
    rest = "" if result["complete"] else f", paused at step {result['steps']:,}"
    return f"{result['score']:.4g} in {result['seconds']:,.1f} s{rest}"
