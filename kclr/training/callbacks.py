"""Keras callbacks of a layer's training: its history, the guard against collapse, dead filters."""

import time

import keras
import numpy as np

from kclr.errors import CollapseError
from kclr.keras_backend import steps_ended
from kclr.spec.wording import any_of
from kclr.training.distribution import put, value_of


class StepHistory(keras.callbacks.Callback):
    """Means of the metrics over every `every` steps, instead of Keras' means over an epoch.

    Args:
        every: int, steps of a row; the last row of a training may be shorter.
        total: int, steps of the whole training.
        on_row: function of a row, called when one is complete: a dict with step (done so far, from
            1), seconds (of training so far), learning_rate, and the model's metrics.
        start: int, steps done before this training.
        seconds: float, of training before this one.
        last: dict, the last row before this training.

    Attributes:
        step: int, steps done so far. last: the last row; empty before it.
    """

    def __init__(self, every, total, on_row, start=0, seconds=0.0, last=None):
        super().__init__()
        self.every, self.total, self.on_row = every, total, on_row
        self.step = start
        self.last: dict[str, float] = dict(last or {})
        self._epoch_start = start
        self._before, self._started = seconds, time.perf_counter()

    @property
    def seconds(self):
        """Seconds of training so far, including those before an interruption."""
        return self._before + time.perf_counter() - self._started

    def on_train_begin(self, logs=None):
        self._started = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self.step

    def on_train_batch_end(self, batch, logs=None):
        before, self.step = self.step, self._epoch_start + steps_ended(self, batch)
        if self.step // self.every == before // self.every and self.step != self.total:
            return
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self.model.reset_metrics()
        self.last = {"step": self.step, "seconds": self.seconds, **metrics, "learning_rate": rate}
        self.on_row(self.last)


class CollapseGuard(keras.callbacks.Callback):
    """Stops a training whose embeddings have become alike (collapsed), a common failure of
    triplets.

    A collapse is a loss at the value that it has for equal embeddings (a triplet's margin), or no
    triplets left to mine, while the embeddings' spread, the distance of negatives, or one minus
    their cosine
        - is below a hundredth of its largest value in this training, or
        - is negligible compared with that loss, and does not grow. Small initial embeddings, which
    start there too, grow from one look to the next. The spread detects embeddings that vanish, the
    other two those that point in one direction. A loss or spread that is not finite also stops the
    training, whatever the action.

    The message suggests the objective's `cures`, a tuple of short phrases, and general ones.

    Args:
        ceiling: float, the loss of embeddings that are all alike; None if it depends on the batch.
            Then it is the metric `alike_loss`, or if there is none, the loss is ignored.
        every: int, steps between two looks; those of `StepHistory`, and before it in the list. It
            also looks after the first step, for a loss that is not finite, and after the last.
        patience: int, looks in a row that must agree.
        action: "stop" raises `CollapseError`; "warn" calls `warn` once and continues.
        warn: function of the message.
        start: int, steps done before this training.
        total: int, steps of the whole training; None if not known.
        excess: function without arguments that returns a message if filters' responses are far too
            large, or an empty text. It is called at every look, and ends the training if `patience`
            looks agree and the action is "stop".

    Attributes:
        state: dict of floats, what it has seen. A resumed training sets it.

    Raises:
        CollapseError: from `fit`, with the reason and what to try.
    """

    def __init__(
        self,
        ceiling,
        every,
        patience=3,
        action="stop",
        warn=print,
        start=0,
        total=None,
        excess=None,
    ):
        super().__init__()
        if action not in ("stop", "warn"):
            raise ValueError(f"action must be 'stop' or 'warn'; got {action!r}")
        self.ceiling, self.every, self.patience = ceiling, every, patience
        self.action, self.warn, self.total = action, warn, total
        self._steps, self._epoch_start, self._agreed, self._warned = start, start, 0, False
        self._largest, self._before = {}, {}
        self._excess, self._exceeded = excess, 0

    @property
    def state(self) -> dict[str, float]:
        return {
            "agreed": float(self._agreed),
            "warned": float(self._warned),
            "exceeded": float(self._exceeded),
            **{f"largest.{name}": value for name, value in self._largest.items()},
            **{f"before.{name}": value for name, value in self._before.items()},
        }

    @state.setter
    def state(self, seen):
        self._agreed, self._warned = int(seen.get("agreed", 0)), bool(seen.get("warned", 0))
        self._exceeded = int(seen.get("exceeded", 0))
        for kind, numbers in (("largest.", self._largest), ("before.", self._before)):
            numbers.clear()
            numbers |= {
                name.removeprefix(kind): value
                for name, value in seen.items()
                if name.startswith(kind)
            }

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self._steps

    def on_train_batch_end(self, batch, logs=None):
        before, self._steps = self._steps, self._epoch_start + steps_ended(self, batch)
        looks = self._steps // self.every != before // self.every or self._steps == self.total
        if not looks and before > 0:
            return
        logs = {name: float(value) for name, value in (logs or {}).items()}
        for name in ("loss", "spread"):
            if not np.isfinite(logs[name]):
                steps = "step" if self._steps == 1 else "steps"
                raise CollapseError(
                    f"the {name} is {logs[name]} after {self._steps} {steps}. Try a smaller "
                    "learning_rate, precision: float32, or clipnorm in the optimizer's config."
                )
        if not looks:
            return
        if self._excess and self.action == "stop":
            words = self._excess()
            self._exceeded = self._exceeded + 1 if words else 0
            if self._exceeded >= self.patience:
                raise CollapseError(f"after {self._steps} steps {words}")
        self._agreed = self._agreed + 1 if self._alike(logs) else 0
        if self._agreed < self.patience or self._warned:
            return
        message = self._describe(logs)
        if self.action == "stop":
            raise CollapseError(message)
        self._warned = True
        self.warn(message)

    def _alike(self, logs):
        ceiling = logs.get("alike_loss", self.ceiling)
        stuck = ceiling is None or logs["loss"] >= ceiling - 0.02 * abs(ceiling)
        stuck |= logs.get("active_share") == 0
        unit = abs(self.ceiling) if self.ceiling else 1.0
        # A spread has the embeddings' unit, which is not that of every objective's loss.
        measures = {"spread": 1e-6 * unit, "negative_distance": 0.01 * unit}
        apart = {name: (logs[name], nothing) for name, nothing in measures.items() if name in logs}
        # Of a list of objectives, the name of each is before its own measures.
        for name in (own for own in logs if own.endswith("_negative_distance")):
            apart[name] = logs[name], measures["negative_distance"]
        for name in (own for own in logs if own.endswith("negative_similarity")):
            apart[name.replace("negative_similarity", "direction")] = 1 - logs[name], 1e-4
        vanished = False
        for name, (value, nothing) in apart.items():
            before = self._before.get(name, np.inf)
            self._before[name] = value
            self._largest[name] = max(self._largest.get(name, 0.0), value)
            still = value <= max(before, 1e-6 * unit)
            vanished |= value <= 0.01 * self._largest[name] or (value <= nothing and still)
        return stuck and vanished

    def _describe(self, logs):
        ceiling = logs.get("alike_loss", self.ceiling)
        alike = ""
        if ceiling is not None:
            alike = f" (for embeddings that are all alike it is {ceiling:.3g})"
        own = getattr(getattr(self.model.loss, "objective", None), "cures", ())
        cures = ("whitening: zca", *own, "a smaller learning_rate", "a larger batch_size")
        return (
            f"the embeddings have collapsed: the loss stays at {logs['loss']:.3g}{alike}, their "
            f"spread is {logs['spread']:.3g} (largest: {self._largest['spread']:.3g}), and their "
            f"effective rank is {logs['effective_rank']:.2f}. Try {any_of(cures)}; on_collapse: "
            "warn continues anyway."
        )


class KeepMetrics(keras.callbacks.Callback):
    """Keeps the metrics' running means over the reset at the start of `fit`."""

    def on_train_begin(self, logs=None):
        self._kept = [(variable, value_of(variable)) for variable in self.model.metrics_variables]

    def on_epoch_begin(self, epoch, logs=None):
        while self._kept:  # only at the start of the first epoch
            variable, value = self._kept.pop()
            put(variable, value)
