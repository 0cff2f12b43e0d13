"""Competing hidden units: a local rule of learning, without labels and without gradients."""

from typing import Annotated

from pydantic import Field

from kclr.learners._windows import WindowLearner
from kclr.spec.registry import register


@register("learner", "hebbian")
class Hebbian(WindowLearner):
    """Krotov and Hopfield's competing units (2019, "Unsupervised learning by competing hidden
    units", equations 3 and 8 to 10), on image patches as Grinberg et al. 2019 use it ("Local
    unsupervised learning for image analysis"). Filters are normalised to length 1 at the end."""

    power: Annotated[float, Field(ge=2, le=10)] = 2.0
    """Lebesgue norm p of the weights."""
    rank: Annotated[int, Field(ge=2, le=1024)] = 2
    """The unit with this rank among the strongest responses is pushed away from the window."""
    repulsion: Annotated[float, Field(ge=0, le=1)] = 0.2
    """Strength of this push, relative to 1 for the strongest unit, which is pulled towards the
    window."""
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Passes over the windows."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 256
    """Windows per step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 0.04
    """Learning rate of the first step; it decreases linearly to zero."""

    def directions(self, whitened, covariance, filters, random):
        """As `WindowLearner.directions`."""
        import numpy as np

        from kclr.whitening import unit

        points = unit(whitened).astype(np.float32)
        weights = random.standard_normal((filters, points.shape[1])).astype(np.float32)
        batch = min(self.batch_size, len(points))
        steps = self.epochs * (len(points) // batch)
        rank = min(self.rank, filters)
        for step in range(steps):
            start = step % (len(points) // batch)
            if start == 0:
                order = random.permutation(len(points))
            windows = points[order[start * batch : (start + 1) * batch]]
            update = competing_update(weights, windows, self.power, rank, self.repulsion)
            rate = self.learning_rate * (1 - step / steps)
            weights += rate * update / max(np.abs(update).max(), 1e-30)
        return unit(weights).T


def competing_update(weights, windows, power, rank, repulsion):
    """The change of the weights for a batch of windows, before the learning rate.

    Args:
        weights: float (filters, numbers). windows: float (batch, numbers).
        power: float, Lebesgue norm p. rank: int from 2, of the unit that is pushed away; with a
            single filter there is none. repulsion: float, how far.

    Returns:
        float (filters, numbers): for each unit the sum over the batch of g(Q) * (v - Q * W), where
        Q is its answer <W, v> with |W|^(p - 1) (equation 3), g is 1 for the strongest answer and
        -repulsion for that of place `rank`.
    """
    import numpy as np

    answers = windows @ (np.sign(weights) * np.abs(weights) ** (power - 1)).T
    rows = np.arange(len(windows))
    gates = np.zeros_like(answers)
    if len(weights) >= rank:
        chosen = np.argpartition(answers, -rank, axis=1)[:, -rank:]
        ordered = np.take_along_axis(answers, chosen, axis=1).argsort(axis=1)
        gates[rows, chosen[rows, ordered[:, 0]]] = -repulsion
        gates[rows, chosen[rows, ordered[:, -1]]] = 1
    else:
        gates[rows, answers.argmax(axis=1)] = 1
    return gates.T @ windows - (gates * answers).sum(axis=0)[:, None] * weights
