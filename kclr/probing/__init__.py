"""Frozen features and the simple classifiers that evaluate them, for `kclr probe` and `Probe`."""
