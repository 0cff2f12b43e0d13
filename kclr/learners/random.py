"""Random filters, the baseline for every learner."""

from kclr.learners._windows import WindowLearner
from kclr.spec.registry import register


@register("learner", "random")
class Random(WindowLearner):
    """Filters of length 1 in uniformly random directions in the space of whitened windows."""

    def directions(self, whitened, covariance, filters, random):
        """As `WindowLearner.directions`."""
        from kclr.whitening import unit

        return unit(random.standard_normal((filters, whitened.shape[1]))).T
