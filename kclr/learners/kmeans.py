"""Centroids of k-means as filters."""

from typing import Annotated, ClassVar

from pydantic import Field

from kclr.learners._windows import WindowLearner
from kclr.spec.registry import register


@register("learner", "kmeans")
class KMeans(WindowLearner):
    """Centroids of whitened windows on the unit sphere, by scikit-learn's k-means (Coates and Ng
    2012, "Learning feature representations with k-means")."""

    baseline: ClassVar[str | None] = "kmeans"
    title: ClassVar[str | None] = "spherical k-means"

    iterations: Annotated[int, Field(ge=1, le=10_000)] = 25
    """Largest number of passes over the windows."""

    def directions(self, whitened, covariance, filters, random):
        """As `WindowLearner.directions`."""
        import numpy as np
        from sklearn.cluster import KMeans as Clusters

        from kclr.whitening import unit

        points = unit(whitened)
        clusters = Clusters(
            min(filters, len(points)),
            init="random",
            n_init=1,
            max_iter=self.iterations,
            random_state=int(random.integers(1 << 31)),
        )
        centroids = unit(clusters.fit(points).cluster_centers_)
        return centroids[np.resize(np.arange(len(centroids)), filters)].T
