"""A run's kernel for a separable convolution, in two parts that hold it best."""

import warnings
from typing import NamedTuple

import numpy as np
from keras import ops

from kclr import kernels
from kclr.errors import SpecError
from kclr.initializers import ContrastiveKernel

_ENOUGH = 0.9  # of a kernel's energy, for a separable convolution to respond much as it does


class SeparableKernels(NamedTuple):
    """The start of a separable convolution, from `separable_kernels`.

    Attributes:
        depthwise: for `depthwise_initializer`.
        pointwise: for `pointwise_initializer`.
        kept: float in [0, 1], the share of the kernel's energy (the sum of its squares) that the
            two hold.
    """

    depthwise: ContrastiveKernel
    pointwise: ContrastiveKernel
    kept: float


def separable_kernels(
    run, depth_multiplier, layer=0, *, kernel_shape=None, **options
) -> SeparableKernels:
    """The run's kernel as a `SeparableConv2D` or `SeparableConv1D` can best hold it.

        start = kclr.separable_kernels("runs/bands", depth_multiplier=4)
        keras.layers.SeparableConv2D(
            256,
            6,
            depth_multiplier=4,
            depthwise_initializer=start.depthwise,
            pointwise_initializer=start.pointwise,
            bias_initializer=kclr.initializers.ContrastiveBias("runs/bands"),
        )

    Such a layer has `depth_multiplier` patterns for each channel in, which its filters mix; the
    nearest ones are found by a singular value decomposition for each channel. With as many as the
    kernel has pixels or filters it is exact.

    Args:
        run, layer: as of `ContrastiveKernel`.
        depth_multiplier: int from 1, the layer's.
        kernel_shape: (height, width, channels in, filters) of the layer, or (length, channels in,
            filters); the run's own by default.
        **options: of `ContrastiveKernel`, such as `raw` or `scale`; not `depthwise`.

    Raises:
        RunError, SpecError: as for `ContrastiveKernel`.

    Warns:
        UserWarning: less than 90 % of the kernel's energy is kept.
    """
    whole = ContrastiveKernel(run, layer, **options)
    shape = kernels.of_image(kernel_shape or whole.kernel.shape)
    kernel = ops.convert_to_numpy(whole(shape, "float32"))
    most = min(shape[0] * shape[1], shape[3])
    if type(depth_multiplier) is not int or not 1 <= depth_multiplier <= most:
        raise SpecError(
            f"depth_multiplier={depth_multiplier!r}: use 1 to {most}; {most} holds the kernel "
            "exactly"
        )
    *parts, shares = kernels.separated(kernel, depth_multiplier)
    kept = float(shares[depth_multiplier - 1])
    if kept < _ENOUGH:
        enough = int(np.argmax(shares >= _ENOUGH)) + 1
        warnings.warn(
            f"a depth_multiplier of {depth_multiplier} keeps {kept:.0%} of the kernel's energy. "
            f"{enough} would keep {shares[enough - 1]:.0%}",
            stacklevel=2,
        )
    depthwise, pointwise = (
        ContrastiveKernel(part.astype(np.float32), adapt=False) for part in parts
    )
    return SeparableKernels(depthwise, pointwise, kept)
