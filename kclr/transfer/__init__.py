"""How useful learned filters are to a classifier: the probe, its baselines, and classifiers.

    kclr.transfer.initialize(model, run, layers=2, freeze=True)

starts any Keras model from a run; see `kclr.transfer.starting`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
