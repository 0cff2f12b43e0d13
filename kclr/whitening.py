"""Windows of a layer's input: statistics, the maps that decorrelate them, filters found among them.

Windows are flattened kernel by kernel, `(kernel height * kernel width * channels)`, in the order of
a convolution kernel's first three axes. What learners that need no gradient work on (Coates and Ng
2012, "Learning feature representations with k-means"): a filter is a direction in the space of
whitened windows, and answers with their product.
"""

import numpy as np
import tensorflow as tf

from kclr.data.patches import PatchTripletGenerator
from kclr.errors import SpecError
from kclr.health import check_input
from kclr.layers import smallest_image, stacked
from kclr.runs.run import PlainLayer
from kclr.spec.geometry import cut_around


class WindowStatistics:
    """Mean and covariance of windows, gathered batch by batch.

    Args:
        size: int, numbers in a window.
        apart: bool, gather each number's variance alone, which takes a small part of the time.
    """

    def __init__(self, size, apart=False):
        self.count = 0
        self._apart = apart
        self._sum = np.zeros(size)
        self._products = np.zeros(size if apart else (size, size))

    def update(self, windows):
        """Add windows, float (..., size)."""
        windows = np.asarray(windows, np.float64).reshape(-1, len(self._sum))
        self.count += len(windows)
        self._sum += windows.sum(axis=0)
        if self._apart:
            self._products += np.einsum("ij,ij->j", windows, windows)
        else:
            self._products += windows.T @ windows

    @property
    def mean(self):
        """float64 (size,)."""
        return self._sum / max(self.count, 1)

    @property
    def covariance(self):
        """float64 (size, size), the biased estimate; its diagonal, (size,), of numbers apart."""
        if self._apart:
            return self._products / max(self.count, 1) - self.mean**2
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
        covariance: float (channels, channels), or its diagonal, (channels,).
        epsilon: float > 0, added to the variances, as a share of their mean.

    Returns:
        float64 (channels,). Zeros where all variances are.
    """
    variances = covariance if covariance.ndim == 1 else np.diag(covariance)
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


NUMBERS = 125_000_000  # of all windows together, half a gigabyte


_BATCH = 512


def input_windows(below, block, shape, images, random, count, tell=None):
    """Random windows of a layer's input.

    Args:
        below: the layers below (see `kclr.layers.stacked`).
        block: dict, arguments of the layer's `ContrastiveConvBlock`.
        shape: of its kernel: height, width, channels, filters.
        images: what `kclr.data.sources.as_images` takes.
        random: numpy Generator.
        count: int, how many; fewer if they would have more than `NUMBERS` values.
        tell: as `PatchTripletGenerator` has it.

    Returns:
        float32 (count, kernel height, kernel width, channels).

    Raises:
        SpecError: the images have another number of channels.
        RunError: all windows are the same, or have values that are not finite.
    """
    height, width, channels, filters = shape
    single = block | {"pool_size": 1, "pool_strides": None}
    one_cell = [*below, PlainLayer("windows", single, np.zeros(shape), np.zeros(filters))]
    image_channels = one_cell[0].kernel.shape[2]
    size = smallest_image(stacked(one_cell, image_channels, padding="valid"))
    patches = PatchTripletGenerator(
        images,
        patch_size=cut_around(size),
        batch_size=_BATCH,
        seed=int(random.integers(1 << 31)),
        tell=tell,
    )
    if patches.channels != image_channels:
        raise SpecError(
            f"the images have {patches.channels} channels, but the filters {image_channels}. Use "
            f"other images, or data: {{source: ..., channels: {image_channels}}}."
        )
    encode = stacked(below, image_channels, size=size, padding="valid") if below else None
    count = min(count, NUMBERS // (height * width * channels))
    windows = np.empty((count, height, width, channels), np.float32)
    done = 0
    try:
        for crops, _ in patches.crops().take(-(-count // _BATCH)):
            maps = patches.scaling(crops.numpy()[:, : size[0], : size[1]])
            maps = encode.predict_on_batch(maps) if encode else maps
            kept = min(len(maps), count - done)
            windows[done : done + kept] = maps[:kept, :height, :width]
            done += kept
    except tf.errors.OpError:
        # What went wrong while images were read in the background says more than TensorFlow does.
        if patches.failure is None:
            raise
        raise patches.failure from None
    check_input(windows[:done], patches.images.name, below)
    return windows[:done]


class Whitened:
    """Windows made uncorrelated, or of unit variance by channel, and the way back.

    Args:
        windows: float32 (count, height, width, channels); they are overwritten.
        whitening: "zca", "standardize" or "none".
        epsilon: float > 0, as `kclr.whitening` has it.
        standardize: bool, give every channel unit variance before "zca".
        contrast_epsilon: float > 0, to normalise the contrast of every window before all that; None
            for windows as they are.

    Attributes:
        windows: float32 (count, height * width * channels), whitened; as they are with "none".
        covariance: float64 (numbers, numbers) before "zca"; None with the others.
    """

    def __init__(self, windows, whitening, epsilon, standardize=False, contrast_epsilon=None):
        channels = windows.shape[-1]
        self._shape = windows.shape[1:]
        if contrast_epsilon is not None:
            for start in range(0, len(windows), 1024):
                rows = windows[start : start + 1024]
                flat = contrast_normalized(rows.reshape(len(rows), -1), contrast_epsilon)
                rows[:] = flat.reshape(rows.shape)
        self._scale = np.ones(channels, np.float32)
        if whitening == "standardize" or (whitening == "zca" and standardize):
            statistics = WindowStatistics(channels, apart=True)
            for start in range(0, len(windows), 1024):
                statistics.update(windows[start : start + 1024])
            self._scale = standardizing(statistics.covariance, epsilon).astype(np.float32)
            windows *= self._scale
        flat = windows.reshape(len(windows), -1)
        self._mean = np.zeros(flat.shape[1])
        self._transform, self.covariance = None, None
        if whitening != "none":
            self._mean = flat.mean(axis=0, dtype=np.float64)
            flat -= self._mean.astype(np.float32)
        if whitening == "zca":
            self.covariance = covariance(flat)
            self._transform = zca(self.covariance, epsilon)
            flat = flat @ self._transform.astype(np.float32)
        self.windows = flat

    def convolution(self, directions, bias=0.0):
        """The plain convolution that answers with the products of whitened windows and directions;
        of windows of normalised contrast, where these are.

        Args:
            directions: float (numbers, filters).
            bias: float, or (filters,), added to the products.

        Returns:
            kernel: float32 (height, width, channels, filters); bias: float32 (filters,).
        """
        flat = np.asarray(directions, np.float64)
        if self._transform is not None:
            flat = self._transform @ flat
        kernel = flat.reshape(*self._shape, -1) * self._scale[:, None]
        return kernel.astype(np.float32), (bias - self._mean @ flat).astype(np.float32)


def covariance(centred):
    """Covariance in float64; the products in float32, block by block, which is fast."""
    products = np.zeros((centred.shape[1],) * 2)
    for start in range(0, len(centred), 8192):
        block = centred[start : start + 8192]
        products += block.T @ block
    return products / len(centred)


def unit(vectors):
    """Rows scaled to length 1; zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def idle_filters(answers):
    """The filters that never answer, and those that answer as an earlier one does.

    Args:
        answers: float (windows, filters).

    Returns:
        (dead, alike): lists of filter indices. Dead is a standard deviation below a millionth of
        the largest; alike a correlation above 0.99.
    """
    answers = np.asarray(answers, np.float64)
    deviation = answers.std(axis=0)
    dead = np.flatnonzero(deviation <= 1e-6 * max(deviation.max(), 1e-12))
    normed = (answers - answers.mean(axis=0)) / np.maximum(deviation, 1e-12)
    correlation = np.tril(normed.T @ normed / len(normed), k=-1)
    alike = np.setdiff1d(np.flatnonzero((correlation > 0.99).any(axis=1)), dead)
    return dead.tolist(), alike.tolist()
