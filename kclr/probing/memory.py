"""Features that may be larger than the memory: kept on disk, read and standardised in blocks."""

import tempfile

import numpy as np

BLOCK = 4096  # images
MEMORY = 4096  # megabytes of features; more are kept on disk
_MEGABYTE = 1 << 20


def room(shape, memory=MEMORY):
    """An empty float32 array, on disk if it takes over `memory` MB."""
    if 4 * np.prod(shape, dtype=np.int64) <= memory * _MEGABYTE:
        return np.empty(shape, np.float32)
    with tempfile.TemporaryFile(prefix="kclr-features-") as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))


def blocks(rows):
    """Some rows of features, int (rows,), in parts that the memory holds."""
    return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))


def changed(features, rows, change):
    """A function of float32 (images, numbers) of some rows: float32 of the same shape."""
    out, done = room((len(rows), features.shape[1])), 0
    for part in blocks(rows):
        out[done : done + len(part)] = change(features[part])
        done += len(part)
    return out


def of_rows(features, rows):
    """Some rows, int (rows,), ascending; all of them are not copied."""
    return features if len(rows) == len(features) else changed(features, rows, lambda own: own)


def standard(features, rows, scale=True):
    """Mean and standard deviation of each feature, float64; 1 for one that is always the same, and
    for all unless `scale`."""
    total, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    shift = features[rows[0]].astype(np.float64)
    for part in blocks(rows):
        values = features[part] - shift
        total += values.sum(axis=0)
        squares += np.square(values, out=values).sum(axis=0)
    mean = total / len(rows)
    if not scale:
        return shift + mean, np.ones_like(mean)
    variance = squares / len(rows) - mean**2
    return shift + mean, np.sqrt(np.where(variance > 1e-14 * (shift + mean) ** 2, variance, 1))
