"""What a training costs: the arithmetic of its convolutions, counted from its layers' sizes."""

from collections.abc import Sequence

from kclr.spec.geometry import layer_geometry, output_size, places
from kclr.spec.schema import Block, Spec
from kclr.spec.values import Pair, pair

_PASSES = 2  # of a layer that is trained: forward, and the gradient of the kernel
# Of the speed of matrix products in float32, what trainings come to, all in all: measured with
# configs/depth.yaml, the second one in bfloat16 on a processor with units for it.
_SHARE, _WITH_UNITS = 0.5, 1.0


def step_flops(spec: Spec, index: int, channels: int) -> int:
    """Floating-point operations of a step of layer `index`, two for each product and sum.

    Those of the convolutions, forward and backward; all else takes little beside them.

    Args:
        spec: checked, with possible sizes.
        index: of a contrastive layer.
        channels: of the images.
    """
    layer, sizes = spec.stack[index], layer_geometry(spec.stack, index)
    # Without augmentations the patches of a crop share their convolutions.
    shared = bool(sizes.grid and not layer.patches.augment)
    size = sizes.image_crop if shared else sizes.image_patch
    count = layer.train.batch_size * (1 if shared else sizes.views)
    below = _forward([own.block for own in spec.stack[:index]], size, channels)
    whole = _forward([own.block for own in spec.stack[: index + 1]], size, channels)
    return count * (below + _PASSES * (whole - below))


def training_seconds(spec: Spec, index: int, channels: int, speed: float, units: bool):
    """About how long layer `index` trains on a processor, or None where its steps are not known.

    Args:
        spec: with settled precisions (see `kclr.spec.precision`).
        index, channels: as for `step_flops`.
        speed: of this machine's matrix products in float32, floating-point operations a second.
        units: whether it has units for bfloat16.

    Returns:
        float, seconds; or None.
    """
    train = spec.stack[index].train
    if train.steps is None:
        return None
    wide = units and train.precision == "mixed_bfloat16"
    work = step_flops(spec, index, channels) * train.steps
    return work / (speed * (_WITH_UNITS if wide else _SHARE))


def about(seconds: float) -> str:
    """A duration in seconds, in words that are as exact as an estimate is."""
    if seconds < 90:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"


def image_flops(spec: Spec, shape: tuple[int, int, int]) -> int:
    """Operations of all layers for a whole image of this height, width and channels."""
    return _forward([own.block for own in spec.stack], shape[:2], shape[2], padding=None)


def _forward(blocks: Sequence[Block], size: Pair, depth: int, padding: str | None = "valid") -> int:
    total = 0
    for block in blocks:
        height, width = pair(block.kernel_size)
        if (padding or block.padding) == "same":
            rows, columns = (-(-n // s) for n, s in zip(size, pair(block.strides), strict=True))
        else:
            rows, columns = places(block.kernel_size, block.strides, size)
        total += 2 * max(0, rows) * max(0, columns) * height * width * depth * block.filters
        size, depth = output_size(block, size, padding), block.filters
    return total
