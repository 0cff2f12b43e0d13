"""Keras callbacks of a layer's training: the history, the checkpoint, the guard, and the probe."""

import os
import time
import zipfile
import zlib

import keras
import numpy as np

from kclr.distribution import put, value_of
from kclr.errors import RunError
from kclr.paths import as_path, atomic
from kclr.probing.callback import Probe as Probe
from kclr.spec.wording import any_of


class CollapseError(RunError):
    """Training drove all embeddings together, or the loss out of numbers."""


class StepHistory(keras.callbacks.Callback):
    """Means of the metrics over every so many steps, in place of Keras' means over an epoch.

    Args:
        every: int, steps of a row; the last row of a training may be shorter.
        total: int, steps of the whole training.
        on_row: function of a row, called when one is complete: a dict with step (done so far, from
            1), seconds (of training so far), learning_rate, and the model's metrics.
        start: int, steps done before this training.
        seconds: float, of training before this one.

    Attributes:
        step: int, steps done so far. last: the last row; empty before it.
    """

    def __init__(self, every, total, on_row, start=0, seconds=0.0):
        super().__init__()
        self.every, self.total, self.on_row = every, total, on_row
        self.step = start
        self.last: dict[str, float] = {}
        self._epoch_start = start
        self._before, self._started = seconds, time.perf_counter()

    @property
    def seconds(self):
        """Seconds of training so far, those before an interruption included."""
        return self._before + time.perf_counter() - self._started

    def on_train_begin(self, logs=None):
        self._started = time.perf_counter()

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self.step

    def on_train_batch_end(self, batch, logs=None):
        # With steps_per_execution one call stands for several steps.
        before, self.step = self.step, self._epoch_start + batch + 1
        if self.step // self.every == before // self.every and self.step != self.total:
            return
        rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        metrics = {name: float(value) for name, value in (logs or {}).items()}
        self.model.reset_metrics()
        self.last = {"step": self.step, "seconds": self.seconds, **metrics, "learning_rate": rate}
        self.on_row(self.last)


class CollapseGuard(keras.callbacks.Callback):
    """Stops a training whose embeddings have become alike: the failure that triplets are known for.

    A collapse is a loss at the value it has when all embeddings are equal (a triplet's margin), or
    no triplet left to mine, while the embeddings' spread, the distance of negatives, or what their
    cosine lacks to 1
        - is below a hundredth of the largest that this training has seen, or
        - is nothing against that loss, and does not grow. Small initial embeddings, which start
          there too, grow from one look to the next.
    Spread tells of embeddings that died, the other two of those that point one way (a cosine
    sees no length). A loss or spread that is no number stops the training too, whatever the
    action.

    What to try is the objective's `cures`, a tuple of short phrases, and what helps them all.

    Args:
        ceiling: float, the loss of embeddings that are all alike; None where it depends on the
            batch. Then it is the metric `alike_loss`, or where there is none, the loss says nothing
            and the rest decides.
        every: int, steps between two looks; those of `StepHistory`, and before it in the list.
        patience: int, looks in a row that must agree.
        action: "stop" raises `CollapseError`; "warn" calls `warn` once and goes on.
        warn: function of the message.

    Raises:
        CollapseError: from `fit`, with the reason and what to try.
    """

    def __init__(self, ceiling, every, patience=3, action="stop", warn=print):
        super().__init__()
        if action not in ("stop", "warn"):
            raise ValueError(f"action must be 'stop' or 'warn'; got {action!r}")
        self.ceiling, self.every, self.patience = ceiling, every, patience
        self.action, self.warn = action, warn
        self._steps, self._epoch_start, self._agreed, self._warned = 0, 0, 0, False
        self._largest, self._before = {}, {}

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self._steps

    def on_train_batch_end(self, batch, logs=None):
        before, self._steps = self._steps, self._epoch_start + batch + 1
        if self._steps // self.every == before // self.every:
            return
        logs = {name: float(value) for name, value in (logs or {}).items()}
        for name in ("loss", "spread"):
            if not np.isfinite(logs[name]):
                raise CollapseError(
                    f"the {name} is {logs[name]} after {self._steps} steps. Try a smaller "
                    "learning_rate, precision: float32, or clipnorm in the optimizer's config."
                )
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
        if "negative_similarity" in logs:
            apart["direction"] = 1 - logs["negative_similarity"], 1e-4
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
            alike = f" (that of embeddings that are all alike is {ceiling:.3g})"
        own = getattr(getattr(self.model.loss, "objective", None), "cures", ())
        cures = ("whitening: zca", *own, "a smaller learning_rate", "a larger batch_size")
        return (
            f"the embeddings have collapsed: the loss stays at {logs['loss']:.3g}{alike}, their "
            f"spread is {logs['spread']:.3g} and was up to {self._largest['spread']:.3g}, and "
            f"their effective rank is {logs['effective_rank']:.2f}. Try {any_of(cures)}; "
            "on_collapse: warn goes on all the same."
        )


class TrainingState(keras.callbacks.Callback):
    """Saves all that a training needs to go on after any step as if it had never stopped.

    Weights, optimizer, seeds of random layers and the metrics' running means go into one file,
    written beside and then renamed, so that a file is always whole.

    Args:
        path: of the file.
        history: the training's `StepHistory`.
        every: float, seconds between two saves.
    """

    def __init__(self, path, history, every=20.0):
        super().__init__()
        self.path, self.history, self.every = as_path(path), history, every
        self._saved = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        if (
            time.perf_counter() - self._saved >= self.every
            and self.history.step < self.history.total
        ):
            self.save()

    def save(self):
        """Write the state now.

        Raises:
            RunError: it cannot be written; the file of the last save is whole.
        """
        arrays = {
            name: value_of(variable) for name, variable in state_variables(self.model).items()
        }
        arrays["step"] = np.asarray(self.history.step)
        arrays["seconds"] = np.asarray(self.history.seconds)
        try:
            with atomic(self.path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"{self.path}: the checkpoint cannot be written: {error.strerror or error}. Make "
                "room or mend the directory, and go on with --resume."
            ) from None
        self._saved = time.perf_counter()


def state_variables(model):
    """All variables of a compiled, built model by a name that is the same in every process."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return {f"{index:04d}": variable for index, variable in enumerate(variables)}


def restore(model, path):
    """Put a `TrainingState` file back into a built, compiled model.

    Returns:
        step, seconds: of training that the file holds. The metrics' running means are set too;
        `fit` would reset them, so `KeepMetrics` puts them back.

    Raises:
        RunError: the file is damaged, or of another model.
    """
    try:
        with as_path(path).open("rb") as file, np.load(file) as arrays:
            saved = dict(arrays)
        variables = state_variables(model)
        if saved.keys() - {"step", "seconds"} != variables.keys():
            raise ValueError("it is of another model")
        for name, variable in variables.items():
            if saved[name].shape != tuple(variable.shape):
                raise ValueError("it is of another model")
        step, seconds = int(saved["step"]), float(saved["seconds"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise RunError(
            f"{path}: this checkpoint cannot be used: {error}. Remove it, and the layer starts "
            "again."
        ) from None
    for name, variable in variables.items():
        put(variable, saved[name])
    return step, seconds


class KeepMetrics(keras.callbacks.Callback):
    """Carries the metrics' running means over the reset at the start of `fit`."""

    def on_train_begin(self, logs=None):
        self._kept = [(variable, value_of(variable)) for variable in self.model.metrics_variables]

    def on_epoch_begin(self, epoch, logs=None):
        while self._kept:  # only at the start of the first epoch
            variable, value = self._kept.pop()
            put(variable, value)
