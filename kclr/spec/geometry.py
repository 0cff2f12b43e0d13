"""Sizes through a stack: crop, patch, feature map and pooled map, layer by layer.

In training every window is complete ("valid"), whatever a block's padding: there is nothing outside
a patch that could be padded. So the crop of an upper layer is exactly the image window that
produces its feature map. The arithmetic is that of Dumoulin and Visin (2016, "A guide to
convolution arithmetic for deep learning", sections 2 to 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kclr.spec.schema import Block, Layer
from kclr.spec.values import Pair, Size, each_axis, pair


@dataclass(frozen=True)
class LayerGeometry:
    """The sizes of one layer, each a height and a width.

    Attributes:
        patch_conv: cells of a patch's map after the convolution.
        patch_map: cells of a patch's map after the max-pool, which is embedded.
        alike: the notion of `patches.alike`, with sizes in px of the image.
        grid: rows and columns of patches in a crop, or None if they lie at random places, or at
            those of the notion.
        views: patches in a crop.
        image_crop, image_patch: px of the image under a crop and under a patch.
        image_stride: px between neighbouring patches of the grid, or None if there is none.
        image_shift: largest distance between the two patches in px, or None for a grid.
        jump: px between neighbouring cells of the layer's output.
        receptive_field: px of the image that one cell of the layer's output sees.
        input_jump: px between neighbouring cells of the layer's input.
    """

    patch_conv: Pair
    patch_map: Pair
    alike: Any
    grid: Pair | None
    views: int
    image_crop: Pair
    image_patch: Pair
    image_stride: Pair | None
    image_shift: Pair | None
    jump: Pair
    receptive_field: Pair
    input_jump: Pair


def window(blocks: Sequence[Block], cells: Size) -> Pair:
    """Px of the smallest image window that gives so many output cells of `blocks`."""
    cells = pair(cells)
    for block in reversed(blocks):
        for size, step in (_pool(block), (block.kernel_size, block.strides)):
            cells = each_axis(lambda n, size, step: (n - 1) * step + size, cells, size, step)
    return cells


def jump(blocks: Sequence[Block]) -> Pair:
    """Px between neighbouring output cells of `blocks`."""
    product = (1, 1)
    for block in blocks:
        product = _times(_times(product, block.strides), _pool(block)[1])
    return product


def places(window: Size, step: Size, cells: Size) -> Pair:
    """How often a window fits on each axis of so many cells; 0 or less if it does not."""
    return each_axis(lambda size, step, cells: (cells - size) // step + 1, window, step, cells)


def output_size(block: Block, size: Size, padding: str | None = None) -> Pair:
    """Cells of a block's output for an input of `size` cells; 0 on an axis with nothing left."""
    if (padding or block.padding) == "same":
        convolved = each_axis(lambda cells, step: -(-cells // step), size, block.strides)
    else:
        convolved = places(block.kernel_size, block.strides, size)
    return each_axis(lambda cells: max(0, cells), places(*_pool(block), convolved))


def layer_geometry(stack: Sequence[Layer], index: int) -> LayerGeometry:
    """The sizes of layer `index` of a stack whose defaults are resolved."""
    below = [layer.block for layer in stack[:index]]
    block, patches = stack[index].block, stack[index].patches
    patch, crop = patches.patch_size or 0, patches.crop_size or 0
    patch_conv = places(block.kernel_size, block.strides, patch)
    image_patch = window(below, patch)
    alike = patches.alike.in_pixels(jump(below))
    grid = image_stride = image_shift = None
    if alike.own_windows:
        image_crop = alike.crop(image_patch)
    elif patches.stride:
        grid = places(patch, patches.stride, crop)
        image_stride = _times(patches.stride, jump(below))
        image_crop = window(below, crop)
    else:
        image_shift = _times(patches.max_shift or 0, jump(below))
        image_crop = each_axis(lambda px, shift: px + shift, image_patch, image_shift)
    return LayerGeometry(
        patch_conv=patch_conv,
        patch_map=places(*_pool(block), patch_conv),
        alike=alike,
        grid=grid,
        views=grid[0] * grid[1] if grid else alike.views(patch),
        image_crop=image_crop,
        image_patch=image_patch,
        image_stride=image_stride,
        image_shift=image_shift,
        jump=jump([*below, block]),
        receptive_field=window([*below, block], 1),
        input_jump=jump(below),
    )


def cut_around(field: Size) -> Pair:
    """The smallest patch that `PatchTripletGenerator` cuts and that holds a receptive field."""
    return (2, 2) if pair(field) == (1, 1) else pair(field)


def _pool(block) -> tuple[Size, Size]:
    """Window and step of a block's max-pool."""
    return block.pool_size, block.pool_strides or block.pool_size


def _times(one, other):
    return each_axis(lambda a, b: a * b, one, other)
