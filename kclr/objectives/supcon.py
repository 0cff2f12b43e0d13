"""Supervised contrast (Khosla et al. 2020, "Supervised contrastive learning", equation 2: L_out).

All patches with an anchor's label are its positives, not those of its own crop alone.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kclr.objectives.infonce import LARGEST_SCALE
from kclr.objectives.triplet import unit_vectors
from kclr.spec.registry import Part, register

_NONE = -1e30  # a logit that nothing comes near


def surprise_of_many(logits, is_positive, is_candidate):
    """`L_out` of each anchor: the mean of `-log p` over its positives, by softmax over candidates.

    `-1/|P| sum_p log(exp(z_p) / sum_a exp(z_a))` over the positives p and all candidates a, the
    positives among them (equation 2).

    Args:
        logits: float (anchors, candidates), similarities over the temperature.
        is_positive, is_candidate: bool (anchors, candidates).

    Returns:
        float (anchors,), 0 for an anchor without a positive.
    """
    from keras import ops

    together = ops.logsumexp(ops.where(is_candidate, logits, _NONE), axis=-1)
    count = ops.sum(ops.cast(is_positive, logits.dtype), axis=-1)
    total = ops.sum(ops.where(is_positive, logits, 0.0), axis=-1)
    return ops.where(count > 0, together - total / ops.maximum(count, 1.0), 0.0)


@register("objective", "supcon")
class SupCon(Part):
    """Every patch must identify the patches of its class among all patches of the batch.

    Needs labels: `data: {source: tfds:cifar10, labels: 0.01}`. Images without one are told from all
    others, as by `ntxent`.
    """

    temperature: Annotated[float, Field(ge=1 / LARGEST_SCALE, le=100)] = 0.1
    """Similarities are divided by it."""
    unlabelled: Literal["own", "without"] = "own"
    """`own`: a patch without a label has the other patches of its crop as positives, and is one of
    the others for all patches; `without`: patches without a label are left out."""

    takes_labels: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = (
        "class_accuracy",
        "positive_similarity",
        "negative_similarity",
        "labelled_share",
        "alike_loss",
    )
    ceiling: ClassVar[None] = None  # depends on the batch: see alike_loss
    cures: ClassVar[tuple[str, ...]] = ("embedding.standardize: true", "a lower temperature")

    def __call__(self, images, embeddings, labels):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), the image that each crop is from.
            embeddings: float (crops, patches, dimensions), at least two patches.
            labels: int (crops,), the class of each crop's image, -1 for none.

        Returns:
            loss: float scalar, the mean of `surprise_of_many` over the patches that have positives.
            Patches of other crops of an image without a label are neither positives nor others.
            statistics: dict of float scalars: class_accuracy (share of these patches for which the
            most similar patch is a positive), positive_similarity, negative_similarity (mean
            cosines), labelled_share (of the crops), and alike_loss (the loss that embeddings all
            alike would have).
        """
        from keras import backend, ops

        embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
        views, dimensions = embeddings.shape[1:]
        if views < 2:
            raise ValueError("supcon needs at least two patches per crop")
        units = ops.reshape(unit_vectors(embeddings), (-1, dimensions))
        places = ops.repeat(ops.arange(ops.shape(embeddings)[0], dtype="int32"), views)
        of_image, of_class = (ops.repeat(ops.cast(own, "int32"), views) for own in (images, labels))
        known = of_class >= 0
        itself = ops.cast(ops.eye(ops.shape(units)[0]), "bool")
        same_crop = places[:, None] == places[None, :]
        same_class = (of_class[:, None] == of_class[None, :]) & known[:, None]
        is_positive = (same_crop | same_class) & ~itself
        # Which other crops of an unlabelled image are like it is not known.
        is_negative = (of_image[:, None] != of_image[None, :]) & ~is_positive & ~itself
        if self.unlabelled == "without":
            both = known[:, None] & known[None, :]
            is_positive, is_negative = is_positive & both, is_negative & both
        is_candidate = is_positive | is_negative
        cosines = ops.matmul(units, ops.transpose(units))
        losses = surprise_of_many(cosines / self.temperature, is_positive, is_candidate)

        def counts(chosen):
            return ops.sum(ops.cast(chosen, losses.dtype), axis=-1)

        some = ops.cast(counts(is_positive) > 0, losses.dtype)
        anchors = ops.maximum(ops.sum(some), 1.0)

        def mean(chosen):
            total = ops.sum(ops.where(chosen, ops.stop_gradient(cosines), 0.0))
            return total / ops.maximum(ops.sum(counts(chosen)), 1.0)

        best = [ops.max(ops.where(own, cosines, _NONE), -1) for own in (is_positive, is_negative)]
        alike = ops.log(ops.maximum(counts(is_candidate), 1.0))
        return ops.sum(losses) / anchors, {
            "class_accuracy": ops.sum(ops.cast(best[0] > best[1], losses.dtype) * some) / anchors,
            "positive_similarity": mean(is_positive),
            "negative_similarity": mean(is_negative),
            "labelled_share": ops.mean(ops.cast(known, losses.dtype)),
            "alike_loss": ops.sum(alike * some) / anchors,
        }
