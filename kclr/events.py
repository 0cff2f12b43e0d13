"""Progress of long work: who receives it, and how it is shown.

Bars on a terminal, lines elsewhere, JSON for machines.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Listener:
    """Receives a training's progress events and does nothing; override the methods you need."""

    def preparing(self):
        """TensorFlow and the images are being loaded."""

    def hashing(self, done, total):
        """`done` of `total` pictures are hashed, to identify them. Not called if that is quick."""

    def images(self, name, census):
        """What the source called `name` holds: `kclr.data.census.Census`, None where it is not of
        files. Called before the first layer that is trained on it."""

    def layer(self, index, layer, sizes):
        """Layer `index` (from 0) of the spec begins."""

    def kept(self, index, layer):
        """Layer `index` was already finished and is kept."""

    def decoding(self, done, total):
        """Picture `done` of `total` is decoded, of large ones that `memory` does not hold. Called
        before the training begins."""

    def started(self, total, done, patches):
        """The training begins: `total` steps of `patches` patches, of which `done` are done."""

    def probes(self, blocks, start) -> list:
        """Callbacks to train with: `kclr.callbacks.Probe`s, or others that say, as these do, how
        many `seconds` they took. `blocks` are those that are trained, from the image upwards, and
        `start` the steps that are done."""
        return []

    def stepped(self, step, metrics):
        """`step` steps are done; `metrics` are means since the last row."""

    def row(self, row):
        """A row of the layer's history is complete."""

    def warned(self, message):
        """A warning; the training continues."""

    def learned(self, index, layer, facts):
        """Layer `index` is finished and on disk."""

    def finished(self, run):
        """The whole run is finished and on disk."""

    def close(self):
        """The training ended early."""


EVERY_SECONDS = 15.0  # at least, between two lines of a layer that is being trained


def listener_for(json_lines=False) -> Listener:
    """The listener that suits the output."""
    if json_lines:
        return JsonLines()
    return Bars() if redraws() else Lines()


def redraws() -> bool:
    """Whether standard error is a terminal that can redraw.

    The output of `!kclr train` in a notebook is not: it keeps each state of a bar.
    """
    in_notebook = "JPY_PARENT_PID" in os.environ or "COLAB_RELEASE_TAG" in os.environ
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb" and not in_notebook


def is_watched(verbose: bool | str = "auto") -> bool:
    """Whether to print progress: the value of `verbose`; with "auto", whether output is seen at
    once, on a terminal or in a notebook."""
    if verbose == "auto":
        return sys.stderr.isatty() or "ipykernel" in sys.modules
    return bool(verbose)


@contextlib.contextmanager
def status(words) -> Iterator[Callable[[str], None]]:
    """A function that shows a message during the work, if the output can be redrawn."""
    if not redraws():
        yield lambda words: None
        return
    with Console(stderr=True).status(words) as shown:
        yield shown.update


def print_event(event, out=None, **facts) -> None:
    """Print a JSON object on a line of its own, on standard output or `out`."""
    print(json.dumps({"event": event, **facts}), file=out, flush=True)


class JsonLines(Listener):
    """One JSON object a line on standard output, each with the key `event`."""

    def hashing(self, done, total):
        print_event("hashing", done=done, pictures=total)

    def decoding(self, done, total):
        print_event("decoding", layer=self._name, done=done, pictures=total)

    def layer(self, index, layer, sizes):
        self._name = layer.name
        print_event("layer", layer=layer.name, index=index)

    def images(self, name, census):
        print_event("images", source=name, **(census.as_dict() if census else {}))

    def kept(self, index, layer):
        print_event("kept", layer=layer.name, index=index)

    def started(self, total, done, patches):
        print_event("started", layer=self._name, steps=total, done=done)

    def row(self, row):
        print_event("row", layer=self._name, **row)

    def warned(self, message):
        print_event("warning", layer=self._name, message=message)

    def learned(self, index, layer, facts):
        print_event("learned", layer=layer.name, index=index, **facts)

    def finished(self, run):
        print_event("finished", run=str(run.path))


class Lines(Listener):
    """A line for each layer's start, progress and end, for logs, pipes and notebooks.

    Warnings go to standard error.
    """

    _hashing = False
    _told = 0.0

    def hashing(self, done, total):
        if not self._hashing:
            print(f"hashing {total:,} pictures", flush=True)
        self._hashing = True

    def decoding(self, done, total):
        now = time.perf_counter()
        if now - self._told >= EVERY_SECONDS:
            self._told = now
            print(f"{self._name}: decoded picture {done:,} of {total:,}", flush=True)

    def layer(self, index, layer, sizes):
        self._name, self._told = layer.name, -EVERY_SECONDS  # so the first word comes at once
        print(f"{layer.name}: preparing", flush=True)

    def images(self, name, census):
        if census:
            print(f"{name}: {census}", flush=True)

    def kept(self, index, layer):
        print(f"{layer.name}: already finished, kept", flush=True)

    def started(self, total, done, patches):
        since = f" after step {done:,}" if done else ""
        print(f"{self._name}: training {total:,} steps{since}", flush=True)
        self._total, self._patches, self._done = total, patches, done
        self._since = self._told = time.perf_counter()

    def stepped(self, step, metrics):
        now = time.perf_counter()
        if now - self._told < EVERY_SECONDS or step >= self._total:
            return
        self._told = now
        speed = (step - self._done) * self._patches / (now - self._since)
        print(
            f"{self._name}: step {step:,} of {self._total:,}, loss {float(metrics['loss']):.3f}, "
            f"{speed:,.0f} patches/s",
            flush=True,
        )

    def warned(self, message):
        print(f"{self._name}: {message}", file=sys.stderr, flush=True)

    def learned(self, index, layer, facts):
        print(f"{layer.name}: {describe(facts)}", flush=True)


class Bars(Listener):
    """A bar for each layer: loss, active share, the last probe, patches per second, time left."""

    def __init__(self):
        # A descriptor of its own: standard error is shut while TensorFlow starts.
        self._console = Console(file=os.fdopen(os.dup(2), "w", encoding="utf-8"))
        self._status = self._console.status("loading TensorFlow")
        self._bar: Progress | None = None

    def preparing(self):
        self._status.start()

    def hashing(self, done, total):
        self._status.update(f"hashing pictures: {done:,} of {total:,}")

    def decoding(self, done, total):
        self._status.update(f"{self._name}: decoded picture {done:,} of {total:,}")

    def layer(self, index, layer, sizes):
        self._name = layer.name
        self._status.update(f"{layer.name}: preparing")
        self._status.start()

    def images(self, name, census):
        if census:
            self._console.print(escape(f"{name}: {census}"), highlight=False)

    def kept(self, index, layer):
        self._console.print(f"[bold]{layer.name}[/]: already finished, kept", highlight=False)

    def started(self, total, done, patches):
        self._status.stop()
        self._bar = Progress(
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task(self._name, total=total, completed=done, facts="")
        self._patches, self._done, self._since = patches, done, time.perf_counter()
        self._probed = None
        self._bar.start()

    def stepped(self, step, metrics):
        speed = (step - self._done) * self._patches / (time.perf_counter() - self._since)
        facts = [f"loss {float(metrics['loss']):.3f}"]
        if "active_share" in metrics:
            facts.append(f"active {float(metrics['active_share']):.0%}")
        if "contrast_accuracy" in metrics:
            facts.append(f"contrast accuracy {float(metrics['contrast_accuracy']):.0%}")
        if self._probed is not None:
            facts.append(f"probe {self._probed:.1%}")
        facts.append(f"{speed:,.0f} patches/s")
        assert self._bar
        self._bar.update(self._task, completed=step, facts="  ".join(facts))

    def row(self, row):
        self._probed = row.get("probe_accuracy", self._probed)

    def warned(self, message):
        self._console.print(f"[yellow]{self._name}: {escape(message)}[/]", highlight=False)

    def learned(self, index, layer, facts):
        self.close()
        self._status.update("drawing and exporting")
        self._console.print(f"[bold]{layer.name}[/]: {describe(facts)}", highlight=False)

    def close(self):
        """Take the bar away, as after an interruption."""
        self._status.stop()
        if self._bar:
            self._bar.stop()


def describe(facts) -> str:
    """A finished layer in a line."""
    words = f"{facts['seconds']:.1f} s"
    if "steps" in facts:
        words = (
            f"{facts['steps']:,} steps in {words}, {facts['patches_per_second']:,.0f} patches/s, "
            f"loss {facts['loss']:.3f}, effective rank {facts['effective_rank']:.1f}"
        )
    if "probe_accuracy" in facts:
        words += f", probe {facts['probe_accuracy']:.1%} ({facts['probe_seconds']:.1f} s)"
    for key, noun in (("dead_filters", "dead"), ("duplicate_filters", "duplicate")):
        if facts[key]:
            words += f", {facts[key]} {noun} filter{'s' if facts[key] > 1 else ''}"
    if facts.get("skipped_images"):
        count = facts["skipped_images"]
        words += f", {count} image{'s' if count > 1 else ''} skipped"
    return words
