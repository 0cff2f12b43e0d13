"""Nearest neighbours among frozen features."""

import numpy as np

from kclr.probing.memory import blocks, changed, standard
from kclr.probing.protocol import hold_out
from kclr.spec.registry import register

NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100)


@register("readout", "knn")
class NearestNeighbours:
    """A majority of the nearest neighbours by cosine distance of standardised features.

    As in scikit-learn's `KNeighborsClassifier`, classes with as many votes as each other give way
    to the first of them.

    Args:
        random_state: int, of the part of the labels that chooses the number of neighbours.
        standardize: bool, as of `Ridge`.

    Attributes:
        strength_: the chosen number of neighbours, from 1 to 100.
    """

    title = "neighbours"

    def __init__(self, random_state=None, standardize=True):
        self.random_state, self.standardize = random_state, standardize

    def fit(self, features, labels, groups=None):
        """Choose the number of neighbours, and store the features; see `Ridge.fit`."""
        self._classes = np.unique(labels)
        held_out = hold_out(labels, self.random_state or 0, groups)
        kept, other = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        # More neighbours than a class has images are never of one class.
        most = max(1, len(kept) // len(self._classes))
        counts = [k for k in NEIGHBOURS if k <= most]
        found = self._index(features, labels, kept, counts[-1])(features, other)
        scores = [np.mean(self._majority(found[:, :k]) == labels[other]) for k in counts]
        self.strength_ = counts[int(np.argmax(scores))]
        self._votes = self._index(features, labels, np.arange(len(labels)), self.strength_)
        return self

    def predict(self, features):
        """The classes of images: float32 (images, numbers) to int64 (images,)."""
        return self._majority(self._votes(features, np.arange(len(features))))

    def _index(self, features, labels, rows, most):
        """A function of features and rows of them: their neighbours' classes, the nearest first,
        int (images, most)."""
        from sklearn.neighbors import NearestNeighbors

        mean, deviation = standard(features, rows, self.standardize)

        def directions(values):
            values = (values - mean) / deviation
            norms = np.linalg.norm(values, axis=1, keepdims=True)
            return (values / np.where(norms > 0, norms, 1)).astype(np.float32)

        # Of unit vectors, those with the smallest angle are the nearest ones, which is faster.
        search = NearestNeighbors(n_neighbors=min(most, len(rows)), algorithm="brute")
        search.fit(changed(features, rows, directions))
        voices = np.searchsorted(self._classes, labels[rows])

        def votes(values, chosen):
            found = [
                search.kneighbors(directions(values[part]), return_distance=False)
                for part in blocks(chosen)
            ]
            return voices[np.concatenate(found)]

        return votes

    def _majority(self, votes):
        tally = np.zeros((len(votes), len(self._classes)), np.int64)
        np.add.at(tally, (np.arange(len(votes))[:, None], votes), 1)
        return self._classes[tally.argmax(axis=1)]
