"""Predict and match similarities: those of patches in a layer are to be those of their classes.

Nøkland and Eidnes 2019, "Training neural networks with local error signals", section 2.
"""

from typing import Annotated, ClassVar

from pydantic import Field

from kclr.objectives import _classifier
from kclr.objectives.cross_entropy import OfClasses, convolution, map_shape
from kclr.spec.registry import register

_EPSILON = 1e-6  # of a variance, whose root has no gradient at 0


def similarities(vectors):
    """Cosines of all pairs of vectors, each minus its own mean (section 2.1).

    Args:
        vectors: float (examples, numbers).

    Returns:
        float (examples, examples), from -1 to 1; 0 for a vector whose numbers are all the same.
    """
    from keras import ops

    centred = vectors - ops.mean(vectors, axis=1, keepdims=True)
    squares = ops.sum(ops.square(centred), axis=1, keepdims=True)
    units = centred / ops.sqrt(ops.maximum(squares, 1e-12))
    return ops.matmul(units, ops.transpose(units))


@register("objective", "predsim")
class PredSim(OfClasses):
    """Patches of one class have similar maps, those of two have not; and a linear classifier on the
    map tells the class.

    Needs labels: `data: {source: tfds:cifar10, labels: 1}`. Patches should be large, up to the
    whole image. It sees the map itself: `embedding` only counts for other objectives beside it.
    """

    similarity: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Share of the loss of similarities; the rest is that of the classifier's cross-entropy."""

    statistics: ClassVar[tuple[str, ...]] = (
        "class_accuracy",
        "labelled_share",
        "similarity_loss",
        "alike_loss",
    )

    def state(self, maps) -> dict:
        """The variables of a convolution before similarities, and of the classifier.

        Args:
            maps: height, width and filters of the block's map.
        """
        shape = map_shape(maps)
        variables = _classifier.variables(shape[-1], [], self.classes or 2)
        return convolution(shape, "convolution") | variables

    def __call__(self, images, maps, labels, state=None):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), not used: patches are compared by their classes.
            maps: float (crops, patches, height, width, filters).
            labels: int (crops,), the class of each crop's image, -1 for none.
            state: the values of the variables that `state` names.

        Returns:
            loss: float scalar. The similarities are those of each filter's standard deviation over
            the map, after a convolution; of a map of one cell, of its numbers. Their loss is the
            mean square of what they differ by from those of the classes' one-hot vectors, over all
            pairs of patches that have a label. statistics: class_accuracy, labelled_share,
            similarity_loss, and alike_loss (of a classifier that knows nothing, and similarities
            of 0).
        """
        from keras import ops

        state = _classifier.given(self, state)
        maps, of_patches, views = self._flat(maps, labels)
        predicted, told = self._predicted(
            ops.mean(maps, axis=(1, 2)), state, labels, of_patches, views
        )
        seen = ops.conv(maps, state["convolution"], padding="same")
        if seen.shape[1] * seen.shape[2] == 1:
            vectors = ops.reshape(seen, (-1, seen.shape[-1]))
        else:
            vectors = ops.sqrt(ops.var(seen, axis=(1, 2)) + _EPSILON)
        same = of_patches[:, None] == of_patches[None, :]
        known = of_patches >= 0
        both = ops.cast(known[:, None] & known[None, :], vectors.dtype)
        pairs = ops.maximum(ops.sum(both), 1.0)
        wanted = ops.where(same, 1.0, -1.0 / ((self.classes or 2) - 1))
        matched = ops.sum(ops.square(similarities(vectors) - wanted) * both) / pairs
        nothing = ops.sum(ops.square(wanted) * both) / pairs
        share = self.similarity
        return share * matched + (1 - share) * predicted, told | {
            "similarity_loss": matched,
            "alike_loss": share * nothing + (1 - share) * told["alike_loss"],
        }
