"""Redundancy reduction: patches of a crop embed alike, and dimensions are not redundant.

Barlow Twins (Zbontar et al. 2021) and VICReg (Bardes et al. 2022). Neither has negatives: patches
of other images are not pushed away, so which image a crop is from does not count.

Both compare two views of each crop. With more patches they are the mean over pairs of neighbours in
a ring (1 and 2, 2 and 3, ..., last and 1): every patch is in two pairs, as often on either side.
"""

import math
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.spec.registry import Part, register

_BARLOW_EPSILON = (
    1e-5  # of the variance, as in batch normalisation, which the paper standardises with
)
_VICREG_EPSILON = 1e-4  # of the variance, the paper's


def neighbours(by_view):
    """The two sides of all pairs of neighbouring views.

    Args:
        by_view: float (views, ...), at least two views.

    Returns:
        first, second: float (pairs, ...): one pair of two views, else as many pairs as views.
    """
    from keras import ops

    pair = by_view.shape[0] == 2
    return (by_view[:1], by_view[1:]) if pair else (by_view, ops.roll(by_view, -1, axis=0))


def cross_correlations(by_view):
    """Correlation over the batch of every dimension with every other, for neighbouring views.

    Args:
        by_view: float (views, crops, dimensions).

    Returns:
        float (pairs, dimensions, dimensions), -1 to 1 (Zbontar et al. 2021, equation 2), 0 where a
        dimension is constant. A dimension with a variance near 0.00001 or below it counts for less.
    """
    from keras import ops

    centred = by_view - ops.mean(by_view, axis=1, keepdims=True)
    variances = ops.mean(ops.square(centred), axis=1, keepdims=True)
    first, second = neighbours(centred * ops.rsqrt(variances + _BARLOW_EPSILON))
    crops = ops.cast(ops.shape(by_view)[1], by_view.dtype)
    return ops.matmul(ops.transpose(first, (0, 2, 1)), second / crops)


def off_diagonal_squares(matrices):
    """Sum of the squares off the diagonal.

    Args:
        matrices: float (..., dimensions, dimensions).

    Returns:
        float (...,).
    """
    from keras import ops

    off = 1 - ops.eye(matrices.shape[-1], dtype=matrices.dtype)
    return ops.sum(ops.square(matrices * off), axis=(-2, -1))


def _by_view(embeddings, name):
    """Embeddings (crops, views, dimensions) as (views, crops, dimensions), in float32 at least."""
    from keras import backend, ops

    if embeddings.shape[1] < 2:
        raise ValueError(f"{name} needs at least two patches per crop")
    embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
    return ops.transpose(embeddings, (1, 0, 2))


@register("objective", "barlow")
class Barlow(Part):
    """Each dimension agrees over a crop's patches, and is uncorrelated with all others."""

    redundancy: Annotated[float, Field(gt=0, le=1000)] = 0.005
    """Weight of the correlations between dimensions, the paper's lambda."""

    statistics: ClassVar[tuple[str, ...]] = ("on_diagonal", "off_diagonal")
    ceiling: ClassVar[float] = 1.0  # no dimension varies, so none correlates
    cures: ClassVar[tuple[str, ...]] = ("block.batch_norm: true",)

    def __call__(self, images, embeddings):
        """Loss and statistics of a batch of crops.

        Args:
            images: not used.
            embeddings: float (crops, patches, dimensions), at least two patches.

        Returns:
            loss: float scalar (Zbontar et al. 2021, equation 1), the mean over dimensions where the
            paper has the sum, so that `redundancy` means the same and 1 is a collapse.
            statistics: dict of float scalars: on_diagonal (mean correlation of a dimension with
            itself over two patches), off_diagonal (mean square of all other correlations).
        """
        from keras import ops

        correlations = cross_correlations(_by_view(embeddings, "barlow"))
        dimensions = correlations.shape[-1]
        on = ops.diagonal(correlations, axis1=-2, axis2=-1)
        off = ops.mean(off_diagonal_squares(correlations))
        loss = ops.mean(ops.square(1 - on)) + self.redundancy * off / dimensions
        return loss, {
            "on_diagonal": ops.mean(on),
            "off_diagonal": off / max(dimensions * (dimensions - 1), 1),
        }


@register("objective", "vicreg")
class VICReg(Part):
    """A crop's patches embed alike, every dimension has standard deviation 1, and dimensions are
    uncorrelated."""

    invariance: Annotated[float, Field(ge=0, le=1000)] = 25.0
    """Weight of the mean square difference of a crop's patches."""
    variance: Annotated[float, Field(gt=0, le=1000)] = 25.0
    """Weight of the hinge on a dimension's standard deviation, max(0, 1 - deviation)."""
    covariance: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Weight of the squared covariances between dimensions."""

    statistics: ClassVar[tuple[str, ...]] = (
        "invariance_loss",
        "variance_loss",
        "covariance_loss",
    )
    cures: ClassVar[tuple[str, ...]] = (
        "a larger weight of variance",
        "a smaller weight of invariance",
        "block.batch_norm: true",
    )

    @property
    def ceiling(self) -> float:
        """The loss of embeddings that are all alike."""
        return self.variance * (1 - math.sqrt(_VICREG_EPSILON))

    def __call__(self, images, embeddings):
        """Loss and statistics of a batch of crops.

        Args:
            images: not used.
            embeddings: float (crops, patches, dimensions), at least two patches.

        Returns:
            loss: float scalar, the weighted sum of the three statistics (Bardes et al. 2022,
            section 4.1, with means where the authors' own code has them).
            statistics: dict of float scalars: invariance_loss (mean square difference of two
            patches of a crop, per dimension), variance_loss (mean of max(0, 1 - deviation) over
            dimensions), covariance_loss (sum of squared covariances of different dimensions, per
            dimension, of both patches of a pair).
        """
        from keras import ops

        by_view = _by_view(embeddings, "vicreg")
        first, second = neighbours(by_view)
        degrees = ops.cast(ops.maximum(ops.shape(by_view)[1] - 1, 1), by_view.dtype)
        centred = by_view - ops.mean(by_view, axis=1, keepdims=True)
        covariances = ops.matmul(ops.transpose(centred, (0, 2, 1)), centred / degrees)
        variances = ops.diagonal(covariances, axis1=-2, axis2=-1)
        lacking = ops.relu(1 - ops.sqrt(variances + _VICREG_EPSILON))
        # Each view is in as many pairs as every other, twice: the mean over views is enough.
        terms = {
            "invariance_loss": ops.mean(ops.square(first - second)),
            "variance_loss": ops.mean(lacking),
            "covariance_loss": 2 * ops.mean(off_diagonal_squares(covariances)) / by_view.shape[-1],
        }
        weights = self.invariance, self.variance, self.covariance
        loss = sum(weight * term for weight, term in zip(weights, terms.values(), strict=True))
        return loss, terms
