"""The versions of kclr and its dependencies, and the hardware, for summaries."""

import os
import platform
import time
from typing import Any

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "kclr": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }


def has_amx() -> bool:
    """Whether the processor multiplies matrices of bfloat16 faster than those of float32.

    That it has AMX, and that oneDNN, which TensorFlow computes with, is not kept from using it.
    AVX-512's own instructions for bfloat16 are no faster in a training step.
    """
    held = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" or not (
        held in ("", "ALL", "DEFAULT") or "AMX" in held
    ):
        return False
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return any("amx_bf16" in line for line in file if line.startswith("flags"))
    except OSError:
        return False


def matmul_speed() -> float:
    """Floating-point operations a second of numpy's float32 matrix product, the best of some."""
    import numpy as np

    side = 512
    matrix = np.ones((side, side), np.float32)
    seconds: list[float] = []
    while sum(seconds) < 0.01 or len(seconds) < 3:
        start = time.perf_counter()
        _ = matrix @ matrix
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def hardware() -> dict[str, Any]:
    """What a run or an experiment was made on."""
    import tensorflow as tf

    return {
        "machine": platform.machine(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpus": [
            tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
            for gpu in tf.config.list_physical_devices("GPU")
        ],
    }
