"""Ridge regression of frozen features."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kclr.probing.memory import blocks, standard
from kclr.probing.protocol import hold_out
from kclr.spec.registry import register

STRENGTHS = tuple(10.0 ** (power / 2) for power in range(-2, 11))
_MANY = 4096  # numbers
_SIDE = 8192  # numbers; of a block of a matrix that is factored
_COLUMNS = 1024  # numbers; of a block of the products, and of standardised features


@register("readout", "ridge")
class Ridge:
    """Ridge regression on standardised features, to 1 for the class and -1 for the others.

    The same as scikit-learn's `StandardScaler` and `RidgeClassifier`, with one Gram matrix of all
    features for every strength. For fewer images than features it is that of the images (the dual;
    Saunders et al. 1998, "Ridge regression learning algorithm in dual variables").

    Args:
        random_state: int, of the part of the labels that chooses the strength.
        standardize: bool; False for features whose scale means something, such as aligned ones.

    Attributes:
        strength_: the chosen alpha, from 0.1 to 100,000.
    """

    def __init__(self, random_state=None, standardize=True):
        self.random_state, self.standardize = random_state, standardize

    def fit(self, features, labels, groups=None):
        """Choose the strength on a part that is held out, and fit with it on all.

        Args:
            features: float32 (images, numbers); they may be a `numpy.memmap` larger than the
                memory.
            labels: int (images,), of two classes or more, of which one has two images.
            groups: int (images,), of which each is held out as a whole; None for none.
        """
        self._classes = classes = np.unique(labels)
        held_out = hold_out(labels, self.random_state or 0, groups)
        kept, other, every = np.flatnonzero(~held_out), np.flatnonzero(held_out), len(labels)
        if every > features.shape[1]:
            shift, scale = standard(features, np.arange(every), self.standardize)
            first_sums, sums = (
                _Moments.of(features, labels, part, classes, shift, scale) for part in (kept, other)
            )
            sums += first_sums
            first, everything = (own.weights(self.standardize) for own in (first_sums, sums))
        else:
            first = _dual_weights(features, labels, kept, classes, self.standardize)
            everything = None
        shares: dict[int, float] = {}  # of the held-out part that is right, by strength's place
        for places in _rounds(shares, features.shape[1]):
            candidates = [first(STRENGTHS[place]) for place in places]
            coefficients, intercepts = zip(*candidates, strict=True)
            scores = _linear(features, other, np.stack(coefficients, 1), np.stack(intercepts))
            right = classes[scores.argmax(axis=-1)] == labels[other][:, None]
            shares |= zip(places, right.mean(axis=0), strict=True)
        self.strength_ = STRENGTHS[_best(shares)]
        if everything is None:
            del first, candidates  # of which the matrix goes before the next one comes
            rows = np.arange(every)
            everything = _dual_weights(features, labels, rows, classes, self.standardize)
        self._weights = everything(self.strength_)
        return self

    def predict(self, features):
        """The classes of images: float32 (images, numbers) to int64 (images,)."""
        scores = _linear(features, np.arange(len(features)), *self._weights)
        return self._classes[scores.argmax(axis=-1)]


def _rounds(shares, numbers):
    """The places in `STRENGTHS` to try, round after round, given the shares found so far.

    All of them for few numbers. For many, where each takes seconds, every fourth one, and then
    ever nearer neighbours of the best: the share is taken to have one peak.
    """
    count = len(STRENGTHS)
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
        for part in blocks(rows):
            # The products in float32, which is fast; their sums in float64.
            x = ((features[part] - shift) / scale).astype(np.float32)
            y = _targets(labels[part], classes)
            found.x += x.sum(axis=0, dtype=np.float64)
            found.y += y.sum(axis=0)
            for left, below in _columns(numbers, _COLUMNS):
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

    def weights(self, standardize):
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
        deviation = np.sqrt(np.where(constant, 1, variance if standardize else 1))
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


def _dual_weights(features, labels, rows, classes, standardize):
    """A function of alpha, as `_Moments.weights` returns one. Of the features no more than a block
    is standardised at a time; what takes memory are their products, float64 (rows, rows), twice."""
    mean, deviation = standard(features, rows, standardize)
    numbers = features.shape[1]

    def standardised():
        for start in range(0, numbers, _COLUMNS):
            part = slice(start, start + _COLUMNS)
            x = features[rows, part] - mean[part]
            x /= deviation[part]
            yield part, x

    y = _targets(labels[rows], classes)
    target = y.mean(axis=0)
    kernel = np.zeros((len(rows), len(rows)))
    for _, x in standardised():
        for left, below in _columns(len(rows), _COLUMNS):
            kernel[below, left] += x[below] @ x[left].T

    def weights(alpha):
        shrunk = kernel.copy()
        np.fill_diagonal(shrunk, shrunk.diagonal() + alpha)
        dual = _solve(shrunk, y - target)
        coefficient = np.concatenate([x.T @ dual for _, x in standardised()])
        return _unscaled(coefficient, target, mean, deviation)

    return weights


def _columns(numbers, side):
    """Blocks of a symmetric matrix's columns, each with the rows from its first column on."""
    for start in range(0, numbers, side):
        yield slice(start, min(start + side, numbers)), slice(start, numbers)


def _solve(matrix, right):
    """The x of matrix @ x = right, for a positive definite matrix, which is overwritten; what is
    above its diagonal, or above its blocks there, is not looked at.

    Cholesky's factor, block by block (Golub and Van Loan, "Matrix computations", section 4.2):
    of 18,000 numbers at once OpenBLAS 0.3.31 with two threads overruns its buffers and crashes.
    """
    from scipy.linalg import cho_factor, cho_solve, solve_triangular

    for left, below in _columns(len(matrix), _SIDE):
        # Transposed it is in the order in which LAPACK needs no copy of it.
        upper, _ = cho_factor(matrix[left, left].T, overwrite_a=True, check_finite=False)
        factor = matrix[left, left] = upper.T
        under = slice(left.stop, below.stop)
        if under.start == under.stop:
            break
        panel = solve_triangular(factor, matrix[under, left].T, lower=True, check_finite=False).T
        matrix[under, left] = panel
        for columns, rows in _columns(len(panel), _SIDE):
            matrix[under, under][rows, columns] -= panel[rows] @ panel[columns].T
    return cho_solve((matrix.T, False), right, check_finite=False)


def _unscaled(coefficient, target, mean, deviation):
    coefficient = coefficient / deviation[:, None]
    return coefficient, target - mean @ coefficient


def _targets(labels, classes):
    return np.where(labels[:, None] == classes, 1.0, -1.0)


def _linear(features, rows, coefficient, intercept):
    """features @ coefficient + intercept: float64 (rows, ..., classes)."""
    flat = coefficient.reshape(len(coefficient), -1)
    scores = [features[part] @ flat for part in blocks(rows)]
    return np.concatenate(scores).reshape(-1, *coefficient.shape[1:]) + intercept
