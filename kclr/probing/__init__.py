"""Frozen features judged by simple classifiers: what stands below `kclr probe` and `Probe`."""
