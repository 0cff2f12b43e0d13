"""Where the time of a run goes, and a trace of some steps for TensorBoard (`--profile`)."""

import contextlib
import contextvars
import json
import time
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kclr.events import Event
from kclr.runs.run import Run

WAIT, FIRST, STEPS, FROZEN = "wait for input", "first step", "other steps", "frozen layers"
# As they stand in the table.
PROFILE, REST = "this profile", "all else"
PARTS = (FIRST, WAIT, STEPS, "checkpoints", "probe", "pictures", "export", PROFILE, REST)
_TRACED = range(5, 15)  # steps of each training, from 0
_TIMED = 3  # runs of the frozen layers alone
_current: contextvars.ContextVar[Any] = contextvars.ContextVar("kclr_profile", default=None)


@contextlib.contextmanager
def spent(part: str) -> Iterator[None]:
    """Count the time of the block as that of a part, if a profile is made."""
    profile = _current.get()
    if profile is None:
        yield
        return
    with profile.of(part):
        yield


class Profile:
    """The seconds of a run's parts, layer by layer, while its `with` block runs.

    Args:
        run: to write to.

    Attributes:
        layer: str, whose time it is now; "" for what belongs to none.
        seconds: by layer and part. What one part spends within another counts for itself alone.
        frozen: by layer, the share of its steps that the frozen layers below take alone.
    """

    def __init__(self, run: Run):
        self.run, self.layer = run, ""
        self.seconds: dict[str, dict[str, float]] = {}
        self.frozen: dict[str, float] = {}
        self._whole: dict[str, float] = {}
        self._within: list[float] = []

    def __enter__(self):
        self._token = _current.set(self)
        self._started = self._turned = time.perf_counter()
        return self

    def __exit__(self, *error):
        _current.reset(self._token)

    def turn(self, layer: str | None) -> None:
        """Another layer begins, or "" for what belongs to none."""
        now = time.perf_counter()
        self._whole[self.layer] = self._whole.get(self.layer, 0.0) + now - self._turned
        self.layer, self._turned = layer or "", now

    @contextlib.contextmanager
    def of(self, part: str) -> Iterator[None]:
        """Count the time of the block as that of a part."""
        started, layer = time.perf_counter(), self.layer
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = time.perf_counter() - started
            own = self.seconds.setdefault(layer, {})
            own[part] = own.get(part, 0.0) + whole - self._within.pop()
            if self._within:
                self._within[-1] += whole

    def finished(self) -> Event:
        """Write `profile.json`, and say where the time went."""
        self.turn("")
        for layer, whole in self._whole.items():
            own = self.seconds.setdefault(layer, {})
            own[REST] = max(0.0, whole - sum(own.values()))
        facts: dict[str, Any] = {
            "seconds": round(time.perf_counter() - self._started, 3),
            "parts": {
                layer: {part: round(seconds, 3) for part, seconds in own.items()}
                for layer, own in self.seconds.items()
            },
            "frozen_share_of_steps": {k: round(own, 3) for k, own in self.frozen.items()},
        }
        self.run.write_text("profile.json", json.dumps(facts, indent=2) + "\n")
        return Event("done", "profiled", "", "\n".join(self._table()), facts)

    def _table(self) -> Iterator[str]:
        layers = [layer for layer in self.seconds if layer]
        columns = [*layers, "in all"]
        widths = [max(9, len(column)) for column in columns]
        yield "Where the time went, in seconds:"

        def row(name, values):
            cells = (value.rjust(width) for value, width in zip(values, widths, strict=True))
            return f"  {name:24}" + "  ".join(cells)

        yield row("", columns)
        for part in PARTS:
            own = [self.seconds[layer].get(part, 0.0) for layer in layers]
            total = sum(parts.get(part, 0.0) for parts in self.seconds.values())
            if total >= 0.005:
                yield row(part, [f"{value:.2f}" for value in (*own, total)])
            if part == STEPS and self.frozen:
                shares = [self.frozen.get(layer) for layer in layers]
                shown = ["" if share is None else f"{share:.0%}" for share in shares]
                yield row("  of it frozen layers", [*shown, ""])
        yield (
            f"The first step is traced, and compiled. Steps {_TRACED[0]} to {_TRACED[-1]} of each "
            "layer, operation by operation:"
        )
        yield f"  tensorboard --logdir {self.run.path / 'tensorboard'}"
        yield "which shows them with the package tensorboard-plugin-profile."

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks that time the steps of the training that begins."""
        return [_Steps(self)]


class _Steps(keras.callbacks.Callback):
    """Takes the training's steps apart: waiting for a batch, and what is done with it.

    The step is the same function as Keras', so that the numbers are too.
    """

    def __init__(self, profile: Profile):
        super().__init__()
        self._profile, self._done, self._tracing = profile, 0, False
        self._inputs: tuple = ()

    def on_train_begin(self, logs=None):
        step = tf.function(
            self.model.train_step, jit_compile=self.model.jit_compile, reduce_retracing=True
        )

        def train_function(iterator):
            with self._profile.of(WAIT):
                batch = next(iterator)
            self._inputs = tuple(batch[0].shape)
            with self._profile.of(STEPS if self._done else FIRST):
                answers = step(batch)
                # It may be done later, on a device.
                return {name: tf.convert_to_tensor(own.numpy()) for name, own in answers.items()}

        self.model.train_function = train_function

    def on_train_batch_begin(self, batch, logs=None):
        if self._done == _TRACED[0]:
            with self._profile.of(PROFILE):
                place = self._profile.run.path / "tensorboard" / self._profile.layer
                tf.profiler.experimental.start(str(place))
            self._tracing = True
        elif self._done > _TRACED[-1]:
            self._end_trace()

    def on_train_batch_end(self, batch, logs=None):
        self._done += 1

    def _end_trace(self):
        if self._tracing:
            with self._profile.of(PROFILE):
                tf.profiler.experimental.stop()
            self._tracing = False

    def on_train_end(self, logs=None):
        self._end_trace()
        self.model.train_function = None
        steps = self._profile.seconds.get(self._profile.layer, {}).get(STEPS, 0.0)
        with self._profile.of(PROFILE):
            frozen = self._frozen()
        if frozen is not None and steps:
            share = frozen * (self._done - 1) / steps
            self._profile.frozen[self._profile.layer] = min(1.0, share)

    def _frozen(self):
        """Seconds of the frozen layers for a batch, alone; None where there are none."""
        encoder = self.model.encoder
        found = [
            layer
            for layer in getattr(encoder, "layers", [])
            if isinstance(layer, keras.Model) and not layer.trainable
        ]
        if not found or not self._inputs:
            return None
        count = self._inputs[0] * (self._inputs[1] if len(self._inputs) == 5 else 1)
        run = tf.function(
            lambda images: found[0](images, training=False), jit_compile=self.model.jit_compile
        )
        images, seconds = tf.zeros((count, *self._inputs[-3:]), found[0].compute_dtype), []
        for _ in range(_TIMED):
            started = time.perf_counter()
            run(images)[0, 0, 0, 0].numpy()
            seconds.append(time.perf_counter() - started)
        return min(seconds[1:])
