"""Classifiers that judge frozen features: ridge, logistic regression and nearest neighbours.

Each standardises the features by what it is fitted on, chooses its strength on a part that is held
out, is fitted again on all it was given, and never sees anything else. They read the features in
blocks, so that these may be a `numpy.memmap` larger than the memory.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from kclr.probing.features import room

RIDGE_STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-2, 11))
LOGISTIC_STRENGTHS = tuple(10.0**power for power in range(-5, 1))
NEIGHBOURS = (1, 3, 5, 10, 20, 50, 100)
LOGISTIC_STEPS = 200
_MANY = 4096  # numbers
_BLOCK = 4096  # images
_SIDE = 4096  # numbers; of a block of the ridge's matrices
_MEMORY = 4096  # megabytes of standardised features; more are kept on disk


@dataclass(frozen=True)
class Fitted:
    """A classifier that was fitted.

    Attributes:
        strength: what was chosen on the held-out part: the alpha of the ridge, the C of the
            logistic regression, or the number of neighbours.
        predict: from float32 features (images, numbers) to int64 (images,), the classes.
    """

    strength: float
    predict: Callable[[Any], Any]


def ridge(features, labels, rows, held_out) -> Fitted:
    """Ridge regression on standardised features, to 1 for the class and -1 for the others.

    The same as scikit-learn's `StandardScaler` and `RidgeClassifier`, with the Gram matrix of all
    features gathered once for every strength. On fewer images than features it is that of the
    images (the dual; Saunders et al. 1998, "Ridge regression learning algorithm in dual
    variables").

    Args:
        features: float32 (all images, numbers).
        labels: int (all images,).
        rows: int (n,), ascending, the images to fit on.
        held_out: bool (n,), those of them to choose the strength with.
    """
    classes = np.unique(labels[rows])
    if len(rows) > features.shape[1]:
        shift, scale = _standard(features, rows)
        kept, other = (
            _Moments.of(features, labels, part, classes, shift, scale)
            for part in (rows[~held_out], rows[held_out])
        )
        other += kept
        first, everything = kept.weights(), other.weights()
    else:
        first = _dual_weights(features, labels, rows[~held_out], classes)
        everything = _dual_weights(features, labels, rows, classes)
    shares: dict[int, float] = {}  # of the held-out part that is right, by place of the strength
    for places in _rounds(shares, features.shape[1]):
        candidates = [first(RIDGE_STRENGTHS[place]) for place in places]
        coefficients, intercepts = zip(*candidates, strict=True)
        scores = _linear(features, rows[held_out], np.stack(coefficients, 1), np.stack(intercepts))
        right = classes[scores.argmax(axis=-1)] == labels[rows[held_out]][:, None]
        shares |= zip(places, right.mean(axis=0), strict=True)
    alpha = RIDGE_STRENGTHS[_best(shares)]
    coefficient, intercept = everything(alpha)

    def predict(values):
        scores = _linear(values, np.arange(len(values)), coefficient, intercept)
        return classes[scores.argmax(axis=-1)]

    return Fitted(alpha, predict)


def _rounds(shares, numbers):
    """The places in `RIDGE_STRENGTHS` to try, round after round, given the shares found so far.

    All of them for few numbers. For many, where each takes seconds, every fourth one, and then
    ever nearer neighbours of the best: the share is taken to have one peak.
    """
    count = len(RIDGE_STRENGTHS)
    if numbers < _MANY:
        yield range(count)
        return
    yield range(2, count, 4)
    for step in (2, 1):
        best = _best(shares)
        near = (best - step, best + step)
        yield [place for place in near if 0 <= place < count and place not in shares]


def _best(shares):
    """The place with the largest share, the first where several have it."""
    return max(sorted(shares), key=lambda place: shares[place])


@dataclass
class _Moments:
    """Sums over images of shifted, scaled features x and targets y; what a ridge needs of them."""

    shift: Any
    scale: Any
    count: int
    x: Any
    y: Any
    xx: Any  # its blocks on the diagonal, and those below
    xy: Any

    @classmethod
    def of(cls, features, labels, rows, classes, shift, scale):
        numbers = features.shape[1]
        found = cls(
            shift,
            scale,
            len(rows),
            np.zeros(numbers),
            np.zeros(len(classes)),
            np.zeros((numbers, numbers)),
            np.zeros((numbers, len(classes))),
        )
        for part in _blocks(rows):
            # The products in float32, which is fast; their sums in float64.
            x = ((features[part] - shift) / scale).astype(np.float32)
            y = _targets(labels[part], classes)
            found.x += x.sum(axis=0, dtype=np.float64)
            found.y += y.sum(axis=0)
            for left, below in _columns(numbers):
                found.xx[below, left] += x[:, below].T @ x[:, left]
            found.xy += x.T @ y
        return found

    def __iadd__(self, other):
        self.count += other.count
        self.x += other.x
        self.y += other.y
        self.xx += other.xx
        self.xy += other.xy
        return self

    def weights(self):
        """A function of alpha that gives the coefficient (numbers, classes) and the intercept
        (classes,), for the features as they are. The sums are used up: their products, the largest
        array of all, become its Gram matrix."""
        mean, target = self.x / self.count, self.y / self.count
        gram = self.xx
        gram -= np.outer(self.count * mean, mean)
        variance = np.diag(gram) / self.count
        # All images together have 1. What is this small is the rounding of one that is constant in
        # these, of a filter that only others excite.
        constant = variance < 1e-6
        deviation = np.sqrt(np.where(constant, 1, variance))
        gram[constant] = gram[:, constant] = 0
        gram /= deviation
        gram /= deviation[:, None]
        cross = (self.xy - np.outer(self.x, target)) / deviation[:, None]
        cross[constant] = 0

        def of(alpha):
            shrunk = gram.copy()
            np.fill_diagonal(shrunk, shrunk.diagonal() + alpha)
            return _unscaled(
                _solve(shrunk, cross),
                target,
                self.shift + mean * self.scale,
                deviation * self.scale,
            )

        return of


def _dual_weights(features, labels, rows, classes):
    mean, deviation = _standard(features, rows)
    x = (features[rows] - mean) / deviation
    y = _targets(labels[rows], classes)
    target = y.mean(axis=0)
    kernel = np.zeros((len(x), len(x)))
    for left, below in _columns(len(x)):
        kernel[below, left] = x[below] @ x[left].T

    def weights(alpha):
        dual = _solve(kernel + alpha * np.eye(len(x)), y - target)
        return _unscaled(x.T @ dual, target, mean, deviation)

    return weights


def _columns(numbers):
    """Blocks of a symmetric matrix's columns, each with the rows from its first column on."""
    for start in range(0, numbers, _SIDE):
        yield slice(start, min(start + _SIDE, numbers)), slice(start, numbers)


def _solve(matrix, right):
    """The x of matrix @ x = right, for a positive definite matrix, which is overwritten; what is
    above its blocks on the diagonal is not looked at.

    Cholesky's factor, block by block (Golub and Van Loan, "Matrix computations", section 4.2):
    of 18,000 numbers at once OpenBLAS 0.3.31 with two threads overruns its buffers and crashes.
    """
    for left, below in _columns(len(matrix)):
        factor = matrix[left, left] = cholesky(matrix[left, left], lower=True, check_finite=False)
        under = slice(left.stop, below.stop)
        if under.start == under.stop:
            break
        panel = solve_triangular(factor, matrix[under, left].T, lower=True, check_finite=False).T
        matrix[under, left] = panel
        for columns, rows in _columns(len(panel)):
            matrix[under, under][rows, columns] -= panel[rows] @ panel[columns].T
    # Transposed it is in the order in which LAPACK needs no copy of it.
    return cho_solve((matrix.T, False), right, check_finite=False)


def _unscaled(coefficient, target, mean, deviation):
    coefficient = coefficient / deviation[:, None]
    return coefficient, target - mean @ coefficient


def _targets(labels, classes):
    return np.where(labels[:, None] == classes, 1.0, -1.0)


def _linear(features, rows, coefficient, intercept):
    """features @ coefficient + intercept: float64 (rows, ..., classes)."""
    flat = coefficient.reshape(len(coefficient), -1)
    blocks = [features[part] @ flat for part in _blocks(rows)]
    return np.concatenate(blocks).reshape(-1, *coefficient.shape[1:]) + intercept


def logistic(features, labels, rows, held_out) -> Fitted:
    """Multinomial logistic regression on standardised features: scikit-learn's, with L-BFGS.

    Arguments as of `ridge`. The fit ends after 200 iterations, converged or not.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    def fit(rows, strength):
        mean, deviation = _standard(features, rows)
        model = LogisticRegression(C=strength, max_iter=LOGISTIC_STEPS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(_prepared(features, rows, mean, deviation), labels[rows])

        def predict(values, chosen=None):
            chosen = np.arange(len(values)) if chosen is None else chosen
            return np.concatenate(
                [
                    model.predict(((values[part] - mean) / deviation).astype(np.float32))
                    for part in _blocks(chosen)
                ]
            )

        return predict

    truth = labels[rows[held_out]]
    scores = [
        np.mean(fit(rows[~held_out], strength)(features, rows[held_out]) == truth)
        for strength in LOGISTIC_STRENGTHS
    ]
    strength = LOGISTIC_STRENGTHS[int(np.argmax(scores))]
    return Fitted(strength, fit(rows, strength))


def knn(features, labels, rows, held_out) -> Fitted:
    """A majority of the nearest neighbours by cosine distance of standardised features.

    Arguments as of `ridge`. As in scikit-learn's `KNeighborsClassifier`, classes with as many
    votes as each other give way to the first of them.
    """
    from sklearn.neighbors import NearestNeighbors

    classes = np.unique(labels[rows])

    def index(rows, most):
        mean, deviation = _standard(features, rows)
        stored = _prepared(features, rows, mean, deviation, unit=True)
        most = min(most, len(rows))
        # Of unit vectors, those with the smallest angle are the nearest ones, which is faster.
        search = NearestNeighbors(n_neighbors=most, algorithm="brute").fit(stored)
        voices = np.searchsorted(classes, labels[rows])

        def votes(values, chosen):
            """The neighbours' classes, the nearest first: int (images, most)."""
            found = [
                search.kneighbors(_unit((values[part] - mean) / deviation), return_distance=False)
                for part in _blocks(chosen)
            ]
            return voices[np.concatenate(found)]

        return votes

    # More neighbours than a class has images are never of one class.
    most = max(1, np.sum(~held_out) // len(classes))
    counts = [k for k in NEIGHBOURS if k <= most]
    found = index(rows[~held_out], counts[-1])(features, rows[held_out])
    truth = labels[rows[held_out]]
    scores = [np.mean(classes[_majority(found[:, :k], len(classes))] == truth) for k in counts]
    count = counts[int(np.argmax(scores))]
    final = index(rows, count)

    def predict(values):
        return classes[_majority(final(values, np.arange(len(values))), len(classes))]

    return Fitted(count, predict)


def _majority(votes, classes):
    tally = np.zeros((len(votes), classes), np.int64)
    np.add.at(tally, (np.arange(len(votes))[:, None], votes), 1)
    return tally.argmax(axis=1)


def _standard(features, rows):
    """Mean and standard deviation of each feature, float64; 1 for one that is always the same."""
    total, squares = np.zeros(features.shape[1]), np.zeros(features.shape[1])
    shift = features[rows[0]].astype(np.float64)
    for part in _blocks(rows):
        values = features[part] - shift
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
    mean = total / len(rows)
    variance = squares / len(rows) - mean**2
    return shift + mean, np.sqrt(np.where(variance > 1e-14 * (shift + mean) ** 2, variance, 1))


def _prepared(features, rows, mean, deviation, unit=False):
    """The standardised features of `rows`, in memory or on disk; of unit length on request."""
    out = room((len(rows), features.shape[1]), _MEMORY)
    done = 0
    for part in _blocks(rows):
        values = (features[part] - mean) / deviation
        out[done : done + len(part)] = _unit(values) if unit else values
        done += len(part)
    return out


def _unit(values):
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return (values / np.where(norms > 0, norms, 1)).astype(np.float32)


def _blocks(rows):
    return (rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK))


READOUTS: dict[str, Callable[..., Fitted]] = {"ridge": ridge, "logistic": logistic, "knn": knn}
