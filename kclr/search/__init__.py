"""Searches over the keys of a spec with keras-tuner: `kclr search SPEC`, or your own script.

    hypermodel = kclr.search.StackHyperModel("my.yaml")
    tuner = keras_tuner.RandomSearch(hypermodel, objective=hypermodel.objective)

See `kclr.search.hypermodel`; keras-tuner comes with `pip install kclr[search]`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
