"""Triplets: distances, miners and the margin loss (Schroff et al. 2015, FaceNet; Zhao 2020).

The margin may be soft: a softplus in place of the hinge (Hermans et al. 2017, section 2).

Embeddings are float (embeddings, dimensions) throughout; distances are plain Euclidean (not
squared) or cosine (1 - cosine similarity, 0 to 2).
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from kclr.spec.registry import Part, register
from kclr.spec.wording import invalid

DISTANCES = ("euclidean", "cosine")
_INDEX_BITS = 16


def paired_distances(first, second, distance="euclidean"):
    """Distances between embeddings at the same position.

    Args:
        first, second: float (..., dimensions).
        distance: "euclidean" or "cosine".

    Returns:
        float (...,). The gradient is zero where two embeddings are equal; the cosine distance of an
        embedding of zeros is 1, with gradient zero.
    """
    from keras import ops

    if distance == "cosine":
        return 1 - ops.sum(unit_vectors(first) * unit_vectors(second), axis=-1)
    return _safe_sqrt(ops.sum(ops.square(first - second), axis=-1), 0.0)


def pairwise_distances(embeddings, distance="euclidean"):
    """Distances from every embedding to every other.

    Args:
        embeddings: float (embeddings, dimensions).
        distance: "euclidean" or "cosine".

    Returns:
        float (embeddings, embeddings), symmetric, zeros on the diagonal. From products of
        embeddings, so a Euclidean distance below 0.001 of the embeddings' deviation from their
        mean is lost in rounding (in float32) and may be 0.
    """
    from keras import backend, ops

    if distance == "cosine":
        unit = unit_vectors(embeddings)
        return 1 - ops.matmul(unit, ops.transpose(unit))
    # What all embeddings have in common changes no distance, but costs digits.
    centred = embeddings - ops.stop_gradient(ops.mean(embeddings, axis=0, keepdims=True))
    squares = ops.sum(ops.square(centred), axis=-1)
    sums = squares[:, None] + squares[None, :]
    products = ops.matmul(centred, ops.transpose(centred))
    rounding = 2.0**-52 if backend.standardize_dtype(sums.dtype) == "float64" else 2.0**-23
    return _safe_sqrt(sums - 2 * products, 4 * rounding * sums)


def _safe_sqrt(squares, floor):
    """Square root of what is above `floor`, else 0, where the gradient is 0 and not infinite."""
    from keras import ops

    positive = squares > floor
    return ops.where(positive, ops.sqrt(ops.where(positive, squares, 1.0)), 0.0)


def unit_vectors(vectors):
    """Vectors, float (..., dimensions), scaled to length 1; zeros stay zeros, with gradient 0."""
    from keras import ops

    squares = ops.sum(ops.square(vectors), axis=-1, keepdims=True)
    positive = squares > 0
    return vectors * ops.where(positive, ops.rsqrt(ops.where(positive, squares, 1.0)), 0.0)


def _random_scores(rows, columns, seed):
    """Pseudo-random int32 (rows, columns), from 0, whose low bits are the column's index.

    A hash (of the multiply and xor-shift kind) of row, column and seed: the same numbers for the
    same seed on every machine, with no state to save, and cheaper than drawing them. The greatest
    score of a row is a random choice, and names its column.
    """
    from keras import ops

    mixed = (
        ops.arange(rows, dtype="int32")[:, None] * -1640531527
        + ops.arange(columns, dtype="int32")[None, :] * 668265263
        + ops.cast(seed, "int32")
    )
    for shift, factor in ((15, 739982445), (13, 695872825)):
        mixed = ops.bitwise_xor(mixed, ops.right_shift(mixed, ops.cast(shift, "int32"))) * factor
    mixed = ops.bitwise_and(mixed, 0x7FFF0000)
    return mixed + ops.arange(columns, dtype="int32")[None, :]


def _choose(allowed, seed):
    from keras import ops

    if (allowed.shape[-1] or 0) > 1 << _INDEX_BITS:
        raise ValueError(
            f"{allowed.shape[-1]} embeddings are too many to mine from. Use a batch_size that "
            f"gives at most {1 << _INDEX_BITS}."
        )
    rows, columns = ops.shape(allowed)
    scores = ops.where(allowed, _random_scores(rows, columns, seed), -1)
    best = ops.max(scores, axis=-1)
    found = best >= 0
    index = ops.bitwise_and(best, (1 << _INDEX_BITS) - 1)
    return ops.where(found, index, 0), found


def random_negatives(distances, is_negative, margin, seed=0):
    """Pick, for each anchor-positive pair, any negative.

    Args, returns: as `semi_hard_negatives`; distances and margin are not used.
    """
    return _choose(is_negative, seed)


def semi_hard_negatives(distances, is_negative, margin, seed=0):
    """Pick, for each anchor-positive pair, a random negative inside the margin.

    A negative is semi-hard when it is farther than the positive, but by less than `margin`
    (Schroff et al. 2015, FaceNet, section 3.2). Pairs that have none are masked out.

    Args:
        distances: float (pairs, embeddings), from each pair's anchor to every embedding, minus
            the distance to its own positive. Same unit as the loss's distance.
        is_negative: bool (pairs, embeddings), true where the embedding is of another image. At
            most 65,536 embeddings.
        margin: float > 0, in units of the distance.
        seed: int32, of the random choice; the same seed chooses the same negatives.

    Returns:
        indices: int32 (pairs,), 0 where nothing was found; found: bool (pairs,).
    """
    return _choose(is_negative & (distances > 0) & (distances < margin), seed)


def hardest_negatives(distances, is_negative, margin, seed=0):
    """Pick, for each anchor-positive pair, the nearest negative (Hermans et al. 2017, section 2).

    Args, returns: as `semi_hard_negatives`; margin and seed are not used.
    """
    from keras import ops

    infinite = ops.full_like(distances, float("inf"))
    masked = ops.where(is_negative, distances, infinite)
    return ops.cast(ops.argmin(masked, axis=-1), "int32"), ops.any(is_negative, axis=-1)


MINERS = {
    "random": random_negatives,
    "semi-hard": semi_hard_negatives,
    "hardest": hardest_negatives,
}


def triplet_hinge(positive_distance, negative_distance, margin):
    """`max(0, d(anchor, positive) - d(anchor, negative) + margin)` (FaceNet, equation 3).

    Args:
        positive_distance, negative_distance: float, of the same shape.
        margin: float > 0.

    Returns:
        float, of that shape.
    """
    from keras import ops

    return ops.relu(positive_distance - negative_distance + margin)


def triplet_softplus(positive_distance, negative_distance):
    """`log(1 + exp(d(anchor, positive) - d(anchor, negative)))` (Hermans et al. 2017, section 2).

    The soft margin: it never falls to zero, so a correct triplet still contributes, but less and
    less.

    Args, returns: as `triplet_hinge`, without a margin.
    """
    from keras import ops

    return ops.softplus(positive_distance - negative_distance)


def _number_or_word(value):
    """Which form of a margin is meant; a number in quotes is a number, and refused as one."""
    try:
        float(value)
    except (TypeError, ValueError):
        return "word" if isinstance(value, str) else "number"
    return "number"


@register("objective", "triplet")
class Triplet(Part):
    """A patch's neighbour must lie closer than patches of other images, by a margin."""

    distance: Literal["euclidean", "cosine"] = "euclidean"
    """How embeddings are compared; `cosine` collapses more easily."""
    margin: Annotated[
        Annotated[float, Field(gt=0, le=1000), Tag("number")]
        | Annotated[Literal["soft"], Tag("word")],
        Discriminator(_number_or_word),
    ] = 2.0
    """Smallest difference of the two distances, in the distance's unit (cosine: 0 to 2); or `soft`,
    a softplus instead of the hinge."""
    mining: Literal["random", "semi-hard", "hardest", "all"] = "semi-hard"
    """Which patches of other images in the batch are used as negatives."""

    statistics: ClassVar[tuple[str, ...]] = (
        "active_share",
        "positive_distance",
        "negative_distance",
        "triplet_accuracy",
    )

    @model_validator(mode="after")
    def _miner_knows_the_margin(self):
        if self.margin == "soft" and self.mining == "semi-hard":
            words = (
                "semi-hard picks negatives inside the margin, but a soft margin has no inside. "
                "Use mining: hardest, all or random with margin: soft."
            )
            raise invalid(words, "mining", value=self.mining)
        return self

    @property
    def ceiling(self) -> float:
        """The loss of embeddings that are all alike; a loss that stays there has collapsed."""
        return math.log(2) if self.margin == "soft" else self.margin

    @property
    def cures(self) -> tuple[str, ...]:
        """What to try after a collapse."""
        cures = ["distance: euclidean"] if self.distance == "cosine" else []
        if self.margin == "soft":
            return (*cures, "mining: semi-hard with a small margin")
        if self.mining != "semi-hard":
            cures.append("mining: semi-hard")
        return (*cures, "a smaller margin")

    def _loss(self, positive_distance, negative_distance):
        if self.margin == "soft":
            return triplet_softplus(positive_distance, negative_distance)
        return triplet_hinge(positive_distance, negative_distance, self.margin)

    def __call__(self, images, embeddings):
        """Loss and statistics of a batch of crops.

        Every ordered pair of two patches of a crop is an anchor and its positive; every patch of
        another image is a candidate for its negative.

        Args:
            images: int (crops,), the image that each crop is from.
            embeddings: float (crops, patches, dimensions), at least two patches.

        Returns:
            loss: float scalar, the mean over the triplets that were mined (with `all`, over those
            with a loss above 0), 0 where there are none.
            statistics: dict of float scalars: active_share (of all pairs, those whose triplet has
            a loss above 0; with `all`, of all triplets; with a soft margin all that there are are
            active), positive_distance, negative_distance
            (means over the batch's pairs and negatives), triplet_accuracy (share of all triplets
            whose negative is farther than the positive).
        """
        from keras import backend, ops

        embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
        crops, views, dimensions = ops.shape(embeddings)
        if views < 2:
            raise ValueError("a triplet objective needs at least two patches per crop")
        images = ops.cast(images, "int32")
        flat = ops.reshape(embeddings, (-1, dimensions))
        # Mining needs no gradient; distances to the few chosen negatives are computed again.
        mined = self.mining != "all"
        distances = pairwise_distances(ops.stop_gradient(flat) if mined else flat, self.distance)
        # Ordered by a crop's patches: embedding i is patch i % views of crop i // views.
        of_image = ops.repeat(images, views)
        is_negative = of_image[:, None] != of_image[None, :]
        other_crops = ops.cast(images[:, None] != images[None, :], distances.dtype)
        negatives = ops.maximum(views**2 * ops.sum(other_crops), 1.0)

        def total(of_negatives):
            # Row by row, which XLA computes faster than one sum of all.
            return ops.sum(ops.sum(ops.where(is_negative, of_negatives, 0.0), axis=-1) / negatives)

        seed = ops.sum(images * (2 * ops.arange(crops, dtype="int32") + 1))
        losses, counts, active, farther, positive_sum = 0.0, 0.0, 0.0, 0.0, 0.0
        for shift in range(1, views):
            positives = ops.reshape(ops.roll(embeddings, -shift, axis=1), (-1, dimensions))
            positive_distance = paired_distances(flat, positives, self.distance)
            relative = distances - ops.stop_gradient(positive_distance)[:, None]
            if mined:
                index, found = MINERS[self.mining](relative, is_negative, self.margin, seed + shift)
                negative_distance = paired_distances(
                    flat, ops.take(flat, index, axis=0), self.distance
                )
                hinge = self._loss(positive_distance, negative_distance)
                hinge = ops.where(found, hinge, 0.0)
                losses += ops.sum(hinge)
                counts += ops.sum(ops.cast(found, hinge.dtype))
                active += ops.mean(ops.cast(hinge > 0, hinge.dtype))
            else:
                hinge = self._loss(positive_distance[:, None], distances)
                share = total(ops.cast(hinge > 0, hinge.dtype))
                losses += total(hinge)
                counts += share
                active += share
            farther += ops.cast(relative > 0, distances.dtype)
            positive_sum += ops.mean(positive_distance)
        statistics = {
            "active_share": active / (views - 1),
            "positive_distance": positive_sum / (views - 1),
            "negative_distance": total(distances),
            "triplet_accuracy": total(farther) / (views - 1),
        }
        # Nothing was mined: 0 / 0 is a loss of 0.
        return losses / ops.where(counts > 0, counts, 1.0), statistics

    def of_triplets(self, anchor, positive, negative):
        """Loss and statistics of triplets that are given; nothing is mined.

        Args:
            anchor, positive, negative: float (triplets, dimensions).

        Returns:
            As `__call__`; the loss is the mean over all triplets.
        """
        from keras import backend, ops

        def distances(others):
            dtype = backend.result_type(anchor.dtype, "float32")
            return paired_distances(ops.cast(anchor, dtype), ops.cast(others, dtype), self.distance)

        positive_distance, negative_distance = distances(positive), distances(negative)
        hinge = self._loss(positive_distance, negative_distance)
        farther = negative_distance > positive_distance
        return ops.mean(hinge), {
            "active_share": ops.mean(ops.cast(hinge > 0, hinge.dtype)),
            "positive_distance": ops.mean(positive_distance),
            "negative_distance": ops.mean(negative_distance),
            "triplet_accuracy": ops.mean(ops.cast(farther, hinge.dtype)),
        }
