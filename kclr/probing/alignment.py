"""Alignment: shrink the directions in which the features of one image's views differ.

Features of frozen layers still change when an image is moved, zoomed or amplified a little. With
few labels a classifier cannot tell these changes from what matters. They need no labels to be
found: an image and its augmented views should have the same features, so directions in which these
differ are shrunk. It is the closed form of what contrast does by gradient steps: Shental
et al. (2002, "Adjustment learning and relevant component analysis"), who whiten by the covariance
within groups of alike examples, and Solomonoff et al. (2005, "Advances in channel compensation for
SVM speaker recognition"), who take out its strongest directions and leave the rest as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from kclr.data import pool
from kclr.data.pixels import invalid_pixels
from kclr.data.sources import Images
from kclr.errors import RunError, SpecError
from kclr.keras_backend import dtype_policy
from kclr.layers import smallest_image, stacked
from kclr.pooling import Pooling
from kclr.probing.baselines import run_images
from kclr.probing.features import Features
from kclr.spec.schema import Alignment as Options
from kclr.training.keras_objects import globals_kept, keras_augmentation

_BATCH = 256
_ROOM = 1 << 28  # bytes of differences at once
_SIDE = 256  # px of an image that views are made of
_LEAST = 8  # images


@keras.saving.register_keras_serializable(package="kclr")
class Alignment(keras.layers.Layer):
    """Standardise features, then shrink the directions in which views of one image differ.

    `z - (z @ directions) * shrink @ directions.T` with `z = (features - mean) / deviation`. As many
    numbers come out as go in, and no information is lost. Do not standardise them again.

    Args:
        rank: int, how many directions are shrunk.

    Weights, none of them trainable, for inputs of float (batch, numbers):
        mean, deviation: (numbers,). directions: (numbers, rank), orthonormal columns.
        shrink: (rank,), from 0 (the direction stays) to 1 (it is removed).
    """

    def __init__(self, rank, **kwargs):
        super().__init__(**kwargs)
        self.rank = int(rank)
        self.input_spec = keras.layers.InputSpec(ndim=2)

    def build(self, input_shape):
        numbers = input_shape[-1]
        for name, shape, first in (
            ("mean", (numbers,), "zeros"),
            ("deviation", (numbers,), "ones"),
            ("directions", (numbers, self.rank), "zeros"),
            ("shrink", (self.rank,), "zeros"),
        ):
            weight = self.add_weight(name=name, shape=shape, initializer=first, trainable=False)
            setattr(self, name, weight)

    def call(self, inputs):
        """float (batch, numbers) to the same."""
        standard = (inputs - self.mean) / self.deviation
        along = ops.matmul(standard, self.directions) * self.shrink
        return standard - ops.matmul(along, ops.transpose(self.directions))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        return super().get_config() | {"rank": self.rank}


@dataclass(frozen=True)
class Views:
    """Unlabelled images, and how views of them are made.

    Attributes:
        images: (images, height, width, channels), raw numbers.
        scaling: from these to a network's input.
        options: of the spec's `export.alignment`. seed: int, of the views.
    """

    images: Any
    scaling: Any
    options: Options
    seed: int = 0

    @classmethod
    def of(cls, images: Images, options: Options, least, seed=0) -> "Views":
        """Choose images at random, and a window of each where they are large or differ in size.

        Args:
            images: from `kclr.data.sources.as_images`. options: of the spec. seed: int.
            least: (height, width) that the layers need.

        Raises:
            RunError: there are too few images of that size, or too many cannot be read.
        """
        random = np.random.default_rng(seed)
        buffer = pool.load(images)
        if buffer is not None:
            rows = random.permutation(len(buffer))[: options.images]
            chosen = [np.asarray(buffer.image(row)) for row in sorted(rows)]
        else:  # more than the memory holds: the first ones
            chosen = []
            for _, found in images.pictures():
                chosen += found
                if len(chosen) >= options.images:
                    break
        fit = [one for one in chosen if one.shape[0] >= least[0] and one.shape[1] >= least[1]]
        sides = [min(one.shape[axis] for one in fit) if fit else 0 for axis in (0, 1)]
        if not images.series:
            sides = [min(side, max(_SIDE, low)) for side, low in zip(sides, least, strict=True)]
        cut = [_window(one, sides, random) for one in fit[: options.images]]
        valid = [one for one in cut if invalid_pixels(one, images.nodata) is None]
        if len(valid) < _LEAST:
            size = f" of {least[0]}x{least[1]} px or more, without missing pixels"
            raise _too_few(images, len(valid), size)
        return cls(np.stack(valid), images.scaling(), options, seed)


def check_count(images: Images):
    """Refuse images that are too few to be aligned by, where that is known without reading them.

    Raises:
        RunError: they are.
    """
    if images.count is not None and images.count < _LEAST and not images.tile:
        raise _too_few(images, images.count)


def _too_few(images, count, size=""):
    return RunError(
        f"{images.name}: alignment needs at least {_LEAST} images{size}; there are {count}. Add "
        "images, or remove export.alignment."
    )


def _window(image, sides, random):
    top, left = (
        int(random.integers(own - side + 1)) for own, side in zip(image.shape, sides, strict=False)
    )
    return image[top : top + sides[0], left : left + sides[1]]


def of_layers(layers, pooling: Pooling, views: Views, tell=None):
    """The alignment of a stack's pooled features: see `learn_alignment`.

    Args:
        layers: from the image upwards, as of `kclr.layers.stacked`.
        pooling: of their maps. views, tell: as there.
    """
    with dtype_policy(pooling.precision):
        model = pooling.maps(stacked(layers, layers[0].kernel.shape[2]))
    return learn_alignment(Features(model, pooling), views, tell)


def views_of_run(run) -> Views:
    """Views of the images that a run's lowest layer has learned from.

    Args:
        run: from `kclr.load_run`.

    Raises:
        SpecError: the spec has no `export.alignment`, or the images are missing.
    """
    spec = run.spec()
    options = spec.export.alignment
    if options is None:
        raise SpecError(
            f"{run.path}: its spec has no export.alignment, so there is nothing to make views "
            "with. Add it, such as {augment: [{class_name: RandomTranslation, config: "
            "{height_factor: 0.1, width_factor: 0.1}}]}, and continue with kclr train --resume."
        )
    images = run_images(run)[0]
    return Views.of(images, options, smallest(run.layers), spec.seed)


def smallest(layers):
    """Height and width of the smallest images that trained layers take."""
    return smallest_image(stacked(layers, layers[0].kernel.shape[2]))


@globals_kept()
def learn_alignment(
    features: Callable, views: Views, tell: Callable[[int, int], None] | None = None
) -> tuple[Alignment, dict[str, float]]:
    """Find the directions in which views of one image differ.

    With z the standardised features, and d the differences between those of a view and of its
    image, a direction whose share of d has the variance v is multiplied by sqrt(m / (v + m)), where
    m is the mean variance of d over all directions.

    Args:
        features: function of scaled images, float32 (batch, height, width, channels), to features,
            float32 (batch, numbers).
        views: the images.
        tell: receives progress: views done, and all of them.

    Returns:
        The layer, built, and what can be said of it: `images`, `views`, `directions`, and
        `difference_before` and `difference_after`: the mean squared difference of a view's numbers
        from its image's, for numbers of variance 1 over the images.
    """
    from sklearn.utils.extmath import randomized_svd

    options = views.options
    keras.utils.set_random_seed(views.seed)
    augment = keras_augmentation(options.augment, ("export", "alignment", "augment"))
    plain = _features(features, views, None)
    mean, deviation = plain.mean(axis=0, dtype=np.float64), plain.std(axis=0, dtype=np.float64)
    # A filter that never responds to these images has nothing to be scaled by.
    deviation = np.where(deviation > 1e-6 * max(deviation.max(), 1e-30), deviation, 1)
    most = max(_LEAST, _ROOM // (4 * plain.shape[1] * options.views))
    images = views.images[:most]
    differences = np.empty((len(images) * options.views, plain.shape[1]), np.float32)
    for turn in range(options.views):
        if tell:
            tell(turn, options.views)
        seen = _features(features, Views(images, views.scaling, options), augment)
        differences[turn * len(images) : (turn + 1) * len(images)] = (
            seen - plain[: len(images)]
        ) / deviation
    count, numbers = differences.shape
    before = float(np.square(differences).mean())
    found = min(options.directions, count - 1, numbers)
    _, singular, rows = randomized_svd(differences, found, n_iter=2, random_state=views.seed)
    variance = singular**2 / count
    kept = np.sqrt(before / (variance + before)) if before else np.ones(found)
    layer = Alignment(found, name="alignment", dtype="float32")
    layer.build((None, numbers))
    layer.set_weights([mean, deviation, rows.T, 1 - kept])
    after = before - float((variance * (1 - kept**2)).sum()) / numbers
    facts = {"images": len(images), "views": options.views, "directions": found}
    return layer, facts | {
        "difference_before": round(before, 4),
        "difference_after": round(after, 4),
    }


def _features(features, views, augment):
    """Features of the images, or of one view of each."""
    found = []
    for start in range(0, len(views.images), _BATCH):
        batch = views.scaling(views.images[start : start + _BATCH])
        if augment is not None:
            batch = augment(batch, training=True)
        found.append(np.asarray(features(batch), np.float32))
    return np.concatenate(found)


def align(layer: Alignment, features):
    """Align features in place: float32 (images, numbers), which may be a `numpy.memmap`."""
    for start in range(0, len(features), _BATCH):
        part = slice(start, start + _BATCH)
        features[part] = layer(features[part]).numpy()
    return features
