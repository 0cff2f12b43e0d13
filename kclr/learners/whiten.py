"""Whitening itself as filters: principal components, or ZCA's rows."""

from typing import ClassVar, Literal

from kclr.learners._windows import WindowLearner
from kclr.spec.registry import register


@register("learner", "whiten")
class Whiten(WindowLearner):
    """The coordinates of whitened windows as filters, each with its negative, since the activation
    keeps only one sign; then random rotations of them, which are also uncorrelated."""

    basis: Literal["pca", "zca"] = "pca"
    """`pca`: principal components, the largest variance first; `zca`: one filter for each value of
    the window, which responds to that value alone (Bell and Sejnowski 1997)."""

    whitening_above: ClassVar[str] = "zca"
    components: ClassVar[bool] = True
    baseline: ClassVar[str | None] = "pca"
    title: ClassVar[str | None] = "principal components"

    def directions(self, whitened, covariance, filters, random):
        """As `WindowLearner.directions`."""
        import numpy as np

        from kclr import whitening

        if self.basis == "zca":
            vectors = np.eye(whitened.shape[1])
        else:
            if covariance is None:
                centred = whitened - whitened.mean(axis=0)
                covariance = whitening.covariance(centred)
            vectors = np.linalg.eigh(covariance)[1][:, ::-1]
        found = [vectors] if self.both_signs else [vectors, -vectors]
        while len(found) * len(vectors) < filters:
            rotation = np.linalg.qr(random.standard_normal(vectors.shape))[0]
            found += [rotation] if self.both_signs else [rotation, -rotation]
        return np.concatenate(found, axis=1)[:, :filters]
