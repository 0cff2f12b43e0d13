"""kclr: layer-wise contrastive representation learning for Keras.

The public names below are imported when they are first used, so that `import kclr` is quick.
"""

import importlib
from typing import TYPE_CHECKING

from kclr.version import __version__

if TYPE_CHECKING:
    from kclr import callbacks, initializers, losses, search, transfer
    from kclr.data.patches import PatchTripletGenerator
    from kclr.errors import RunError, SpecError
    from kclr.layers import ContrastiveConvBlock
    from kclr.model import TripletModel
    from kclr.run import load_run
    from kclr.spec import load_spec
    from kclr.stack import train

_HOMES = {
    "ContrastiveConvBlock": "kclr.layers",
    "PatchTripletGenerator": "kclr.data.patches",
    "RunError": "kclr.errors",
    "SpecError": "kclr.errors",
    "TripletModel": "kclr.model",
    "load_run": "kclr.run",
    "load_spec": "kclr.spec",
    "train": "kclr.stack",
}
_MODULES = ("callbacks", "initializers", "losses", "search", "transfer")

__all__ = [
    "ContrastiveConvBlock",
    "PatchTripletGenerator",
    "RunError",
    "SpecError",
    "TripletModel",
    "__version__",
    "callbacks",
    "initializers",
    "load_run",
    "load_spec",
    "losses",
    "search",
    "train",
    "transfer",
]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"kclr.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kclr' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
