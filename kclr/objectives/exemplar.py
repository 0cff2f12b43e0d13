"""Exemplar: every seed window is a class of its own (Dosovitskiy et al. 2014).

"Discriminative unsupervised feature learning with convolutional neural networks", section 2.2. By
triplets the same is `patches.alike: copies` with the objective `triplet`.
"""

import math
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.objectives import _classifier
from kclr.spec.registry import Part, register


@register("objective", "exemplar")
class Exemplar(Part):
    """A classifier tells from the embedding of a transformed window which of the seed windows it
    is.

    For `patches.alike: copies` with `seeds`.
    """

    seeds: Annotated[int, Field(ge=2, le=1 << 24)] | None = None
    """Number of seed windows, the classes. In a spec it follows from `patches.alike`."""

    statistics: ClassVar[tuple[str, ...]] = ("seed_accuracy",)
    cures: ClassVar[tuple[str, ...]] = ("embedding.standardize: true", "fewer seeds")

    @property
    def classes(self) -> int:
        """How many seed windows are told apart.

        Raises:
            ValueError: this is not known.
        """
        if self.seeds is None:
            raise ValueError(
                "exemplar needs the number of seed windows. Add seeds, as in seeds=2000."
            )
        return self.seeds

    @property
    def ceiling(self) -> float | None:
        """The loss of embeddings that are all alike; None where the classes are not known."""
        return math.log(self.seeds) if self.seeds else None

    def fitted(self, patches) -> "Exemplar":
        """The same for the patches of a layer."""
        seeds = getattr(patches.alike, "seeds", None)
        return self if self.seeds else self.model_copy(update={"seeds": seeds})

    def problem(self, patches) -> str | None:
        """Why the patches of a layer are not those that the objective needs, with the cure."""
        seeds = getattr(patches.alike, "seeds", None)
        if seeds is None:
            return (
                "exemplar needs seed windows. Add them, as in patches.alike: {name: copies, seeds: "
                "2000}."
            )
        if self.seeds != seeds:
            return f"exemplar of {self.seeds} seeds, but patches.alike has {seeds}. Remove the key."
        return None

    def state(self, dimensions) -> dict:
        """The classifier's variables; see `kclr.objectives._classifier`."""
        return _classifier.variables(dimensions, [], self.classes)

    def __call__(self, images, embeddings, state=None):
        """Loss and statistics of a batch of windows.

        Args:
            images: int (crops,), the number of each seed window, from 0 to `seeds` - 1.
            embeddings: float (crops, copies, dimensions).
            state: the values of the variables that `state` names.

        Returns:
            loss: float scalar, the mean cross-entropy of the seed window over all copies.
            statistics: seed_accuracy (share of the copies whose own seed has the highest score).
        """
        from keras import backend, ops

        embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
        copies, dimensions = embeddings.shape[1:]
        if copies < 2:
            raise ValueError("exemplar needs at least two patches per crop")
        state = _classifier.given(self, state)
        labels = ops.repeat(ops.cast(images, "int32"), copies)
        scored = _classifier.scores(state, ops.reshape(embeddings, (-1, dimensions)))
        losses, right = _classifier.cross_entropy(scored, labels)
        return ops.mean(losses), {"seed_accuracy": ops.mean(right)}
