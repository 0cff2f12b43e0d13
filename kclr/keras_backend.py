"""Keras as kclr needs it: on TensorFlow, in which precision, compiled or not, and knowing kclr's
classes.

`import kclr` does not import Keras, but `.keras` files of kclr must load after it. So kclr's
classes are registered with Keras at once if Keras is already imported, otherwise when it is.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kclr.errors import RunError
from kclr.version import has_amx

# Modules that register classes with Keras.
_REGISTERING = (
    "kclr.layers", "kclr.losses", "kclr.pooling", "kclr.initializers", "kclr.model",
    "kclr.probing.alignment",
)  # fmt: skip


def require_tensorflow(what: str) -> None:
    """Fail if Keras does not run on TensorFlow.

    Args:
        what: needs it, in the message.

    Raises:
        RunError: Keras has another backend.
    """
    try:
        import keras

        backend = keras.config.backend()
    except ImportError as error:
        backend = os.environ.get("KERAS_BACKEND", "")
        if backend in ("", "tensorflow") and error.name in ("keras", "tensorflow"):
            raise
        backend = backend or f"one that cannot be imported ({error})"
    if backend != "tensorflow":
        origin = "by KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else "by keras.json"
        raise RunError(
            f"{what} needs Keras on TensorFlow, but its backend is {backend} ({origin}). Set the "
            "environment variable KERAS_BACKEND=tensorflow before Keras is imported."
        )


def steps_ended(callback, batch: int) -> int:
    """The steps of an epoch that have ended when Keras calls a callback's `on_train_batch_end`.

    Args:
        callback: of the training. batch: what it is called with.
    """
    import keras

    at_once = getattr(callback.model, "steps_per_execution", None) or 1
    # Older versions tell the first of several steps at once, newer ones the last.
    if at_once == 1 or tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 11):
        return batch + 1
    return min(batch + at_once, callback.params.get("steps") or batch + at_once)


def compiles(
    asked: bool | str = "auto", precision="float32", able: bool = True, on_gpu: bool = False
) -> bool:
    """Whether XLA compiles some work; numbers are the same up to rounding.

    Measured on a CPU: XLA wins in float32, oneDNN wins bfloat16 convolutions. The first step is
    slow with it, so that a training of few steps is done sooner without: KCLR_XLA=0 turns off what
    is not asked for.

    Args:
        asked: True, False, or "auto" for what was measured to be faster.
        precision: the dtype policy, or the dtype that its convolutions compute in.
        able: whether XLA takes it; not every layer of Keras can be compiled.
        on_gpu: whether it may be compiled where there is a GPU: Keras offers no XLA there together
            with determinism, which a training needs.
    """
    if asked != "auto":
        return bool(asked)
    if not able or precision != "float32" or os.environ.get("KCLR_XLA") == "0":
        return False
    import tensorflow as tf

    return on_gpu or not tf.config.list_physical_devices("GPU")


def bfloat16_units() -> bool:
    """Whether the device that trains has units for bfloat16: its GPUs, or else the processor."""
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    gpus = [details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    if gpus:
        return all(gpu.get("compute_capability", (0,)) >= (8,) for gpu in gpus)
    return has_amx()


@contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """While the block runs, Keras builds layers with this dtype policy, as "mixed_bfloat16".

    With "auto" it is that where the device has units for bfloat16, and else "float32".
    """
    import keras

    if precision == "auto":
        precision = "mixed_bfloat16" if bfloat16_units() else "float32"
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def register_classes() -> None:
    """Register kclr's classes with Keras, now or when it is imported."""
    if not _register():
        sys.meta_path.insert(0, _Watcher())


def _register() -> bool:
    """Whether Keras and TensorFlow are there, and nothing is left to wait for."""
    if not _imported("keras") or not _imported("tensorflow"):
        return False
    # What keeps kclr from working with this Keras is said where kclr is used, not here.
    with suppress(Exception):
        for module in _REGISTERING:
            importlib.import_module(module)
    return True


def _imported(name):
    """Whether a module has been imported, to its end."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


class _Watcher:
    """Finds Keras and TensorFlow as Python would, and looks again once either is imported.

    Each imports the other somewhere, so that only the outer one's end is the time.
    """

    def __init__(self):
        self._finding = False

    def find_spec(self, name, path=None, target=None):
        """The module's spec, whose loader registers kclr's classes when it is done."""
        if name not in ("keras", "tensorflow") or self._finding:
            return None
        self._finding = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._finding = False
        if spec is not None and spec.loader is not None:
            executed = spec.loader.exec_module

            def exec_module(module):
                executed(module)
                spec._initializing = False  # type: ignore[attr-defined]
                if self in sys.meta_path and _register():
                    sys.meta_path.remove(self)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
