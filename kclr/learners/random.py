"""Random filters, the control that every learner is measured against."""

from kclr.learners._windows import WindowLearner
from kclr.spec.registry import register


@register("learner", "random")
class Random(WindowLearner):
    """Filters of length 1 that point anywhere, each direction as likely as any other, in the space
    of whitened windows."""

    def directions(self, whitened, covariance, filters, random):
        """As `WindowLearner.directions`."""
        from kclr.whitening import unit

        return unit(random.standard_normal((filters, whitened.shape[1]))).T
