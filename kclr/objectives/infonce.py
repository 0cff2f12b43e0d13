"""Contrast by softmax: InfoNCE (van den Oord et al. 2018) and NT-Xent (Chen et al. 2020, SimCLR).

Of a patch's positive and all patches of other images, the positive must be the most similar.
Similarity is the cosine of two embeddings over a temperature. The temperature may be learned (as in
CLIP, Radford et al. 2021, section 2.5), and patches of earlier batches may be negatives too (the
memory of Wang et al. 2020, Cross-Batch Memory).
"""

import math
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.objectives.triplet import unit_vectors
from kclr.spec.registry import Part, register

LARGEST_SCALE = 100.0  # of logits, where the temperature is learned; CLIP's
_NONE = -1e30  # a logit that nothing comes near
_NO_IMAGE = -(2**31)


def surprise(positive, negative, is_negative):
    """The cross-entropy `-log p` of an anchor's positive among its negatives, by softmax.

    `-log(exp(p) / (exp(p) + sum(exp(n))))` over the anchor's negatives n (van den Oord et al. 2018,
    equation 4), in a form that neither overflows nor loses a positive that is almost sure. Other
    positives of the anchor do not count.

    Args:
        positive: float (anchors, positives), logits: similarities over the temperature.
        negative: float (anchors, candidates), logits.
        is_negative: bool (anchors, candidates), true where the candidate is of another image.

    Returns:
        float (anchors, positives), 0 where an anchor has no negative; and float (anchors,), the
        greatest of each anchor's negatives, -1e30 where it has none.
    """
    from keras import ops

    negative = ops.where(is_negative, negative, _NONE)
    largest = ops.stop_gradient(ops.max(negative, axis=-1))
    total = ops.sum(ops.where(is_negative, ops.exp(negative - largest[:, None]), 0.0), axis=-1)
    together = largest + ops.log(ops.where(total > 0, total, 1.0))
    return ops.softplus(together[:, None] - positive), largest


class _Softmax(Part):
    temperature: Annotated[float, Field(ge=1 / LARGEST_SCALE, le=100)] = 0.1
    """Similarities are divided by it; a low temperature emphasises the most similar negatives."""
    learn_temperature: bool = False
    """Whether the temperature is trained, starting from the given value; it stays at 0.01 or
    above."""
    queue_size: Annotated[int, Field(ge=0, le=1 << 20)] = 0
    """Number of patches of earlier batches that are also negatives. The longer the queue, the older
    they are: the encoder should change little in that time."""

    symmetric: ClassVar[bool]  # whether every patch is an anchor, or each crop's first
    ceiling: ClassVar[None] = None  # depends on the batch: see the statistic alike_loss
    cures: ClassVar[tuple[str, ...]] = ("embedding.standardize: true", "a lower temperature")

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics of a batch besides the loss."""
        names = "contrast_accuracy", "positive_similarity", "negative_similarity", "alike_loss"
        return (*names, "temperature") if self.learn_temperature else names

    def state(self, dimensions) -> dict:
        """The variables that go with a model, by name: the arguments of Keras' `add_weight`.

        Args:
            dimensions: int, of an embedding.
        """
        import keras

        class AtMost(keras.constraints.Constraint):  # older versions of Keras take nothing else
            def __call__(self, w):
                return keras.ops.minimum(w, math.log(LARGEST_SCALE))

        variables: dict = {}
        if self.learn_temperature:
            variables["log_scale"] = {
                "shape": (),
                "initializer": keras.initializers.Constant(-math.log(self.temperature)),
                "constraint": AtMost(),
            }
        if self.queue_size:
            # Of several replicas the first one's batches are everybody's.
            kept = {"trainable": False, "aggregation": "only_first_replica"}
            variables["queue"] = kept | {
                "shape": (self.queue_size, dimensions),
                "initializer": "zeros",
            }
            variables["queue_images"] = kept | {
                "shape": (self.queue_size,),
                "initializer": keras.initializers.Constant(_NO_IMAGE),
                "dtype": "int64",
            }
        return variables

    def next_state(self, images, embeddings, state) -> dict:
        """The variables after a training batch, those that it changes: its patches are queued.

        Args:
            images, embeddings, state: as `__call__`.
        """
        from keras import ops

        if not self.queue_size:
            return {}
        _, views, dimensions = ops.shape(embeddings)
        newest = unit_vectors(ops.reshape(embeddings, (-1, dimensions)))
        of_image = ops.repeat(ops.cast(images, "int64"), views)
        return {
            "queue": _pushed(state["queue"], ops.cast(newest, state["queue"].dtype)),
            "queue_images": _pushed(state["queue_images"], of_image),
        }

    def __call__(self, images, embeddings, state=None):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), the image that each crop is from.
            embeddings: float (crops, patches, dimensions), at least two patches.
            state: the values of the variables that `state` names, where there are some.

        Returns:
            loss: float scalar, the mean of `surprise` over all pairs of an anchor and a positive.
            statistics: dict of float scalars: contrast_accuracy (share of the pairs whose positive
            is more similar than all negatives), positive_similarity, negative_similarity (mean
            cosines), alike_loss (the loss that embeddings all alike would have), and temperature
            where it is learned.
        """
        from keras import backend, ops

        state = state or {}
        if missing := self.state(1).keys() - state.keys():
            raise ValueError(
                f"{self.part_name} needs its variables ({', '.join(sorted(missing))}): compile a "
                "TripletModel with this loss, or remove learn_temperature and queue_size."
            )
        embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
        views, dimensions = embeddings.shape[1:]
        if views < 2:
            raise ValueError(f"{self.part_name} needs at least two patches per crop")
        scale = 1 / self.temperature
        if self.learn_temperature:
            scale = ops.exp(ops.cast(state["log_scale"], embeddings.dtype))
        images = ops.cast(images, "int32")
        units = unit_vectors(embeddings)
        candidates, of_image = ops.reshape(units, (-1, dimensions)), ops.repeat(images, views)
        if self.queue_size:
            queue = ops.stop_gradient(ops.cast(state["queue"], units.dtype))
            candidates = ops.concatenate([candidates, queue])
            of_image = ops.concatenate([of_image, ops.cast(state["queue_images"], "int32")])
        sides = views if self.symmetric else 1
        anchors, of_anchor = units[:, :sides] * scale, ops.repeat(images, sides)
        others = [ops.roll(units, -shift, axis=1)[:, :sides] for shift in range(1, views)]
        positive = ops.stack([ops.sum(anchors * other, axis=-1) for other in others], axis=-1)
        positive = ops.reshape(positive, (-1, views - 1))
        negative = ops.matmul(ops.reshape(anchors, (-1, dimensions)), ops.transpose(candidates))
        is_negative = (of_anchor[:, None] != of_image[None, :]) & (of_image != _NO_IMAGE)[None, :]
        losses, largest = surprise(positive, negative, is_negative)
        # Row by row, which XLA computes faster than one sum of all.
        counts = ops.sum(ops.cast(is_negative, losses.dtype), axis=-1)
        sums = ops.sum(ops.where(is_negative, ops.stop_gradient(negative), 0.0), axis=-1)
        first = positive > largest[:, None]
        statistics = {
            "contrast_accuracy": ops.mean(ops.cast(first, losses.dtype)),
            "positive_similarity": ops.mean(positive) / scale,
            "negative_similarity": ops.sum(sums) / ops.maximum(ops.sum(counts), 1.0) / scale,
            "alike_loss": ops.mean(ops.log1p(counts)),
        }
        if self.learn_temperature:
            statistics["temperature"] = 1 / scale
        return ops.mean(losses), statistics


def _pushed(queue, newest):
    """A queue, newest first, after more has come in; the oldest drop out."""
    from keras import ops

    return ops.concatenate([newest, queue])[: queue.shape[0]]


@register("objective", "infonce")
class InfoNCE(_Softmax):
    """Each crop's first patch must identify the other patches of the crop among patches of other
    images."""

    symmetric: ClassVar[bool] = False


@register("objective", "ntxent")
class NTXent(_Softmax):
    """Every patch must identify each other patch of its crop among patches of other images.

    With two patches per crop and one crop per image, this is the loss of SimCLR.
    """

    symmetric: ClassVar[bool] = True
