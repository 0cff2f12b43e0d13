"""Whitening: the linear map that decorrelates windows of images or feature maps; their contrast.

Windows are flattened kernel by kernel, `(kernel height * kernel width * channels)`, in the order of
a convolution kernel's first three axes. numpy only, in float64.
"""

import numpy as np


class WindowStatistics:
    """Mean and covariance of windows, gathered batch by batch.

    Args:
        size: int, numbers in a window.
    """

    def __init__(self, size):
        self.count = 0
        self._sum = np.zeros(size)
        self._products = np.zeros((size, size))

    def update(self, windows):
        """Add windows, float (..., size)."""
        windows = np.asarray(windows, np.float64).reshape(-1, len(self._sum))
        self.count += len(windows)
        self._sum += windows.sum(axis=0)
        self._products += windows.T @ windows

    @property
    def mean(self):
        """float64 (size,)."""
        return self._sum / max(self.count, 1)

    @property
    def covariance(self):
        """float64 (size, size), the biased estimate."""
        return self._products / max(self.count, 1) - np.outer(self.mean, self.mean)


def zca(covariance, epsilon):
    """The symmetric whitening matrix (Bell and Sejnowski 1997, "The independent components of
    natural scenes are edge filters", section 2), regularised.

    Args:
        covariance: float (size, size), symmetric.
        epsilon: float > 0, added to the eigenvalues, as a share of their mean. So it means the
            same for pixels and for feature maps of any scale.

    Returns:
        float64 (size, size), symmetric. Zeros where the covariance is zero.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0)
    floor = epsilon * values.mean()
    if floor == 0:
        return np.zeros_like(covariance)
    return (vectors / np.sqrt(values + floor)) @ vectors.T


def standardizing(covariance, epsilon):
    """The factors that give each channel unit variance.

    Args:
        covariance: float (channels, channels).
        epsilon: float > 0, added to the variances, as a share of their mean.

    Returns:
        float64 (channels,). Zeros where all variances are.
    """
    variances = np.diag(covariance)
    floor = epsilon * variances.mean()
    return 1 / np.sqrt(variances + floor) if floor > 0 else np.zeros_like(variances)


def contrast_normalized(windows, epsilon):
    """Windows of mean 0 and variance 1 each, over all their numbers (Coates and Ng 2011, "An
    analysis of single-layer networks in unsupervised feature learning", section 3.1).

    Args:
        windows: float (windows, numbers).
        epsilon: float > 0, added to the variances, in the unit of the windows squared.

    Returns:
        float of the same shape and dtype.
    """
    mean, variance = (
        part(windows, axis=1, keepdims=True, dtype=np.float64) for part in (np.mean, np.var)
    )
    return ((windows - mean) / np.sqrt(variance + epsilon)).astype(windows.dtype)
