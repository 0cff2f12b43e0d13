"""Random whitened patches of the data as filters: no learning, and hard to beat."""

from typing import ClassVar

from kclr.learners._windows import WindowLearner
from kclr.spec.registry import register


@register("learner", "patches")
class Patches(WindowLearner):
    """Random whitened windows, of length 1, as filters (Coates and Ng 2011, section 3.1; Thiry et
    al. 2021, "The unreasonable effectiveness of patches in deep convolutional kernels methods"). If
    there are fewer windows than filters, windows are repeated."""

    baseline: ClassVar[str | None] = "whitened"
    title: ClassVar[str | None] = "random whitened patches"

    def directions(self, whitened, covariance, filters, random):
        """As `WindowLearner.directions`."""
        import numpy as np

        from kclr.whitening import unit

        return unit(whitened[np.resize(random.permutation(len(whitened)), filters)]).T
