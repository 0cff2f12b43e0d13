"""Kernels that were not learned by contrast, with a run's geometry, to compare it with.

- `random`: Glorot uniform, as Keras starts its convolutions, with biases of zero.
- `whitened`: random whitened patches of the data as filters.
- `kmeans`: centroids of whitened patches on the unit sphere (Coates and Ng 2012, "Learning feature
  representations with k-means").
- `pca`: principal components of the patches, scaled to unit variance.

All but the first see their input through ZCA whitening, which is folded into plain kernels. Above
the first layer the input is the map of the layers below, standardised by channel before that; where
a kernel's window of it holds more than 5,000 numbers, that is all, for the whitening would take
hours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kclr.data.patches import PatchTripletGenerator
from kclr.data.sources import Images, as_images
from kclr.errors import SpecError
from kclr.export import smallest_image
from kclr.layers import stacked
from kclr.spec import parse_spec
from kclr.whitening import WindowStatistics, standardizing, zca

EPSILON = 0.01  # regularisation of the whitening, as in specs
PATCHES = 100_000
_PATCH_NUMBERS = 125_000_000  # of all patches together, half a gigabyte
_MOST_WHITENED = 5000
_KMEANS_STEPS = 25
_BATCH = 512


@dataclass(frozen=True)
class BaselineLayer:
    """A layer that `kclr.layers.stacked` takes, as a trained one.

    Attributes:
        name, block: of the run's layer.
        kernel: float32 (kernel height, kernel width, channels in, filters); bias: (filters,).
    """

    name: str
    block: dict[str, Any]
    kernel: Any
    bias: Any


def run_images(run) -> list[Images]:
    """For each layer of a run the images that it was trained on.

    Raises:
        SpecError: they are not there any more.
    """
    spec = parse_spec((run.path / "resolved.yaml").read_text(encoding="utf-8"), name=str(run.path))
    sources = {layer.data or spec.data for layer in spec.stack}
    try:
        opened = {source: as_images(source) for source in sources}
    except SpecError as error:
        raise SpecError(
            f"Baselines are made from the images that {run.path} was trained on. {error}"
        ) from None
    return [opened[layer.data or spec.data] for layer in spec.stack]


def baseline(name, layers, images: Sequence[Any], seed=0, patches=PATCHES) -> list[BaselineLayer]:
    """The layers of a stack with other kernels.

    Args:
        name: "random", "whitened", "kmeans" or "pca".
        layers: those of a run, from the image upwards; their `name`, `block` and the shape of
            their `kernel` are what counts.
        images: for each layer what `kclr.data.sources.as_images` takes; unlabelled images of the
            run's number of channels. "random" needs none.
        seed: int, of the patches and of what is made of them.
        patches: int, windows of the layer's input to make the filters from; fewer where they
            would take more than half a gigabyte.

    Raises:
        SpecError: there is no such baseline, it is not possible for these layers, or the images
            have another number of channels.
    """
    check_baseline(name, layers)
    below: list[BaselineLayer] = []
    for index, layer in enumerate(layers):
        random = np.random.default_rng([seed, index])
        if name == "random":
            kernel, bias = _glorot(layer.kernel.shape, random), np.zeros(layer.kernel.shape[-1])
        else:
            windows = _windows(below, layer, images[index], random, patches)
            kernel, bias = _folded(
                windows, layer.kernel.shape, BASELINES[name], random, bool(below)
            )
        kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
        below.append(BaselineLayer(layer.name, layer.block, kernel, bias))
    return below


def check_baseline(name, layers):
    """Refuse a baseline that is not there, or not possible for these layers.

    Raises:
        SpecError: it is.
    """
    if name not in BASELINES:
        raise SpecError(f"{name!r} is no baseline. Choose from {', '.join(BASELINES)}.")
    for layer in layers:
        numbers = int(np.prod(layer.kernel.shape[:3]))
        if name == "pca" and numbers > _MOST_WHITENED:
            raise SpecError(
                f"pca: the windows of layer {layer.name} hold {numbers:,} numbers, and the "
                f"components of more than {_MOST_WHITENED:,} would take hours. Leave it out."
            )


def _glorot(shape, random):
    height, width, channels, filters = shape
    limit = np.sqrt(6 / (height * width * (channels + filters)))
    return random.uniform(-limit, limit, shape)


def _windows(below, layer, images, random, count):
    """Random windows of a layer's input: float32 (count, kernel height, width, channels)."""
    height, width, channels, filters = layer.kernel.shape
    single = layer.block | {"pool_size": 1, "pool_strides": None}
    zeros = np.zeros(layer.kernel.shape), np.zeros(filters)
    one_cell = [*below, BaselineLayer(layer.name, single, *zeros)]
    image_channels = one_cell[0].kernel.shape[2]
    size = max(smallest_image(stacked(one_cell, image_channels, padding="valid")))
    patches = PatchTripletGenerator(
        images, patch_size=max(size, 2), batch_size=_BATCH, seed=int(random.integers(1 << 31))
    )
    if patches.channels != image_channels:
        raise SpecError(
            f"the images have {patches.channels} channels, and the filters {image_channels}. "
            f"Use others, or data: {{source: ..., channels: {image_channels}}}."
        )
    encode = stacked(below, image_channels, size=size, padding="valid") if below else None
    count = min(count, _PATCH_NUMBERS // (height * width * channels))
    windows = np.empty((count, height, width, channels), np.float32)
    done = 0
    try:
        for crops, _ in patches.crops().take(-(-count // _BATCH)):
            maps = crops.numpy()[:, :size, :size].astype(np.float32) / 255
            maps = encode.predict_on_batch(maps) if encode else maps
            kept = min(len(maps), count - done)
            windows[done : done + kept] = maps[:kept, :height, :width]
            done += kept
    except tf.errors.OpError:
        # What went wrong while images were read in the background says more than TensorFlow does.
        if patches.failure is None:
            raise
        raise patches.failure from None
    return windows[:done]


def _folded(windows, shape, directions, random, standardize):
    """Kernel and bias of the plain convolution that answers with the windows' whitened content.

    Args:
        windows: float32 (count, height, width, channels); they are overwritten.
        shape: of the kernel.
        directions: from whitened windows, the covariance before the whitening, a number and a
            generator to that many unit vectors (size, filters).
        standardize: bool, give every channel unit variance before the whitening.
    """
    channels, filters = shape[2:]
    scale = np.ones(channels, np.float32)
    if standardize:
        statistics = WindowStatistics(channels)
        for start in range(0, len(windows), 1024):
            statistics.update(windows[start : start + 1024])
        scale = standardizing(statistics.covariance, EPSILON).astype(np.float32)
    windows *= scale
    windows = windows.reshape(len(windows), -1)
    mean = windows.mean(axis=0, dtype=np.float64)
    windows -= mean.astype(np.float32)
    if windows.shape[1] <= _MOST_WHITENED:
        covariance = _covariance(windows)
        transform = zca(covariance, EPSILON)
        windows = windows @ transform.astype(np.float32)
        flat = transform @ directions(windows, covariance, filters, random)
    else:
        flat = directions(windows, None, filters, random).astype(np.float64)
    return flat.reshape(shape) * scale[:, None], -mean @ flat


def _covariance(centred):
    """Covariance in float64; the products in float32, block by block, which is fast."""
    products = np.zeros((centred.shape[1],) * 2)
    for start in range(0, len(centred), 8192):
        block = centred[start : start + 8192]
        products += block.T @ block
    return products / len(centred)


def _random_patches(whitened, covariance, filters, random):
    """Random whitened patches; again from the first where there are fewer patches than filters."""
    return _unit(whitened[np.resize(random.permutation(len(whitened)), filters)]).T


def _centroids(whitened, covariance, filters, random):
    """Centroids of k-means on the unit sphere, brought back to it at the end."""
    from sklearn.cluster import KMeans

    points = _unit(whitened)
    kmeans = KMeans(
        min(filters, len(points)),
        init="random",
        n_init=1,
        max_iter=_KMEANS_STEPS,
        random_state=int(random.integers(1 << 31)),
    )
    centroids = _unit(kmeans.fit(points).cluster_centers_)
    return centroids[np.resize(np.arange(len(centroids)), filters)].T


def _components(whitened, covariance, filters, random):
    """Principal components, the largest variance first; then, for the activation keeps one side
    only, their negatives; then the same of random rotations of all whitened dimensions, which are
    uncorrelated too.
    """
    vectors = np.linalg.eigh(covariance)[1][:, ::-1]
    found = [vectors, -vectors]
    while len(found) * len(vectors) < filters:
        rotation = np.linalg.qr(random.standard_normal(vectors.shape))[0]
        found += [rotation, -rotation]
    return np.concatenate(found, axis=1)[:, :filters]


def _unit(vectors):
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


BASELINES: dict[str, Any] = {
    "random": None,
    "whitened": _random_patches,
    "kmeans": _centroids,
    "pca": _components,
}
