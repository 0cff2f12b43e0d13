"""A penalty on filters that point alike, as a Keras regularizer."""

import math

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="kclr")
class Decorrelation(keras.regularizers.Regularizer):
    """The mean squared cosine between two different filters of a kernel, times a factor.

    The soft orthogonality of Bansal et al. (2018, "Can we gain more from orthogonality
    regularizations in training deep networks?", section 3.1) without its diagonal, so that filters
    keep their lengths. It is 0 for orthogonal filters and `factor` for filters that are all alike
    or opposite; F filters of N numbers have (F / N - 1) / (F - 1) of `factor` at least where F is
    more than N (Welch 1974).

    Args:
        factor: float >= 0.

    Call: a float kernel (..., filters). Returns: float scalar. Filters of length 0 count as
    orthogonal to all.

    Raises:
        ValueError: the factor is no such number.
    """

    def __init__(self, factor=1.0):
        if not isinstance(factor, (int, float)) or not (factor >= 0 and math.isfinite(factor)):
            raise ValueError(f"factor must be a number from 0 on; got {factor!r}")
        self.factor = float(factor)

    def __call__(self, kernel):
        filters = kernel.shape[-1]
        flat = ops.reshape(kernel, (-1, filters))
        squares = ops.sum(ops.square(flat), axis=0)
        # Safe for the gradient too: where() alone would still divide by zero.
        nothing = squares == 0
        flat = flat * ops.where(nothing, 0.0, ops.rsqrt(ops.where(nothing, 1.0, squares)))
        cosines = ops.matmul(ops.transpose(flat), flat)
        apart = ops.sum(ops.square(cosines * (1 - ops.eye(filters, dtype=cosines.dtype))))
        return self.factor * apart / max(filters * (filters - 1), 1)

    def get_config(self):
        return {"factor": self.factor}
