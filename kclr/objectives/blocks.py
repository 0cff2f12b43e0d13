"""Blocks: a patch against the mean of those alike, and the means of others (Arora et al. 2019).

"A theoretical analysis of contrastive unsupervised representation learning": the block loss of
section 6, and the two losses of section 2, here for `k` others. Their bound compares it with the
classifier of class means, which is the readout `mean` (`kclr.probing.readouts.mean`).
"""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kclr.objectives.spectral import cures_within, prepared
from kclr.spec.registry import Part, register

LOSSES = ("logistic", "hinge")


def block_means(embeddings):
    """For each patch of a crop, the mean of the crop's other patches.

    Args:
        embeddings: float (crops, patches, dimensions), at least two patches.

    Returns:
        float, of that shape.
    """
    from keras import ops

    others = ops.sum(embeddings, axis=1, keepdims=True) - embeddings
    return others / (embeddings.shape[1] - 1)


def logistic(differences, counted):
    """`log2(1 + sum(exp(-v)))` over those differences v that count (section 2).

    Args:
        differences: float (..., others). counted: bool, of a shape that broadcasts.

    Returns:
        float (...,), 0 where none counts.
    """
    from keras import ops

    # A logit of -1e30 adds nothing to a sum of exponentials; the 0 is the 1 in the formula.
    logits = ops.where(counted, -differences, -1e30)
    logits = ops.concatenate([ops.zeros_like(logits[..., :1]), logits], axis=-1)
    return ops.logsumexp(logits, axis=-1) / math.log(2)


def hinge(differences, counted):
    """`max(0, 1 + max(-v))` over those differences v that count (section 2).

    Args, returns: as `logistic`.
    """
    from keras import ops

    return ops.relu(1 + ops.max(ops.where(counted, -differences, -1e30), axis=-1))


@register("objective", "blocks")
class Blocks(Part):
    """A patch has a larger inner product with the mean of its crop's other patches than with the
    means of other crops' patches."""

    loss: Literal["logistic", "hinge"] = "logistic"
    """`logistic`: log2 of 1 plus the sum of exp(-v) over the differences v; `hinge`: 1 minus the
    smallest difference, if it is above 0."""
    others: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Number of other crops that each patch is compared with; all of the batch by default. Those of
    the same image do not count."""
    radius: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Longer embeddings are scaled to this length, which the authors' bound needs. Not limited by
    default."""

    statistics: ClassVar[tuple[str, ...]] = (
        "block_accuracy",
        "positive_product",
        "negative_product",
        "alike_loss",
    )
    ceiling: ClassVar[None] = None  # depends on how many others there are: see alike_loss

    @property
    def cures(self) -> tuple[str, ...]:
        """What to try after a collapse."""
        return cures_within(self.radius)

    def __call__(self, images, embeddings):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), the image that each crop is from.
            embeddings: float (crops, patches, dimensions), at least two patches; a block is all
                patches of a crop but one.

        Returns:
            loss: float scalar, the mean of `logistic` or `hinge` over the patches that have others,
            each of the differences `f(x).mean(f(x+)) - f(x).mean(f(x-))`; 0 where there are none.
            statistics: dict of float scalars: block_accuracy (share of the differences above 0),
            positive_product and negative_product (means), and alike_loss, the loss of equal
            embeddings.
        """
        from keras import ops

        embeddings = prepared("blocks", embeddings, self.radius)
        crops, views = ops.shape(embeddings)[0], embeddings.shape[1]
        images = ops.cast(images, "int32")
        means = block_means(embeddings)
        # (patches, crops, crops): each patch with the block of each crop, without the same place.
        products = ops.matmul(ops.moveaxis(embeddings, 1, 0), ops.transpose(means, (1, 2, 0)))
        positive = ops.moveaxis(ops.sum(embeddings * means, axis=-1), 1, 0)
        is_other = images[:, None] != images[None, :]
        if self.others is not None:
            # A batch has no order, so that those that follow are as good as any.
            places = ops.arange(crops, dtype="int32")
            after = ops.mod(places[None, :] - places[:, None], ops.cast(crops, "int32"))
            is_other = is_other & (after <= self.others)
        differences = positive[..., None] - products
        counts = ops.sum(ops.cast(is_other, products.dtype), axis=-1)
        some = ops.cast(counts > 0, products.dtype)
        anchors, pairs = ops.maximum(ops.sum(some), 1.0), ops.maximum(ops.sum(counts), 1.0)
        losses = (hinge if self.loss == "hinge" else logistic)(differences, is_other)
        alike = some if self.loss == "hinge" else ops.log1p(counts) / math.log(2)

        def mean(values):
            return ops.sum(ops.where(is_other, values, 0.0)) / (pairs * views)

        return ops.sum(losses * some) / (anchors * views), {
            "block_accuracy": mean(ops.cast(differences > 0, products.dtype)),
            "positive_product": ops.mean(positive),
            "negative_product": mean(products),
            "alike_loss": ops.sum(alike) / anchors,
        }
