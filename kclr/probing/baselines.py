"""Kernels that were not learned by contrast, with a run's geometry, for comparison.

- `random`: Glorot uniform, as Keras starts its convolutions, with biases of zero.
- `whitened`: random whitened patches of the data as filters.
- `kmeans`: centroids of whitened patches on the unit sphere (Coates and Ng 2012, "Learning feature
  representations with k-means").
- `pca`: principal components of the patches, scaled to unit variance.

All but the first see the image through ZCA whitening, which is folded into plain kernels. Above the
first layer the input is the map of the layers below, standardised by channel, and for `pca` also
whitened, as for a spec's learners by default.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from kclr.data.sources import Images, as_images, skipped_words
from kclr.errors import SpecError
from kclr.runs.run import PlainLayer
from kclr.spec.checks import MOST_WHITENED
from kclr.spec.registry import parts

EPSILON = 0.01  # regularisation of the whitening, as in specs


RANDOM = "random"


def baseline_titles() -> dict[str, str]:
    """The baselines' names, each with what tables call it; all but the first are of learners."""
    known = {RANDOM: "random (Glorot uniform)"}
    return known | {name: learner.title for name, learner in _learners().items()}


def _learners():
    learners = parts("learner").values()
    named = {getattr(learner, "baseline", None): learner for learner in learners}
    return {name: learner for name, learner in named.items() if name}


def run_images(run) -> list[Images]:
    """For each layer of a run the images that it was trained on.

    Raises:
        SpecError: they are missing.
    """
    spec = run.spec()
    sources = {layer.data or spec.data for layer in spec.stack}
    try:
        opened = {source: as_images(source) for source in sources}
    except SpecError as error:
        raise SpecError(
            f"Baselines are made from the images that {run.path} was trained on. {error}"
        ) from None
    for images in opened.values():
        images.use_scaling(run.scaling)
    return [opened[layer.data or spec.data] for layer in spec.stack]


def baseline(name, layers, images: Sequence[Any], seed=0, windows=100_000) -> list[PlainLayer]:
    """The layers of a stack, with other kernels.

    Args:
        name: "random", "whitened", "kmeans" or "pca".
        layers: those of a run, from the image upwards; only their `name`, `block` and the shape of
            their `kernel` are used.
        images: for each layer what `kclr.data.sources.as_images` takes; unlabelled images of the
            run's number of channels. "random" needs none.
        seed: int, of the patches and of what is made of them.
        windows: int, windows of each layer's input to make the filters from; fewer if they would
            take more than half a gigabyte.

    Raises:
        SpecError: the baseline is unknown or not possible for these layers, or the images have
            another number of channels.
    """
    check_baseline(name, layers)
    below: list[PlainLayer] = []
    for index, layer in enumerate(layers):
        random = np.random.default_rng([seed, index])
        if name == RANDOM:
            kernel, bias = _glorot(layer.kernel.shape, random), np.zeros(layer.kernel.shape[-1])
        else:
            learner: Any = _learners()[name].model_validate({"windows": windows})
            shape = layer.kernel.shape
            whitening = learner.whitening_above if below else "zca"
            opened = as_images(images[index])
            kernel, bias, _ = learner.find(
                layer.block, shape, below, opened, random, whitening, EPSILON
            )
            if opened.skipped:
                # Not of the caller's line: one warning will do for all layers and repeats.
                warnings.warn(f"baselines: {skipped_words(opened.skipped)}", stacklevel=1)
        kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
        below.append(PlainLayer(layer.name, layer.block, kernel, bias))
    return below


def check_baseline(name, layers):
    """Refuse a baseline that is unknown, or not possible for these layers.

    Raises:
        SpecError: it is.
    """
    known = baseline_titles()
    if name not in known:
        raise SpecError(f"{name!r} is not a known baseline. Choose from {', '.join(known)}.")
    components = name != RANDOM and _learners()[name].components
    for layer in layers:
        numbers = int(np.prod(layer.kernel.shape[:3]))
        if components and numbers > MOST_WHITENED:
            raise SpecError(
                f"{name}: the windows of layer {layer.name} have {numbers:,} values, but "
                f"components of more than {MOST_WHITENED:,} would take too long. Remove this "
                "baseline."
            )


def _glorot(shape, random):
    height, width, channels, filters = shape
    limit = np.sqrt(6 / (height * width * (channels + filters)))
    return random.uniform(-limit, limit, shape)
