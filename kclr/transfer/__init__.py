"""What learned filters are worth to a classifier: the probe and its baselines."""
