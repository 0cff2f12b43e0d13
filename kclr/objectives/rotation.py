"""Rotation: by how many quarter turns a crop was turned (Gidaris et al. 2018).

"Unsupervised representation learning by predicting image rotations", section 2.
"""

import math
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.objectives import _classifier
from kclr.spec.registry import Part, register
from kclr.spec.values import pair, short
from kclr.spec.wording import shown

TURNS = 4


@register("objective", "rotation")
class Rotation(Part):
    """Each crop is turned by 0 to 3 quarter turns at random, which a classifier tells from the
    embedding of each of its patches.

    Patches and crops must be square; series have no turns. Beside other objectives in a list it is
    an auxiliary task, and these see turned crops too. `RandomRotation` changes the answer.
    """

    hidden: Annotated[int, Field(ge=1, le=65536)] | None = 256
    """Units of the classifier's hidden layer, which is discarded after training; null for none."""

    takes_turns: ClassVar[bool] = True
    statistics: ClassVar[tuple[str, ...]] = ("rotation_accuracy",)
    ceiling: ClassVar[float] = math.log(TURNS)  # the loss of embeddings that are all alike
    cures: ClassVar[tuple[str, ...]] = ("embedding.standardize: true", "larger patches")

    def problem(self, patches) -> str | None:
        """Why the patches of a layer cannot be turned, with the cure, or None."""
        for what, size in (("patches", patches.patch_size), ("crops", patches.crop_size)):
            height, width = pair(size)
            if height == 1 and width > 1:
                return "rotation turns images, but a series has no quarter turns. Use position."
            if height != width:
                return f"rotation needs square {what}, not {shown(short(height, width))}."
        return None

    def state(self, dimensions) -> dict:
        """The classifier's variables; see `kclr.objectives._classifier`."""
        return _classifier.variables(dimensions, [self.hidden] if self.hidden else [], TURNS)

    def __call__(self, images, embeddings, turns, state=None):
        """Loss and statistics of a batch of crops.

        Args:
            images: int (crops,), not used: no crop is compared with another.
            embeddings: float (crops, patches, dimensions).
            turns: int (crops,), quarter turns of each crop, 0 to 3.
            state: the values of the variables that `state` names.

        Returns:
            loss: float scalar, the mean cross-entropy over all patches. statistics:
            rotation_accuracy (share of the patches whose turn has the highest score).
        """
        from keras import backend, ops

        state = _classifier.given(self, state)
        embeddings = ops.cast(embeddings, backend.result_type(embeddings.dtype, "float32"))
        views, dimensions = embeddings.shape[1:]
        scored = _classifier.scores(state, ops.reshape(embeddings, (-1, dimensions)))
        wanted = ops.repeat(ops.cast(turns, "int32"), views)
        losses, right = _classifier.cross_entropy(scored, wanted)
        return ops.mean(losses), {"rotation_accuracy": ops.mean(right)}
