"""Classifiers that judge frozen features, one file each.

A readout is what scikit-learn has for a classifier: an object whose `fit(features, labels)` returns
itself and whose `predict(features)` returns the classes. One is registered by its name:

    @register("readout", "svm")
    def svm():
        return make_pipeline(StandardScaler(), LinearSVC())

What is registered is called without arguments; its attribute `title`, where it has one, is what
tables call it. Those here standardise the features by what they are fitted on, choose their
strength (if they have one) on a part of it that is held out, are fitted again on all of it, and
never see anything else. They read the features in blocks, so that these may be a `numpy.memmap`
larger than the memory.
"""
