"""What the training of a run says on its way: events in words and facts; and how they are kept."""

import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

from kclr.events import Event, Listener
from kclr.health import Learned
from kclr.runs.run import METRICS, Run
from kclr.spec.cost import about
from kclr.spec.schema import Spec


def hashing(done, total) -> Event:
    """`done` of `total` pictures are hashed, to identify them."""
    words = f"hashing pictures: {done:,} of {total:,}"
    return Event("step", "hashing", words=words, facts={"done": done, "pictures": total})


def images_found(name, census) -> Event:
    """What the source called `name` holds: a `kclr.data.census.Census`, None if it has no files."""
    facts = {"source": name, **(census.as_dict() if census else {})}
    return Event("done", "images", name, str(census or ""), facts)


def expected(seconds) -> Event:
    """How long the layers will train, by their names, in seconds."""
    each = ", ".join(f"{name} {about(own)}" for name, own in seconds.items())
    words = f"about {about(sum(seconds.values()))} on this machine"
    words += f" ({each})" if len(seconds) > 1 else ""
    return Event("done", "expected", "training", words, {"seconds": dict(seconds)})


def aligning(done, total) -> Event:
    """`done` of `total` views of each image are made, for the alignment of the features."""
    words = f"aligning the features: view {done + 1:,} of {total:,}"
    return Event("step", "aligning", words=words, facts={"done": done, "views": total})


def aligned(facts) -> Event:
    """The alignment is learned (see `kclr.probing.alignment.learn_alignment`)."""
    before, after = facts["difference_before"], facts["difference_after"]
    words = f"views of one image differed by {before:.3f}, and do by {after:.3f}"
    return Event("done", "aligned", "features", words, facts)


def damaged(place, words) -> Event:
    """A file of the run that nothing is computed from was changed since it was written."""
    message = f"{place}: damaged or changed: {words}"
    return Event("warned", "warning", words=message, facts={"message": message})


def finished(run) -> Event:
    """The whole run is finished and on disk."""
    return Event("done", "finished", facts={"run": str(run.path)})


class LayerProgress:
    """What is said about a layer.

    Args:
        listener: hears it.
        layer: the layer's name; the topmost one's if several are trained at once.
    """

    def __init__(self, listener: Listener, layer: str | None):
        self._listener, self._layer = listener, layer or ""  # a checked spec names all
        self._probed: float | None = None

    def _say(self, kind, name, words, facts, **counted):
        # The facts of a layer from another run have a `layer` of their own.
        facts = {"layer": self._layer} | facts | {"layer": self._layer}
        self._listener.heard(Event(kind, name, self._layer, words, facts, **counted))

    def preparing(self, index):
        """Layer `index` (from 0) of the spec begins."""
        self._say("item", "layer", "preparing", {"index": index})

    def decoding(self, done, total):
        """Picture `done` of `total` is decoded, of large ones that `memory` does not hold."""
        words = f"decoded picture {done:,} of {total:,}"
        self._say("step", "decoding", words, {"done": done, "pictures": total})

    def started(self, total, done, patches, precision="float32"):
        """Its training begins: `total` steps of `patches` patches, of which `done` are done."""
        self._total, self._start, self._patches = total, done, patches
        self._since = time.perf_counter()
        words = f"training {total:,} steps" + (f" after step {done:,}" if done else "")
        words += f" in {precision.removeprefix('mixed_')}"
        facts = {"steps": total, "done": done, "precision": precision}
        self._say("begun", "started", words, facts, total=total, done=done)

    def stepped(self, step, metrics):
        """`step` steps are done; `metrics` are means since the last row."""
        self._probed = metrics.get("probe_accuracy", self._probed)
        words = partial(self._step_in_words, step, metrics)  # which waits for the device
        self._say("step", "", words, {"step": step, **metrics}, done=step)

    def _step_in_words(self, step, metrics):
        words = [f"step {step:,} of {self._total:,}", f"loss {float(metrics['loss']):.3f}"]
        for name, said in (("active_share", "active"), ("contrast_accuracy", "contrast accuracy")):
            if name in metrics:
                words.append(f"{said} {float(metrics[name]):.0%}")
        if self._probed is not None:
            words.append(f"probe {self._probed:.1%}")
        seconds = time.perf_counter() - self._since
        words.append(f"{(step - self._start) * self._patches / seconds:,.0f} patches/s")
        return ", ".join(words)

    def row(self, row):
        """A row of its history is complete."""
        self._say("row", "row", "", row)

    def warned(self, message):
        """Something is wrong, and the work continues."""
        self._say("warned", "warning", message, {"message": message})

    def kept(self, index):
        """Layer `index` was already finished and is kept."""
        self._say("done", "kept", "already finished, kept", {"index": index})

    def learned(self, index, facts):
        """Layer `index` is finished and on disk."""
        self._say("done", "learned", describe(facts), {"index": index, **facts})


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
    if facts.get("missing_share"):
        words += f", {facts['missing_share']:.2%} of the data missing and never cut"
    return words


class Recorder(Listener):
    """Writes a layer's history as it grows, and passes everything on; adds the run's probe.

    Args:
        run: to write to. spec: from `kclr.load_spec`.
        first, top: indices from 0 of the layers that are trained, one or several at once.
        listener: hears everything. probe: of the run (see `kclr.probing.callback.StackProbe`), or
            None. callbacks: of the user (see `kclr.training.fit.train_layers`), or None.
        rows_lost: whether the run's rows have lines that could not be read.
    """

    def __init__(
        self,
        run: Run,
        spec: Spec,
        first,
        top,
        listener: Listener,
        probe,
        callbacks,
        rows_lost=False,
    ):
        self._rows_lost = rows_lost
        self._run, self._below, self._layer = run, run.layers[:first], spec.stack[top]
        self._listener, self._probe, self._callbacks = listener, probe, callbacks
        self._name, self._total = self._layer.name or "", None
        self._events: Any = None
        self._watching: Any = list
        if spec.tensorboard:
            import tensorflow as tf

            place = run.path / "tensorboard" / self._name
            self._events = tf.summary.create_file_writer(str(place))

    def heard(self, event):
        if event.kind == "begun":
            self._total = event.total
            self._tell_of_lost_rows(event.done)
            # Rows that were written after the checkpoint will be written again.
            self._run.trim(
                METRICS,
                lambda row: row.get("layer") != self._name or row["step"] <= event.done,
            )
        elif event.kind == "row":
            self._run.append(METRICS, event.facts)
            if self._events:
                import tensorflow as tf

                with self._events.as_default(step=event.facts["step"]):
                    for name, value in event.facts.items():
                        if name != "layer":
                            tf.summary.scalar(name, value)
        elif event.name == "decoding" and self._total is not None:
            return  # these are decoded beside the steps
        self._listener.heard(event)

    def _tell_of_lost_rows(self, done):
        """Warn where rows of the steps before an interruption are damaged or not there."""
        steps = [row["step"] for row in self._run.rows(self._name) if "loss" in row]
        every = math.gcd(*steps) or self._layer.train.log_every
        if done and (self._rows_lost or done - done % every not in steps):
            path = self._run.path / METRICS
            LayerProgress(self._listener, self._name).warned(
                f"{path}: rows of the first {done:,} steps are damaged or missing, and will be "
                "missing in the layer's history. Its training is not affected."
            )

    def watch(self, callbacks):
        """Add what a function returns, Keras callbacks, to those of the training."""
        self._watching = callbacks

    def callbacks(self, layers, blocks, start):
        """The run's probe and the user's callbacks (see `train_layers`)."""
        own = [*self._callbacks(layers, blocks, start)] if self._callbacks else []
        own += self._watching()
        if self._probe is None:
            return own

        def told(row):
            # The history has a row of these steps, which will hold it.
            if row["step"] % self._layer.train.log_every and row["step"] != self._total:
                LayerProgress(self, self._name).row(row)

        return [self._probe.of_training(self._below, layers, blocks, start, told), *own]

    def probed(self, learned: Learned) -> Learned:
        """What was learned, with the last accuracy of the probe and the seconds of all."""
        if self._probe is None:
            return learned
        rows = [row for row in self._run.rows(self._name) if "probe_accuracy" in row]
        rows = rows or [self._probe.of_layer(self._below, self._layer, learned)]
        facts = {
            "probe_accuracy": rows[-1]["probe_accuracy"],
            "probe_seconds": round(sum(row["probe_seconds"] for row in rows), 3),
        }
        return replace(learned, facts=learned.facts | facts)
