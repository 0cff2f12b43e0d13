"""The checkpoint of a training: everything to continue after any step, including the last one.

Two are kept: damage to one file costs only the steps between two saves, not the layer.
"""

import contextlib
import math
import os
import re
import signal
import stat
import struct
import threading
import time
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kclr.errors import RunError
from kclr.runs.paths import as_path, atomic, is_remote, is_there, remove
from kclr.runs.safe_reading import opened
from kclr.training.distribution import put, value_of
from kclr.training.profile import spent

_NUMBER = (), np.dtype(np.float64)
_NAMED = ("last.", "guard.")  # numbers whose names depend on the objective
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '([^']+)', 'fortran_order': False, 'shape': "
    rb"\(([\d, ]*)\), \} *\n",
    re.DOTALL,
)
_OVERHEAD = 4096  # bytes of an array's header, and of its places in the zip file
_MOST_NAMED = 500
_UNUSABLE = (
    OSError, ValueError, EOFError, OverflowError, RuntimeError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class SavedState:
    """What a checkpoint holds.

    Attributes:
        step: int, steps done. seconds: float, of training.
        variables: arrays by the names of `state_variables`.
        last: the last row of the history; empty where there was none, or where an earlier kclr
            wrote it.
        guard: what the `CollapseGuard` had seen.
    """

    step: int
    seconds: float
    variables: dict[str, Any]
    last: dict[str, float]
    guard: dict[str, float]


class Interruptible(keras.callbacks.Callback):
    """Lets Ctrl-C wait for the end of a step, so that it does not strike inside TensorFlow."""

    def __init__(self):
        super().__init__()
        self.pressed = False

    @contextlib.contextmanager
    def interruptible(self):
        """Let Ctrl-C, and SIGTERM where it is taken as Ctrl-C, wait for `interrupt_if_pressed` or
        the end of the block. Pressing twice interrupts at once."""
        own: dict[Any, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is signal.default_int_handler:
                    own[number] = signal.signal(number, self._interrupt)
        try:
            yield
            self.interrupt_if_pressed()
        finally:
            for number, handler in own.items():
                signal.signal(number, handler)

    def interrupt_if_pressed(self):
        """Raise the `KeyboardInterrupt` that has waited, if any."""
        if self.pressed:
            raise KeyboardInterrupt

    def must_wait(self) -> bool:
        """Whether an interruption has to wait now."""
        return True

    def _interrupt(self, number, frame):
        if self.pressed or not self.must_wait():
            raise KeyboardInterrupt
        self.pressed = True


class TrainingState(Interruptible):
    """Saves everything a training needs to continue after any step as if it had never stopped.

    Weights, optimizer, seeds of random layers, the metrics' running means, the last row of the
    history and what the guard has seen go into one file, written under another name and then
    renamed, so that it is always complete. The file before it is kept too (see `previous`). It must
    be the last of the callbacks.

    Args:
        path: of the file.
        history: the training's `StepHistory`.
        every: float, seconds between two saves.
        guard: the training's `CollapseGuard`, if it has one.

    Attributes:
        whole: whether everything is as after `history.step` steps, and may be saved; it is not
            while a step is taken and its callbacks run.
    """

    def __init__(self, path, history, every=20.0, guard=None):
        super().__init__()
        self.path, self.history, self.every, self.guard = as_path(path), history, every, guard
        self.whole = False
        self._saved = time.perf_counter()
        self._stepped = False

    def must_wait(self):
        """While a step is taken, which would be lost; not for the first one, which compiles."""
        return self._stepped and not self.whole

    def on_epoch_begin(self, epoch, logs=None):
        self.whole = True

    def on_train_batch_begin(self, batch, logs=None):
        self.whole = False

    def on_train_batch_end(self, batch, logs=None):
        self.whole = self._stepped = True
        self.interrupt_if_pressed()
        if (
            time.perf_counter() - self._saved >= self.every
            and self.history.step < self.history.total
        ):
            with spent("checkpoints"):
                self.save()

    def save(self):
        """Write the state now.

        Raises:
            RunError: it cannot be written; the last saved file is intact.
        """
        arrays = {
            name: value_of(variable) for name, variable in state_variables(self.model).items()
        }
        arrays["step"] = np.int64(self.history.step)
        arrays["seconds"] = np.float64(self.history.seconds)
        named = {"last": self.history.last, "guard": self.guard.state if self.guard else {}}
        for kind, numbers in named.items():
            arrays |= {f"{kind}.{name}": np.float64(value) for name, value in numbers.items()}
        try:
            with atomic(self.path) as temporary:
                with temporary.open("wb") as file:
                    np.savez(file, **arrays)
                    file.flush()
                    os.fsync(file.fileno())
                if self.path.exists():
                    self.path.replace(previous(self.path))
        except OSError as error:
            raise RunError(
                f"{self.path}: the checkpoint cannot be written: {error.strerror or error}. Free "
                "disk space or fix the directory, and continue with resume=True (--resume)."
            ) from None
        self._saved = time.perf_counter()


def state_variables(model):
    """All variables of a compiled, built model by a name that is the same in every process."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return {f"{index:04d}": variable for index, variable in enumerate(variables)}


def previous(path):
    """Where the checkpoint before the newest is kept."""
    path = as_path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def kept(path) -> list[Any]:
    """The checkpoints that there are, the newest first."""
    return [each for each in (as_path(path), previous(path)) if is_there(each)]


def forget(path) -> None:
    """Remove the checkpoints of a layer that is finished."""
    for each in (as_path(path), previous(path)):
        remove(each)


def restored(model, path, total, warn=print) -> SavedState | None:
    """Put the newest checkpoint that can be used into a built, compiled model.

    Args:
        model: the model.
        path: of the newest checkpoint.
        total: int, steps of the whole training.
        warn: function of a message, called where the newest cannot be used and the one before can.

    Returns:
        What it holds; None where there is no checkpoint.

    Raises:
        RunError: there is one, and none can be used.
    """
    reasons = []
    for each in kept(path):
        try:
            state = read_state(model, each, total)
        except RunError as error:
            reasons.append(str(error))
            continue
        if reasons:
            warn(
                f"{reasons[0]} The training continues from the previous one, saved after "
                f"{state.step:,} steps."
            )
        _put(model, state)
        return state
    if reasons:
        raise RunError(
            " ".join(reasons)
            + f" Remove {'it' if len(reasons) == 1 else 'both'} to train the layer from the start."
        )
    return None


def restore(model, path):
    """Put a `TrainingState` file back into a built, compiled model.

    Returns:
        step, seconds: of training that the file holds. The metrics' running means are set too;
        `fit` would reset them, so `KeepMetrics` puts them back.

    Raises:
        RunError: the file is damaged, or of another model.
    """
    try:
        state = read_state(model, path)
    except RunError as error:
        raise RunError(f"{error} Remove it to train the layer from the start.") from None
    _put(model, state)
    return state.step, state.seconds


def _put(model, state):
    for name, variable in state_variables(model).items():
        put(variable, state.variables[name])


def read_state(model, path, total=None) -> SavedState:
    """What a checkpoint holds, checked against the model before any array is read.

    Args:
        model: built and compiled.
        path: of the file.
        total: int, steps of the whole training; by default any number is accepted.

    Raises:
        RunError: the file is damaged, of another model, or not as kclr writes it.
    """
    path = as_path(path)
    variables = state_variables(model)
    expected = {
        name: (tuple(variable.shape), np.dtype(tf.as_dtype(variable.dtype).as_numpy_dtype))
        for name, variable in variables.items()
    }
    expected |= {"step": ((), np.dtype(np.int64)), "seconds": _NUMBER}
    try:
        if not is_remote(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise ValueError("it is not a regular file")
        with path.open("rb") as file:
            arrays = _arrays(file, expected)
        state = _checked(arrays, total)
        metrics = {id(variable) for variable in model.metrics_variables}
        for name, variable in variables.items():
            floats = np.issubdtype(arrays[name].dtype, np.floating)
            if floats and id(variable) not in metrics and not np.isfinite(arrays[name]).all():
                raise ValueError("its weights contain values that are not finite")
    except _UNUSABLE as error:
        raise RunError(f"{path}: this checkpoint cannot be used: {error}.") from None
    return state


def read_progress(path) -> tuple[int, float]:
    """Steps and seconds of training that a checkpoint says, whatever its model.

    Raises:
        RunError: it is not a checkpoint's file, or what it says cannot be.
    """
    path = as_path(path)
    expected = {"step": ((), np.dtype(np.int64)), "seconds": _NUMBER}
    try:
        with opened(path, path.parent, None) as file, zipfile.ZipFile(file) as packed:
            arrays = {}
            for name, kind in expected.items():
                entry = packed.getinfo(f"{name}.npy")
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _OVERHEAD:
                    raise ValueError("its format is not that of kclr")
                with packed.open(entry) as stream:
                    arrays[name] = _array(stream.read(), *kind)
        state = _checked(arrays, None)
    except (KeyError, *_UNUSABLE) as error:
        words = error.args[0] if isinstance(error, KeyError) else error
        raise RunError(f"{path}: this checkpoint cannot be used: {words}.") from None
    return state.step, state.seconds


def _arrays(file, expected):
    """The arrays of an npz file that holds just what is expected, by shape and dtype."""
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (shape, dtype) in expected.items()}
    room = sum(sizes.values()) + _OVERHEAD * (len(expected) + _MOST_NAMED)
    if file.seek(0, os.SEEK_END) > room:
        raise ValueError("it is larger than the state of this model")
    file.seek(0)
    found = {}
    with zipfile.ZipFile(file) as packed:
        entries = packed.infolist()
        names = [entry.filename.removesuffix(".npy") for entry in entries]
        known = {name for name in names if not name.startswith(_NAMED)}
        if known != expected.keys():
            raise ValueError("it is of another model")
        if len(set(names)) < len(names) or len(names) > len(expected) + _MOST_NAMED:
            raise ValueError("its format is not that of kclr")
        for name, entry in zip(names, entries, strict=True):
            size = sizes.get(name, 8)
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > size + _OVERHEAD:
                raise ValueError("it is of another model")
        for name, entry in zip(names, entries, strict=True):
            with packed.open(entry) as stream:
                found[name] = _array(stream.read(), *expected.get(name, _NUMBER))
    return found


def _array(content, shape, dtype):
    """An array in numpy's format, if it has this shape and dtype."""
    header = _HEADER.match(content)
    if not header:
        raise ValueError("its format is not that of kclr")
    found = tuple(int(size) for size in header[2].decode().split(",") if size.strip())
    if (header[1].decode(errors="replace"), found) != (dtype.str, shape):
        raise ValueError("it is of another model")
    return np.frombuffer(content[header.end() :], dtype).reshape(shape)


def _checked(arrays, total):
    """The state that arrays hold, if its numbers can be."""
    step, seconds = int(arrays["step"]), float(arrays["seconds"])
    if step < 0 or (total is not None and step > total):
        steps = f" of {total:,}" if total is not None else ""
        raise ValueError(f"it is of step {step:,}{steps}")
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"it has {seconds} seconds of training")
    last, guard = (
        {
            name.removeprefix(kind): float(value)
            for name, value in arrays.items()
            if name.startswith(kind)
        }
        for kind in _NAMED
    )
    if not all(math.isfinite(guard.get(name, 0)) for name in ("agreed", "exceeded")):
        raise ValueError("its format is not that of kclr")
    if step == total and not last.keys() >= {"loss", "effective_rank"}:
        raise ValueError(
            "it does not have the last row of the history, like one of an earlier kclr"
        )
    return SavedState(step, seconds, arrays, last, guard)
