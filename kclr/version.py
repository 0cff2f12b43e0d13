"""The versions of kclr and its dependencies, and the hardware, for summaries."""

import os
import platform
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
