"""Sizes, receptive fields and windows against counting, and against Keras' own layers."""

import numpy as np
import pytest

from kclr.spec import parse_spec
from kclr.spec.geometry import jump, layer_geometry, output_size, window
from kclr.spec.schema import Block


def random_block(random, largest=5):
    kernel, strides, pool, pool_strides = random.integers(1, largest, 4).tolist()
    return Block(kernel_size=kernel, strides=strides, pool_size=pool, pool_strides=pool_strides)


def random_stack(random):
    return [random_block(random) for _ in range(random.integers(1, 4))]


def seen_by(blocks, size):
    """For each output cell of a valid stack on a row of `size` px: the pixels it is made from."""
    cells = [{pixel} for pixel in range(size)]
    for block in blocks:
        for width, step in (
            (block.kernel_size, block.strides),
            (block.pool_size, block.pool_strides),
        ):
            starts = range(0, len(cells) - width + 1, step)
            cells = [set().union(*cells[start : start + width]) for start in starts]
    return cells


@pytest.mark.parametrize("seed", range(40))
def test_receptive_field_and_jump_are_those_of_counted_pixels(seed):
    random = np.random.default_rng(seed)
    blocks = random_stack(random)
    cells = seen_by(blocks, window(blocks, 2))
    assert len(cells) == 2
    # A kernel of 1 with a stride leaves pixels out, so the field is the span of what is seen.
    assert max(cells[0]) - min(cells[0]) + 1 == window(blocks, 1)
    assert min(cells[1]) - min(cells[0]) == jump(blocks)


@pytest.mark.parametrize("seed", range(40))
def test_a_window_is_the_smallest_that_gives_so_many_cells(seed):
    random = np.random.default_rng(1000 + seed)
    blocks = random_stack(random)
    for cells in range(1, 6):
        size = window(blocks, cells)
        assert len(seen_by(blocks, size)) == cells
        assert len(seen_by(blocks, size - 1)) == cells - 1
        through = size
        for block in blocks:
            through = output_size(block, through)
        assert through == cells


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_output_sizes_are_those_of_keras_layers(padding):
    import keras

    random = np.random.default_rng(7)
    for _ in range(60):
        block = random_block(random).model_copy(update={"padding": padding})
        size = int(random.integers(block.kernel_size, 40))
        image = keras.KerasTensor((1, size, size, 3))
        try:
            convolved = keras.layers.Conv2D(2, block.kernel_size, block.strides, padding)(image)
            pooled = keras.layers.MaxPooling2D(block.pool_size, block.pool_strides)(convolved)
            expected = max(0, pooled.shape[1])
        except ValueError:  # Keras' words for nothing left
            expected = 0
        assert output_size(block, size) == expected, (block, size)


@pytest.mark.parametrize("seed", range(20))
def test_crops_of_upper_layers_give_their_feature_map_exactly(seed):
    random = np.random.default_rng(seed)
    below = random_stack(random)
    block = random_block(random)
    patch = window([block], int(random.integers(1, 3))) + int(random.integers(1, 4))
    stride = int(random.integers(1, patch))
    steps = int(random.integers(1, 4))
    layers = [{"block": b.model_dump()} for b in below]
    top = {
        "block": block.model_dump(),
        "patches": {"patch_size": patch, "stride": stride, "crop_size": patch + steps * stride},
    }
    stack = parse_spec(str({"stack": [*layers, top]}).replace("None", "null")).stack
    sizes = layer_geometry(stack, len(below))
    assert len(seen_by(below, sizes.image_crop)) == patch + steps * stride
    assert len(seen_by(below, sizes.image_patch)) == patch
    assert len(seen_by([block], patch)) == sizes.patch_map
    crop = np.arange(patch + steps * stride)
    windows = np.lib.stride_tricks.sliding_window_view(crop, patch)[::stride]
    assert len(windows) == sizes.grid
    assert sizes.views == sizes.grid**2
    assert sizes.image_stride == stride * jump(below)


def test_two_shifted_patches_lie_in_a_crop_as_large_as_both():
    text = """
    stack:
      - {}
      - patches: {patch_size: 4, max_shift: 3}
    """
    stack = parse_spec(text).stack
    sizes = layer_geometry(stack, 1)
    below = [stack[0].block]
    assert (sizes.views, sizes.grid) == (2, 0)
    assert sizes.image_shift == 3 * jump(below)
    assert len(seen_by(below, sizes.image_crop)) == 4 + 3


def test_the_papers_first_layer_has_the_papers_sizes():
    text = "stack: [{patches: {crop_size: 8, patch_size: 7}, block: {filters: 256}}]"
    sizes = layer_geometry(parse_spec(text).stack, 0)
    assert (sizes.views, sizes.patch_conv, sizes.patch_map) == (4, 2, 1)
    assert (sizes.image_crop, sizes.receptive_field, sizes.jump) == (8, 7, 2)
