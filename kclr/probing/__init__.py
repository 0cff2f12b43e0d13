"""Frozen features and the simple classifiers that evaluate them, for `kclr probe` and `Probe`.

A linear probe (Alain and Bengio 2016, "Understanding intermediate layers using linear classifier
probes") fits a linear classifier on the output of a layer for labelled images, while the layer
itself stays frozen, and scores it on other images. Its accuracy says how much about the classes a
linear classifier can read from the features, not how good a network would be that is fine-tuned
from them; `kclr.transfer` measures that. Figures can be compared only if images, labels, pooling
(`kclr.pooling.Pooling`) and classifier (`kclr.probing.readouts`) are the same.
"""
