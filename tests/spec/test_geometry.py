"""Sizes, receptive fields and windows against counting, and against Keras' own layers."""

import numpy as np
import pytest

from kclr.spec import parse_spec
from kclr.spec.geometry import jump, layer_geometry, output_size, window
from kclr.spec.schema import Block
from kclr.spec.values import pair


def random_block(random, largest=5):
    sizes = random.integers(1, largest, (4, 2)).tolist()
    names = ("kernel_size", "strides", "pool_size", "pool_strides")
    return Block(**dict(zip(names, sizes, strict=True)))


def random_stack(random):
    return [random_block(random) for _ in range(random.integers(1, 4))]


def seen_by(blocks, size, axis=0):
    """For each output cell of a valid stack on a row of `size` px: the pixels it is made from; the
    row lies along the axis."""
    cells = [{pixel} for pixel in range(size)]
    for block in blocks:
        for width, step in (
            (block.kernel_size, block.strides),
            (block.pool_size, block.pool_strides),
        ):
            width, step = pair(width)[axis], pair(step)[axis]
            starts = range(0, len(cells) - width + 1, step)
            cells = [set().union(*cells[start : start + width]) for start in starts]
    return cells


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(40))
def test_receptive_field_and_jump_are_those_of_counted_pixels(seed, axis):
    random = np.random.default_rng(seed)
    blocks = random_stack(random)
    cells = seen_by(blocks, window(blocks, 2)[axis], axis)
    assert len(cells) == 2
    # A kernel of 1 with a stride leaves pixels out, so the field is the span of what is seen.
    assert max(cells[0]) - min(cells[0]) + 1 == window(blocks, 1)[axis]
    assert min(cells[1]) - min(cells[0]) == jump(blocks)[axis]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("seed", range(40))
def test_a_window_is_the_smallest_that_gives_so_many_cells(seed, axis):
    random = np.random.default_rng(1000 + seed)
    blocks = random_stack(random)
    for cells in range(1, 6):
        size = window(blocks, cells)[axis]
        assert len(seen_by(blocks, size, axis)) == cells
        assert len(seen_by(blocks, size - 1, axis)) == cells - 1
        through = window(blocks, (cells, cells + 1))
        for block in blocks:
            through = output_size(block, through)
        assert through == (cells, cells + 1)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_output_sizes_are_those_of_keras_layers(padding):
    import keras

    random = np.random.default_rng(7)
    for _ in range(60):
        block = random_block(random).model_copy(update={"padding": padding})
        kernel, strides, pool, step = map(
            pair, (block.kernel_size, block.strides, block.pool_size, block.pool_strides)
        )
        size = tuple(int(random.integers(side, 40)) for side in kernel)
        found = output_size(block, size)
        try:
            image = keras.KerasTensor((1, *size, 3))
            convolved = keras.layers.Conv2D(2, kernel, strides, padding)(image)
            expected = keras.layers.MaxPooling2D(pool, step)(convolved).shape[1:3]
        except ValueError:  # Keras' words for nothing left
            assert min(found) == 0, (block, size)
        else:
            assert found == tuple(max(0, side) for side in expected), (block, size)


@pytest.mark.parametrize("seed", range(20))
def test_crops_of_upper_layers_give_their_feature_map_exactly(seed):
    random = np.random.default_rng(seed)
    below = random_stack(random)
    block = random_block(random)
    needed = window([block], int(random.integers(1, 3)))
    patch = [side + int(random.integers(1, 4)) for side in needed]
    stride = [int(random.integers(1, side)) for side in patch]
    steps = random.integers(1, 4, 2).tolist()
    crop = [own + n * step for own, n, step in zip(patch, steps, stride, strict=True)]
    layers = [{"block": b.model_dump()} for b in below]
    top = {
        "block": block.model_dump(),
        "patches": {"patch_size": patch, "stride": stride, "crop_size": crop},
    }
    stack = parse_spec(str({"stack": [*layers, top]}).replace("None", "null")).stack
    sizes = layer_geometry(stack, len(below))
    for axis in (0, 1):
        assert len(seen_by(below, sizes.image_crop[axis], axis)) == crop[axis]
        assert len(seen_by(below, sizes.image_patch[axis], axis)) == patch[axis]
        assert len(seen_by([block], patch[axis], axis)) == sizes.patch_map[axis]
        row = np.arange(crop[axis])
        windows = np.lib.stride_tricks.sliding_window_view(row, patch[axis])[:: stride[axis]]
        assert len(windows) == sizes.grid[axis]
        assert sizes.image_stride[axis] == stride[axis] * jump(below)[axis]
    assert sizes.views == sizes.grid[0] * sizes.grid[1]


def test_two_shifted_patches_lie_in_a_crop_as_large_as_both():
    text = """
    stack:
      - {}
      - patches: {patch_size: [4, 5], max_shift: [3, 0]}
    """
    stack = parse_spec(text).stack
    sizes = layer_geometry(stack, 1)
    below = [stack[0].block]
    assert (sizes.views, sizes.grid, sizes.image_stride) == (2, None, None)
    assert sizes.image_shift == (3 * jump(below)[0], 0)
    assert len(seen_by(below, sizes.image_crop[0])) == 4 + 3
    assert len(seen_by(below, sizes.image_crop[1])) == 5


def test_the_papers_first_layer_has_the_papers_sizes():
    text = "stack: [{patches: {crop_size: 8, patch_size: 7}, block: {filters: 256}}]"
    sizes = layer_geometry(parse_spec(text).stack, 0)
    assert (sizes.views, sizes.patch_conv, sizes.patch_map) == (4, (2, 2), (1, 1))
    assert (sizes.image_crop, sizes.receptive_field, sizes.jump) == ((8, 8), (7, 7), (2, 2))


def test_a_series_is_an_image_of_height_1_whose_patches_move_along_it():
    text = """
    stack:
      - block: {kernel_size: [1, 9], pool_size: [1, 2]}
        patches: {patch_size: [1, 16]}
    """
    sizes = layer_geometry(parse_spec(text).stack, 0)
    assert (sizes.image_crop, sizes.grid, sizes.patch_map) == ((1, 17), (1, 2), (1, 4))
