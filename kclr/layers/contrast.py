"""Contrast of the windows that a convolution sees, for normalising each of them by its own."""

import keras
from keras import ops


def window_deviation(inputs, size, strides, padding, epsilon):
    """Standard deviation of every window of a convolution, over its pixels and channels.

    The denominator of the patch normalisation of Coates and Ng (2011, "An analysis of single-layer
    networks in unsupervised feature learning", section 3.1), from the means of all windows and of
    their squares, which two average pools give.

    Args:
        inputs: float (batch, height, width, channels).
        size: (int, int), of the window. strides: (int, int). padding: "valid" or "same"; the zeros
            of "same" belong to a window as its other pixels do.
        epsilon: float > 0, added to the variances, in the unit of the inputs squared.

    Returns:
        float (batch, height, width, 1), in float32 at least: sqrt(variance + epsilon).
    """
    inputs = ops.cast(inputs, keras.backend.result_type(inputs.dtype, "float32"))
    # E[x^2] - E[x]^2 loses all its digits where the mean is large beside the deviation, so large
    # means go first; pixels from 0 to 1 have none.
    shift = ops.mean(inputs, axis=(1, 2, 3), keepdims=True)
    shift = ops.stop_gradient(ops.where(ops.abs(shift) > 1, shift, ops.zeros_like(shift)))
    inputs = inputs - shift
    moments = [ops.mean(inputs, -1, keepdims=True), ops.mean(ops.square(inputs), -1, keepdims=True)]
    moments = ops.average_pool(
        ops.concatenate(moments, axis=-1), size, strides, padding, data_format="channels_last"
    )
    if padding == "same":  # where Keras leaves the zeros out
        ones = ops.ones_like(inputs[:1, :, :, :1])
        counts = ops.conv(
            ones, ops.ones((*size, 1, 1), ones.dtype), strides, padding, "channels_last"
        )
        moments = moments * counts / (size[0] * size[1])
        zeros = ops.concatenate([-shift, ops.square(shift)], axis=-1)
        moments = moments + zeros * (1 - counts / (size[0] * size[1]))
    mean, square = moments[..., :1], moments[..., 1:]
    return ops.sqrt(ops.maximum(square - ops.square(mean), 0.0) + epsilon)
