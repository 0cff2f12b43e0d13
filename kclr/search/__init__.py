"""Searches over the keys of a spec with keras-tuner: `kclr search SPEC`, or a script of your own.

    hypermodel = kclr.search.StackHyperModel("my.yaml")
    tuner = keras_tuner.RandomSearch(hypermodel, objective=hypermodel.objective)

See `kclr.search.hypermodel`; keras-tuner comes with `pip install kclr[search]`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kclr.search.hypermodel import StackHyperModel

_HOME = "kclr.search.hypermodel"

__all__ = ["StackHyperModel"]


def __getattr__(name):
    if name in __all__:
        value = getattr(importlib.import_module(_HOME), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'kclr.search' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
