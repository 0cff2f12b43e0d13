"""Position: on which side of a window its neighbour lies (Doersch et al. 2015).

"Unsupervised visual representation learning by context prediction", section 3: both embeddings side
by side, and a classifier of eight positions.
"""

import math
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.objectives import _classifier
from kclr.spec.registry import Part, register

_EIGHT = 8


@register("objective", "position")
class Position(Part):
    """A classifier tells from the embeddings of a window and one of its neighbours where the
    neighbour lies: on which of eight sides, or of series before or after.

    For `patches.alike: gap` with all neighbours.
    """

    neighbours: Annotated[int, Field(ge=2, le=_EIGHT)] | None = None
    """Number of neighbours, the classes. In a spec it follows from `patches.alike`, from Python it
    is 8 by default; of series it is 2."""
    hidden: Annotated[int, Field(ge=1, le=65536)] = 256
    """Units of the classifier's hidden layer, which is discarded after training."""

    statistics: ClassVar[tuple[str, ...]] = ("position_accuracy",)
    cures: ClassVar[tuple[str, ...]] = ("embedding.standardize: true", "a smaller gap")

    @property
    def classes(self) -> int:
        """How many positions are told apart."""
        return self.neighbours or _EIGHT

    @property
    def ceiling(self) -> float:
        """The loss of embeddings that are all alike."""
        return math.log(self.classes)

    def fitted(self, patches) -> "Position":
        """The same for the patches of a layer."""
        views = patches.alike.views(patches.patch_size)
        if self.neighbours or not 2 < views <= _EIGHT + 1:
            return self
        return self.model_copy(update={"neighbours": views - 1})

    def problem(self, patches) -> str | None:
        """Why the patches of a layer are not those that the objective needs, with the cure."""
        alike = patches.alike
        if alike.part_name != "gap":
            return "position needs windows around a middle one. Add patches.alike: gap."
        if alike.neighbours != "all":
            return "position needs all neighbours. Remove patches.alike.neighbours."
        found = alike.views(patches.patch_size) - 1
        if found != self.classes:
            return f"position of {self.classes} neighbours, but there are {found}. Remove the key."
        return None

    def state(self, dimensions) -> dict:
        """The classifier's variables; see `kclr.objectives._classifier`."""
        return _classifier.variables(2 * dimensions, [self.hidden], self.classes)

    def __call__(self, images, embeddings, state=None):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), not used: no crop is compared with another.
            embeddings: float (crops, 1 + neighbours, dimensions), the middle window first.
            state: the values of the variables that `state` names.

        Returns:
            loss: float scalar, the mean cross-entropy of the neighbour's position over all crops
            and neighbours. statistics: position_accuracy (share of the pairs whose position has the
            highest score).
        """
        from keras import backend, ops

        embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
        views, dimensions = embeddings.shape[1:]
        if views < 2:
            raise ValueError("position needs at least two patches per crop")
        if views != self.classes + 1:
            raise ValueError(
                f"position of {self.classes} neighbours needs {self.classes + 1} patches per crop, "
                f"the middle one first, but there are {views}. Use alike='gap', or set neighbours."
            )
        state = _classifier.given(self, state)
        neighbours = embeddings[:, 1:]
        middle = ops.broadcast_to(embeddings[:, :1], ops.shape(neighbours))
        pairs = ops.reshape(ops.concatenate([middle, neighbours], -1), (-1, 2 * dimensions))
        places = ops.tile(ops.arange(self.classes, dtype="int32"), [ops.shape(embeddings)[0]])
        losses, right = _classifier.cross_entropy(_classifier.scores(state, pairs), places)
        return ops.mean(losses), {"position_accuracy": ops.mean(right)}
