"""What learned filters are worth to a classifier: the probe, its baselines, and classifiers.

    kclr.transfer.initialize(model, run, layers=2, freeze=True)

starts any Keras model from a run; see `kclr.transfer.starting`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kclr.transfer.starting import InitializeReport, initialize

_HOME = "kclr.transfer.starting"

__all__ = ["InitializeReport", "initialize"]


def __getattr__(name):
    if name in __all__:
        value = getattr(importlib.import_module(_HOME), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kclr.transfer' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
