"""Logistic regression of frozen features."""

import warnings

import numpy as np

from kclr.probing.memory import blocks, changed, standard
from kclr.probing.protocol import hold_out
from kclr.spec.registry import register

STRENGTHS = tuple(10.0**power for power in range(-5, 1))
STEPS = 200


@register("readout", "logistic")
class Logistic:
    """Multinomial logistic regression on standardised features: scikit-learn's, with L-BFGS.

    The fit ends after 200 iterations, converged or not.

    Args:
        random_state: int, of the part of the labels that chooses the strength.
        standardize: bool, as of `Ridge`.

    Attributes:
        strength_: the chosen C, from 1e-5 to 1, the inverse of the regularisation strength.
    """

    def __init__(self, random_state=None, standardize=True):
        self.random_state, self.standardize = random_state, standardize

    def fit(self, features, labels, groups=None):
        """Choose the strength, and fit with it; see `Ridge.fit`."""
        held_out = hold_out(labels, self.random_state or 0, groups)
        kept, other = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        fitted = _fits(features, labels, kept, self.standardize)
        scores = [
            np.mean(fitted(strength)(features, other) == labels[other]) for strength in STRENGTHS
        ]
        del fitted  # its features go before all come
        self.strength_ = STRENGTHS[int(np.argmax(scores))]
        everything = _fits(features, labels, np.arange(len(labels)), self.standardize)
        self._predict = everything(self.strength_)
        return self

    def predict(self, features):
        """The classes of images: float32 (images, numbers) to int64 (images,)."""
        return self._predict(features, np.arange(len(features)))


def _fits(features, labels, rows, standardize):
    """A function of the strength, which fits on some rows and returns a function that predicts."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, deviation = standard(features, rows, standardize)

    def standardised(values):
        return ((values - mean) / deviation).astype(np.float32)

    own = changed(features, rows, standardised)

    def fitted(strength):
        model = LogisticRegression(C=strength, max_iter=STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(own, labels[rows])

        def predict(values, chosen):
            found = [model.predict(standardised(values[part])) for part in blocks(chosen)]
            return np.concatenate(found)

        return predict

    return fitted
