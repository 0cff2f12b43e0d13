"""Sizes through a stack: crop, patch, feature map and pooled map, layer by layer.

In training every window is complete ("valid"), whatever a block's padding: there is nothing outside
a patch that could be padded. So the crop of an upper layer is exactly the image window that
produces its feature map. The arithmetic is that of Dumoulin and Visin (2016, "A guide to
convolution arithmetic for deep learning", sections 2 to 4).
"""

from dataclasses import dataclass

from kclr.spec.schema import Block, Layer


@dataclass(frozen=True)
class LayerGeometry:
    """The sizes of one layer, each the side of a square.

    Attributes:
        patch_conv: cells of a patch's map after the convolution.
        patch_map: cells of a patch's map after the max-pool, which is embedded.
        grid: patches along each side of a crop, or 0 if two patches lie at random places.
        views: patches in a crop.
        image_crop, image_patch: px of the image under a crop and under a patch.
        image_stride: px between neighbouring patches of the grid.
        image_shift: largest distance between the two patches in px, or 0 for a grid.
        jump: px between neighbouring cells of the layer's output.
        receptive_field: px of the image that one cell of the layer's output sees.
        input_jump: px between neighbouring cells of the layer's input.
    """

    patch_conv: int
    patch_map: int
    grid: int
    views: int
    image_crop: int
    image_patch: int
    image_stride: int
    image_shift: int
    jump: int
    receptive_field: int
    input_jump: int


def window(blocks: list[Block], cells: int) -> int:
    """Px of the smallest image window that gives `cells` output cells of `blocks` per side."""
    for block in reversed(blocks):
        cells = (cells - 1) * (block.pool_strides or block.pool_size) + block.pool_size
        cells = (cells - 1) * block.strides + block.kernel_size
    return cells


def jump(blocks: list[Block]) -> int:
    """Px between neighbouring output cells of `blocks`."""
    product = 1
    for block in blocks:
        product *= block.strides * (block.pool_strides or block.pool_size)
    return product


def pooled(block: Block, cells: int) -> int:
    """Cells after the max-pool, given `cells` before it; 0 or less if none is left."""
    return (cells - block.pool_size) // (block.pool_strides or block.pool_size) + 1


def output_size(block: Block, size: int, padding: str | None = None) -> int:
    """Cells of a block's output for an input of `size` cells; 0 if nothing is left."""
    if (padding or block.padding) == "same":
        convolved = -(-size // block.strides)
    else:
        convolved = (size - block.kernel_size) // block.strides + 1
    return max(0, pooled(block, convolved)) if convolved > 0 else 0


def layer_geometry(stack: tuple[Layer, ...], index: int) -> LayerGeometry:
    """The sizes of layer `index` of a stack whose defaults are resolved."""
    below = [layer.block for layer in stack[:index]]
    block, patches = stack[index].block, stack[index].patches
    patch_size, crop_size = patches.patch_size or 0, patches.crop_size or 0
    patch_conv = (patch_size - block.kernel_size) // block.strides + 1
    grid = (crop_size - patch_size) // patches.stride + 1 if patches.stride else 0
    image_patch = window(below, patch_size)
    image_shift = (patches.max_shift or 0) * jump(below)
    image_crop = window(below, crop_size) if grid else image_patch + image_shift
    return LayerGeometry(
        patch_conv=patch_conv,
        patch_map=pooled(block, patch_conv),
        grid=grid,
        views=grid**2 if grid else 2,
        image_crop=image_crop,
        image_patch=image_patch,
        image_stride=(patches.stride or 0) * jump(below),
        image_shift=image_shift,
        jump=jump([*below, block]),
        receptive_field=window([*below, block], 1),
        input_jump=jump(below),
    )
