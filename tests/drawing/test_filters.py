"""Pictures: what stands beside what, what is cut from where, and files that open."""

import csv
import itertools
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from scipy.signal import correlate2d

from kclr.drawing import filters, tiles
from kclr.drawing.curves import curves_png, panels_of
from kclr.drawing.filters import filter_order, filters_png, patches_png, patterns, top_patches
from kclr.drawing.series import filter_curves


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Among older matplotlib and newer pyparsing, say; no user sees those.
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture(scope="module")
def photographs():
    from sklearn.datasets import load_sample_images

    return load_sample_images().images


def crops(photographs, count, size):
    generator = np.random.default_rng(3)
    found = []
    for index in range(count):
        photograph = photographs[index % len(photographs)]
        y, x = (generator.integers(side - size) for side in photograph.shape[:2])
        found.append(photograph[y : y + size, x : x + size])
    return np.array(found)


def patch_filters(photographs, count, size=6):
    """Mean-free patches of photographs, as a kernel (size, size, 3, count)."""
    patches = crops(photographs, count, size).astype(np.float64)
    return np.moveaxis(patches - patches.mean((1, 2, 3), keepdims=True), 0, -1)


def history(rows=40):
    fading = np.exp(-np.arange(rows) / 10)
    return [
        {
            "step": 20 * (index + 1),
            "loss": 0.4 + 1.6 * fade,
            "positive_distance": 4 + fade,
            "negative_distance": 8 - 3 * fade,
            "active_share": 0.2 + 0.7 * fade,
            "triplet_accuracy": 0.97 - 0.4 * fade,
            "effective_rank": 120 - 100 * fade,
            "learning_rate": 1e-3,
            "patches_per_second": 180_000,
        }
        for index, fade in enumerate(fading)
    ]


def pixels(path):
    with Image.open(path) as picture:
        picture.load()
        return np.array(picture)


# filter_order


def test_copies_of_a_filter_stand_together_whatever_their_gain_and_offset(photographs):
    originals = patch_filters(photographs, 30)
    kernel = np.concatenate([originals, 3 * originals, 0.01 * originals + 0.2], axis=-1)
    shuffled = np.random.default_rng(0).permutation(90)
    order = filter_order(kernel[..., shuffled])
    family = shuffled[order] % 30
    assert np.count_nonzero(np.diff(family)) == 29


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_gratings_of_one_direction_stand_together_whatever_their_phase(channels):
    y, x = np.mgrid[:8, :8]
    directions = [(1, 0), (0, 1), (0.7, 0.7), (0.7, -0.7)]
    gratings = np.array(
        [
            np.cos(1.6 * (a * x + b * y) + phase)
            for phase in np.linspace(0, 2 * np.pi, 6, endpoint=False)
            for a, b in directions
        ]
    )
    kernel = np.moveaxis(np.repeat(gratings[..., None], channels, axis=-1), 0, -1)
    direction = filter_order(kernel) % 4
    assert np.count_nonzero(np.diff(direction)) == 3


@pytest.mark.parametrize("channels", [1, 2, 3, 8])
def test_neighbours_in_the_order_are_more_alike_than_in_any_of_100_shuffles(photographs, channels):
    kernel = patch_filters(photographs, 60)[..., np.arange(channels) % 3, :]
    order = filter_order(kernel)
    assert sorted(order) == list(range(60))
    rows = kernel.reshape(-1, 60).T
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def walk(rows):
        return np.linalg.norm(np.diff(rows, axis=0), axis=1).sum()

    generator = np.random.default_rng(0)
    shuffled = min(walk(generator.permutation(rows)) for _ in range(100))
    assert walk(rows[order]) < 0.9 * shuffled


def test_flat_filters_come_after_the_others_and_dead_ones_last(photographs):
    kernel = patch_filters(photographs, 10)
    kernel[..., [0, 4]] = 0
    kernel[..., 2] = 0.7
    kernel[..., 7] = -0.7
    kernel[0, 0, 0, 9] = np.nan
    order = filter_order(kernel)
    assert list(order[-5:]) == [7, 2, 0, 4, 9]
    assert sorted(order) == list(range(10))


@pytest.mark.parametrize(
    "shape", [(6, 6, 3, 1), (6, 6, 3, 2), (1, 1, 3, 9), (1, 1, 1, 5), (3, 2, 4, 7)]
)
@pytest.mark.parametrize("gain", [1, 1e-300, 1e300, 0])
def test_every_filter_has_a_place_in_small_kernels_of_any_scale(shape, gain):
    kernel = gain * np.random.default_rng(0).normal(size=shape)
    assert sorted(filter_order(kernel)) == list(range(shape[-1]))


def test_no_filters_have_an_empty_order():
    assert filter_order(np.zeros((6, 6, 3, 0))).shape == (0,)


def test_very_many_filters_are_ordered_too(photographs):
    count = filters.MOST_FOR_OPTIMAL_ORDER // 2 + 1
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, count))
    family = filter_order(np.concatenate([kernel, kernel], axis=-1)) % count
    assert np.count_nonzero(np.diff(family)) == count - 1


# top_patches


def responses_of(images, kernel, stride, padding):
    """Feature maps of images by scipy, image by image and channel by channel, after a ReLU."""
    padded = np.pad(images / 255.0, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    return np.maximum(
        [
            np.stack(
                [
                    sum(
                        correlate2d(image[..., c], kernel[..., c, f], "valid")
                        for c in range(image.shape[-1])
                    )[::stride, ::stride]
                    for f in range(kernel.shape[-1])
                ],
                axis=-1,
            )
            for image in padded
        ],
        0,
    )


def strongest_patches(images, maps, jump, start, size, per_filter):
    """What `top_patches` must find: every image's best cell, sorted, cut from the padded image."""
    expected = np.zeros((maps.shape[-1], per_filter, size, size, images.shape[-1]), np.uint8)
    strengths = np.zeros((maps.shape[-1], per_filter))
    for f in range(maps.shape[-1]):
        best = []
        for index, cells in enumerate(maps[..., f]):
            y, x = np.unravel_index(cells.argmax(), cells.shape)
            if cells[y, x] > 0:
                best.append((-cells[y, x], index, y, x))
        for rank, (strength, index, y, x) in enumerate(sorted(best)[:per_filter]):
            padded = np.pad(images[index], [(50, 50), (50, 50), (0, 0)], mode="edge")
            top, left = 50 + start + y * jump, 50 + start + x * jump
            expected[f, rank] = padded[top : top + size, left : left + size]
            strengths[f, rank] = -strength
    return expected, strengths


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (2, 3)])
def test_patches_are_those_that_a_plain_search_finds(photographs, stride, padding):
    images = crops(photographs, 23, 20)
    kernel = patch_filters(photographs, 7)
    maps = responses_of(images, kernel, stride, padding).astype(np.float32)
    batches = [(images[i : i + 5], maps[i : i + 5]) for i in range(0, 23, 5)]
    patches, responses = top_patches(batches, stride, -padding, 6, per_filter=4)
    expected, strengths = strongest_patches(images, maps, stride, -padding, 6, 4)
    assert patches.dtype == np.uint8
    np.testing.assert_array_equal(patches, expected)
    np.testing.assert_array_equal(responses, strengths.astype(np.float32))


def test_a_patch_alone_gives_the_response_that_it_was_chosen_for(photographs):
    images = crops(photographs, 12, 24)
    kernel = patch_filters(photographs, 5)
    maps = responses_of(images, kernel, 3, 0)
    patches, responses = top_patches([(images, maps)], 3, 0, 6, per_filter=3)
    for f in range(5):
        alone = responses_of(patches[f], kernel[..., f : f + 1], 1, 0)[:, 0, 0, 0]
        np.testing.assert_allclose(alone, responses[f], rtol=1e-5)


def test_patches_do_not_depend_on_how_images_are_batched(photographs):
    images = np.repeat(crops(photographs, 6, 12), 2, axis=0)  # every response twice: ties
    maps = responses_of(images, patch_filters(photographs, 4), 1, 0)
    whole = top_patches([(images, maps)], 1, 0, 6, per_filter=5)
    single = top_patches(zip(images[:, None], maps[:, None], strict=True), 1, 0, 6, per_filter=5)
    for one, other in zip(whole, single, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_filter_that_nothing_excites_has_no_patches():
    images = np.full((3, 8, 8, 3), 200, np.uint8)
    maps = np.zeros((3, 3, 3, 4), np.float32)
    maps[..., 1] = -5
    maps[..., 2] = np.nan
    maps[1, 2, 0, 3] = 1.5
    patches, responses = top_patches([(images, maps)], 1, 0, 6, per_filter=9)
    assert responses.shape == (4, 9)
    np.testing.assert_array_equal(np.argwhere(responses > 0), [[3, 0]])
    assert (patches[3, 0] == 200).all()
    assert not patches[:3].any()


def test_chosen_filters_come_in_the_order_asked_for(photographs):
    images = crops(photographs, 8, 16)
    maps = responses_of(images, patch_filters(photographs, 6), 2, 0)
    every, _ = top_patches([(images, maps)], 2, 0, 6, per_filter=2)
    chosen, _ = top_patches([(images, maps)], 2, 0, 6, per_filter=2, filters=[4, 1])
    np.testing.assert_array_equal(chosen, every[[4, 1]])


def test_images_and_fields_need_not_be_square_nor_of_one_size(photographs):
    tall, wide = photographs[0][:40, :20], photographs[1][:10, :30]
    maps = np.zeros((1, 4, 2, 1)), np.zeros((1, 1, 3, 1))
    maps[0][0, 3, 1] = 1
    maps[1][0, 0, 2] = 2
    batches = [(tall[None], maps[0]), (wide[None], maps[1])]
    patches, _ = top_patches(batches, (9, 10), (0, -2), (10, 8), per_filter=2)
    np.testing.assert_array_equal(patches[0, 0], wide[:10, 18:26])
    np.testing.assert_array_equal(patches[0, 1], tall[27:37, 8:16])


def test_no_images_at_all_is_said_in_words():
    with pytest.raises(ValueError, match="no images"):
        top_patches([], 1, 0, 6)


# filters_png


def test_a_filter_is_drawn_around_mid_gray_and_enlarged_without_blur(tmp_path):
    kernel = np.zeros((2, 2, 3, 4))
    kernel[0, 0, :, 0] = [4, 0, -4]
    kernel[1, 1, :, 0] = 2
    kernel[0, 1, 1, 3] = -1e-20
    filters_png(tmp_path / "filters.png", kernel, order=[3, 0, 1, 2])
    picture = pixels(tmp_path / "filters.png")
    tile, gap, margin = 2 * 48, 2, 8
    assert picture.shape == (2 * tile + gap + 2 * margin, 2 * tile + gap + 2 * margin, 4)
    assert not picture[:margin, :, 3].any()
    assert not picture[:, margin + tile : margin + tile + gap, 3].any()

    def block(line, column):
        top, left = margin + line * (tile + gap), margin + column * (tile + gap)
        found = picture[top : top + tile, left : left + tile].reshape(2, 48, 2, 48, 4)
        assert (found == found[:, :1, :, :1]).all()
        assert (found[..., 3] == 255).all()
        return found[:, 0, :, 0, :3].tolist()

    gray = [128] * 3
    assert block(0, 0) == [[gray, [128, 1, 128]], [gray, gray]]
    assert block(0, 1) == [[[255, 128, 1], gray], [gray, [192] * 3]]
    assert block(1, 0) == block(1, 1) == [[gray, gray], [gray, gray]]


def test_gray_filters_are_gray(tmp_path, photographs):
    filters_png(tmp_path / "filters.png", patch_filters(photographs, 12)[..., :1, :])
    picture = pixels(tmp_path / "filters.png")
    assert (picture[..., 0] == picture[..., 2]).all()
    assert len(np.unique(picture[..., 0])) > 50


@pytest.mark.parametrize("channels", [2, 5, 64])
def test_filters_of_upper_layers_keep_zero_at_mid_gray(tmp_path, channels):
    kernel = np.random.default_rng(0).normal(size=(3, 3, channels, 9)) + 1
    kernel[1, 1] = 0
    filters_png(tmp_path / "filters.png", kernel, order=range(9))
    picture = pixels(tmp_path / "filters.png")
    top = first_line(picture)
    middles = picture[top + 48 :: 98, 8 + 48 :: 98, :3][:3, :3]
    assert (middles == 128).all()
    assert len(np.unique(picture[..., 0])) > 30


def first_line(picture):
    """Where the first line of tiles starts, below the caption."""
    return int(np.flatnonzero((picture[:, 8:40, 3] == 255).all(axis=1))[0])


def words_of(path):
    with Image.open(path) as picture:
        return picture.info["Description"]


def test_one_channel_of_many_that_matters_is_light_and_dark(tmp_path):
    """All filters are of one direction: the picture is that of a gray kernel."""
    generator = np.random.default_rng(0)
    gray, direction = generator.normal(size=(4, 4, 1, 9)), generator.uniform(0.5, 1, 6)
    filters_png(tmp_path / "gray.png", gray, order=range(9))
    filters_png(tmp_path / "six.png", gray * direction[:, None], order=range(9))
    wanted, found = pixels(tmp_path / "gray.png"), pixels(tmp_path / "six.png")
    wanted = wanted[8:-8]
    top = first_line(found)
    found = found[top : top + len(wanted), : wanted.shape[1]]
    np.testing.assert_allclose(found[..., :3].astype(int), wanted[..., :3].astype(int), atol=1)
    assert "6 channels as colours: the three principal components of all filters" in words_of(
        tmp_path / "six.png"
    )


def test_bands_are_the_colours_and_every_channel_of_the_strongest_is_below(tmp_path):
    kernel = np.zeros((2, 2, 5, 2))
    kernel[0, 0, 4, 0] = 1  # the fifth channel is the red one
    kernel[1, 1, 0, 1] = -3
    filters_png(tmp_path / "bands.png", kernel, order=[0, 1], bands=[5, 3, 1])
    picture = pixels(tmp_path / "bands.png")
    top = first_line(picture)
    assert picture[top + 10, 8 + 10].tolist() == [255, 128, 128, 255]
    assert picture[top + 10 + 48, 8 + 98 + 10 + 48].tolist() == [128, 128, 1, 255]
    assert "red, green and blue are the channels 5, 3, 1" in words_of(tmp_path / "bands.png")
    # The strongest filter comes first: in colour, then the channels 1 to 5.
    strip = picture[top + 96 :]
    strip = strip[first_line(strip) :]
    scale = 24
    lower = strip[scale + 5, 8 + scale + 5 :: 2 * scale + 2][:6, :3].tolist()
    assert lower == [[128, 128, 1], [1] * 3, *[[128] * 3] * 4]
    upper = strip[2 * scale + 2 + 5, 8 + 5 :: 2 * scale + 2][:6, :3].tolist()
    assert upper == [[255, 128, 128], *[[128] * 3] * 4, [255] * 3]
    for bands in ([0, 1, 2], [1, 2, 6], [1, 2]):
        with pytest.raises(ValueError, match="from 1 to 5"):
            filters_png(tmp_path / "bands.png", kernel, bands=bands)


@pytest.mark.parametrize("channels", [2, 4, 13, 200])
def test_filters_of_any_channels_can_be_drawn_beside_each_other(tmp_path, channels):
    kernel = np.random.default_rng(0).normal(size=(5, 3, channels, 20))
    kernel[..., 3] = np.nan
    filters_png(tmp_path / "filters.png", kernel, title="many", beside=kernel[::-1])
    picture = pixels(tmp_path / "filters.png")
    assert picture.shape[1] < 1700
    # Nothing is cut off at the right.
    assert not picture[:, -7:, 3].any()


def test_a_picture_with_too_many_filters_says_how_many_it_shows(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 300))
    filters_png(tmp_path / "most.png", kernel[..., :256])
    filters_png(tmp_path / "more.png", kernel)
    most, more = pixels(tmp_path / "most.png"), pixels(tmp_path / "more.png")
    assert most.shape[1] == more.shape[1]
    assert 10 < len(more) - len(most) < 40
    assert tiles.caption("edges", 256, 1300) == "edges, 256 of 1,300 filters"
    assert tiles.caption("edges", 256, 256) == "edges"


def test_a_title_is_written_as_it_is_and_fits_on_the_picture(tmp_path):
    kernel = np.ones((1, 1, 3, 1))
    filters_png(tmp_path / "short.png", kernel, title="a")
    filters_png(tmp_path / "long.png", kernel, title="layer $1_2$ \\alpha " + 40 * "w")
    short, long = pixels(tmp_path / "short.png"), pixels(tmp_path / "long.png")
    assert long.shape[1] > 400 > short.shape[1]
    # The text ends before the margin: nothing is cut.
    assert not long[:, -7:, 3].any()
    assert long[:, -40:-7, 3].any()


@pytest.mark.parametrize(
    "shape", [(6, 6, 3, 0), (6, 6, 3, 1), (1, 1, 1, 7), (1, 1, 3, 2), (40, 3, 1, 5), (7, 7, 4, 3)]
)
@pytest.mark.parametrize("fill", [0.0, 0.5, -1e-40, np.nan])
def test_constant_filters_of_any_shape_can_be_drawn(tmp_path, shape, fill):
    filters_png(tmp_path / "filters.png", np.full(shape, fill, np.float32), title="constant")
    assert pixels(tmp_path / "filters.png").shape[2] == 4


# patches_png


def test_mosaics_show_the_patches_and_leave_missing_ones_pale(tmp_path, photographs):
    patches = crops(photographs, 2 * 9, 10).reshape(2, 9, 10, 10, 3)
    responses = np.ones((2, 9))
    responses[1, 4:] = 0
    patches_png(tmp_path / "patches.png", patches, responses)
    picture = pixels(tmp_path / "patches.png")
    scale, margin = 8, 8
    mosaic = 3 * 10 * scale + 2
    assert picture.shape == (mosaic + 2 * margin, 2 * mosaic + 8 + 2 * margin, 4)
    inside = picture[margin:-margin, margin:-margin]
    step = 10 * scale + 1
    np.testing.assert_array_equal(
        inside[step : step + 80 : scale, 2 * step : 2 * step + 80 : scale, :3], patches[0, 5]
    )
    right = inside[:, mosaic + 8 :]
    np.testing.assert_array_equal(right[step : step + 80 : scale, :80:scale, :3], patches[1, 3])
    assert (right[step : step + 80, step : step + 80, 3] == 64).all()
    assert not inside[:, mosaic : mosaic + 8, 3].any()


@pytest.mark.parametrize(
    "shape", [(0, 9, 5, 5, 3), (1, 1, 1, 1, 1), (70, 4, 6, 5, 1), (3, 2, 200, 200, 3)]
)
def test_mosaics_of_any_number_and_size_can_be_drawn(tmp_path, shape):
    patches_png(tmp_path / "patches.png", np.full(shape, 90, np.uint8), title="02-parts")
    assert pixels(tmp_path / "patches.png").shape[2] == 4


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_patches_of_other_numbers_are_stretched_by_percentiles_of_all(tmp_path, kind):
    values = np.random.default_rng(0).uniform(100, 9000, (2, 4, 10, 10, 1)).astype(kind)
    responses = np.ones((2, 4))
    responses[1, 3] = 0
    values[1, 3] = 30_000 if kind != np.float32 else np.nan  # is not shown, and counts for nothing
    patches_png(tmp_path / "patches.png", values, responses, title="a")
    picture = pixels(tmp_path / "patches.png")
    there = values[responses > 0].astype(np.float64)
    low, high = np.percentile(there, (1, 99))
    wanted = 255 * np.clip((values[0, 0, :, :, 0] - low) / (high - low), 0, 1)
    found = picture[first_line(picture) :, 8:][6::12, 6::12][:10, :10]
    np.testing.assert_allclose(found[..., 0], wanted, atol=1)
    assert "1st to 99th percentile" in words_of(tmp_path / "patches.png")


def test_patches_of_bands_are_stretched_channel_by_channel(tmp_path):
    """A temperature of 300 and a reflectance of 0.1 are both seen."""
    values = np.random.default_rng(0).uniform(size=(1, 4, 8, 8, 6))
    values = values * [1, 1e-4, 300, 1, 5, 0] + [0, 0, 1e4, 0, 0, 7]
    patches_png(tmp_path / "patches.png", values, bands=[2, 3, 6])
    picture = pixels(tmp_path / "patches.png")
    top = first_line(picture)
    tile = picture[top : top + 900, 8:900]
    low, high = np.percentile(values, (1, 99), axis=(0, 1, 2, 3))
    scale = 240 // 16
    found = tile[scale // 2 :: scale, scale // 2 :: scale][:8, :8, :3]
    for colour, channel in ((0, 1), (1, 2)):
        wanted = (values[0, 0, ..., channel] - low[channel]) / (high[channel] - low[channel])
        np.testing.assert_allclose(found[..., colour], 255 * np.clip(wanted, 0, 1), atol=1)
    assert (found[..., 2] == 128).all()  # a constant channel says nothing


def test_components_of_patches_keep_their_differences(tmp_path):
    """Light and dark is the direction in which the patches differ most."""
    generator = np.random.default_rng(0)
    light, direction = generator.uniform(size=(3, 9, 6, 6, 1)), np.ones(7)
    values = light * direction + 0.01 * generator.uniform(size=(3, 9, 6, 6, 7))
    coloured, gray = tiles.patch_colours(values, np.ones((3, 9), bool))
    means = coloured.mean(axis=-1)
    assert np.corrcoef(means.ravel(), light.ravel())[0, 1] > 0.99
    assert np.ptp(coloured.astype(int), axis=-1).max() < 40
    assert gray.shape == values.shape
    patches_png(tmp_path / "patches.png", values, np.ones((3, 9)), title="seven")
    assert "7 channels as colours" in words_of(tmp_path / "patches.png")


def test_what_is_shown_by_channel_differs_where_filters_share_their_best_patch():
    patches = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 5), np.uint8)
    patches[:10] = patches[3]
    chosen = filters._different(patches, 3)
    assert chosen[1:].tolist() == [10, 11]
    assert len(filters._different(patches[:2], 8)) == 2


# curves of series


def coloured_like(path, colour):
    wanted = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return (pixels(path)[..., :3] == wanted).all(axis=-1)


def test_a_filter_of_a_series_is_a_curve_of_its_weights(tmp_path):
    """A single filter fills a box: its curve is where its weights say."""
    weights = np.sin(np.linspace(0, 2 * np.pi, 120))
    filters_png(tmp_path / "wave.png", weights[None, :, None, None], series=True, title="wave")
    line = coloured_like(tmp_path / "wave.png", "#0072B2")
    columns = np.flatnonzero(line.any(axis=0))
    heights = np.array([np.flatnonzero(line[:, column]).mean() for column in columns])
    along = np.interp(np.linspace(0, 1, len(columns)), np.linspace(0, 1, 120), -weights)
    assert np.corrcoef(heights, along)[0, 1] > 0.999


SOME = [(1, 1), (2, 6), (2, 20), (40, 8)]  # lengths and channels; the others with -m full


@pytest.mark.parametrize(
    ("length", "channels"),
    [
        pytest.param(*size, marks=() if size in SOME else pytest.mark.full)
        for size in itertools.product([1, 2, 40], [1, 6, 8, 20])
    ],
)
def test_series_of_any_channels_and_length_can_be_drawn(tmp_path, channels, length):
    kernel = np.random.default_rng(0).normal(size=(1, length, channels, 10))
    kernel[..., 2] = np.nan
    kernel[..., 4] = 0
    filters_png(tmp_path / "one.png", kernel, series=True)
    filters_png(tmp_path / "two.png", kernel, title="a", beside=-kernel, series=True)
    stretches = np.moveaxis(kernel, -1, 0)[:, None].repeat(9, axis=1)
    responses = np.ones((10, 9))
    responses[3] = responses[5, 2:] = 0
    patches_png(tmp_path / "three.png", stretches, responses, title="b", series=True)
    assert {pixels(tmp_path / f"{name}.png").shape[1] for name in ("one", "two", "three")} == {1600}
    pale = coloured_like(tmp_path / "one.png", "#CFCFCF").sum() > 300
    assert pale == (channels > 8)


def test_only_so_many_filters_of_series_are_drawn_and_it_says_so(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(9, 2, 70))
    filter_curves(tmp_path / "many.png", [kernel], np.arange(70), "strokes")
    assert words_of(tmp_path / "many.png") == "strokes, 48 of 70 filters"
    filter_curves(tmp_path / "none.png", [kernel[..., :0]], np.arange(0), None)
    assert pixels(tmp_path / "none.png").shape[1] == 1600


# curves_png


def test_curves_have_one_size_whatever_is_measured(tmp_path):
    curves_png(tmp_path / "all.png", history(), title="01-edges")
    four = [{k: v for k, v in row.items() if k[:4] not in ("lear", "patc")} for row in history()]
    curves_png(tmp_path / "four.png", four)
    curves_png(tmp_path / "one.png", [{"loss": row["loss"]} for row in history()])
    assert pixels(tmp_path / "all.png").shape == (1456, 1600, 4)
    assert pixels(tmp_path / "four.png").shape == (992, 1600, 4)
    assert pixels(tmp_path / "one.png").shape == (528, 1600, 4)


def test_a_history_file_gives_the_same_curves_as_its_rows(tmp_path):
    rows = history()
    rows[3]["loss"] = rows[5]["active_share"] = None
    with open(tmp_path / "history.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    curves_png(tmp_path / "rows.png", rows)
    curves_png(tmp_path / "file.png", tmp_path / "history.csv")
    assert (tmp_path / "rows.png").read_bytes() == (tmp_path / "file.png").read_bytes()


def test_rows_without_a_column_are_passed_over_and_leave_no_gap():
    """Those of a probe, between the history's own."""
    own = [{"step": step, "loss": 1 / step} for step in (50, 100, 150)]
    probed = [{"step": step, "probe_accuracy": step / 1000} for step in (75, 150)]
    rows = [own[0], probed[0], own[1], own[2] | probed[1]]
    unit, panels = panels_of(rows)
    found = {title: (steps.tolist(), lines) for steps, title, _, _, lines, _ in panels}
    assert unit == "step"
    assert found["Loss"][0] == [50, 100, 150]
    assert found["Loss"][1]["loss"].tolist() == [1 / 50, 1 / 100, 1 / 150]
    assert found["Probe"][0] == [75, 150]
    assert found["Probe"][1]["probe"].tolist() == [0.075, 0.15]


@pytest.mark.parametrize("missing", [np.nan, np.inf, None, "", "nan"])
def test_a_missing_value_leaves_a_gap_instead_of_a_line_across(tmp_path, missing):
    rows = [{"step": index, "loss": 1.0} for index in range(10)]
    curves_png(tmp_path / "whole.png", rows)
    for row in rows[3:7]:
        row["loss"] = missing
    curves_png(tmp_path / "gap.png", rows)
    whole, gap = (blue(tmp_path / name) for name in ("whole.png", "gap.png"))
    columns = np.flatnonzero(whole.any(axis=0))
    assert np.diff(columns).max() == 1
    gaps = np.diff(np.flatnonzero(gap.any(axis=0)))
    assert gaps.max() == pytest.approx(np.ptp(columns) * 5 / 9, rel=0.03)
    assert (gaps > 1).sum() == 1


def blue(path):
    """Where a picture has the colour of a first line."""
    return (pixels(path)[..., :3] == [0x00, 0x72, 0xB2]).all(axis=-1)


def test_a_single_row_and_a_lone_value_leave_a_dot(tmp_path):
    curves_png(tmp_path / "row.png", [{"step": 20, "loss": 0.5}])
    assert blue(tmp_path / "row.png").sum() > 50
    lone = [{"step": i, "loss": 1.0 if i == 4 else np.nan} for i in range(9)]
    curves_png(tmp_path / "lone.png", lone)
    assert blue(tmp_path / "lone.png").sum() > 50


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{}],
        [{"step": 1, "loss": None}],
        [{"step": 5, "seconds": 1.0}],
        [{"step": i, "loss": np.nan, "effective_rank": 0.0} for i in range(3)],
        [{"step": 1, "active_share": 0.0, "patches_per_second": 2e7, "loss": 1e30}],
        [{"step": i, "positive_distance": -0.9, "learning_rate": 0.0} for i in (0, 0, 7)],
        [{"step": "", "loss": "2.5"}, {"step": None, "loss": "2.0"}],
    ],
)
def test_odd_histories_are_drawn_without_a_warning(tmp_path, rows):
    curves_png(tmp_path / "curves.png", rows, title="$odd")
    assert pixels(tmp_path / "curves.png").shape[1] == 1600


# files and figures


def draw_all(folder):
    filters_png(
        folder / "filters.png", np.random.default_rng(0).normal(size=(3, 3, 3, 5)), title="a"
    )
    patches_png(folder / "patches.png", np.full((2, 4, 5, 5, 3), 50, np.uint8), title="b")
    curves_png(folder / "curves.png", history(5), title="c")
    return [(folder / name).read_bytes() for name in ("filters.png", "patches.png", "curves.png")]


def test_a_failed_drawing_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    curves_png(tmp_path / "curves.png", history(5))
    before = (tmp_path / "curves.png").read_bytes()

    def full_disk(self, path, **options):
        path.write_bytes(b"half a pict")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(OSError, match="No space"):
        curves_png(tmp_path / "curves.png", history(6))
    assert (tmp_path / "curves.png").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_pictures_do_not_take_on_the_callers_style(tmp_path):
    import matplotlib

    plain = draw_all(tmp_path)
    style = {"axes.facecolor": "black", "font.size": 30, "text.color": "red", "savefig.dpi": 30}
    style |= {"savefig.bbox": "tight", "figure.dpi": 17, "lines.marker": "x"}
    with matplotlib.rc_context(style):
        settings = dict(matplotlib.rcParams)
        assert draw_all(tmp_path) == plain
        assert dict(matplotlib.rcParams) == settings


def test_drawing_needs_no_backend_and_import_no_matplotlib(tmp_path):
    program = f"""
import sys, pathlib
import kclr.drawing.filters
from kclr.drawing.curves import curves_png
heavy = {{"matplotlib", "scipy", "tensorflow", "keras", "PIL"}} & set(sys.modules)
assert not heavy, heavy
curves_png(pathlib.Path({str(tmp_path)!r}) / "curves.png", [dict(step=1, loss=2)])
assert "matplotlib.pyplot" not in sys.modules
import matplotlib
assert not isinstance(dict.__getitem__(matplotlib.rcParams, "backend"), str)
matplotlib.use("svg")
curves_png(pathlib.Path({str(tmp_path)!r}) / "curves.png", [dict(step=1, loss=2)])
assert matplotlib.get_backend().lower() == "svg"
"""
    environment = {"PATH": "", "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=filters.__file__.rsplit("kclr", 1)[0],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_patterns_are_what_the_filters_input_has_in_common_with_their_answers(photographs):
    windows = crops(photographs, 500, 6) / 255
    kernel = np.random.default_rng(0).normal(size=(6, 6, 3, 4))
    found = patterns(kernel, windows)
    contrast = windows - windows.mean(axis=(1, 2), keepdims=True)
    answers = np.einsum("nijc,ijcf->nf", contrast, kernel)
    for place in ((0, 0, 0), (2, 5, 1), (5, 3, 2)):
        own = contrast[(slice(None), *place)]
        expected = [np.cov(own, each, bias=True)[0, 1] for each in answers.T]
        np.testing.assert_allclose(found[place], expected, rtol=1e-9, atol=1e-15)


def test_the_pattern_of_a_filter_of_whitened_windows_is_the_edge_it_was_made_for(photographs):
    # A whitened template is no picture of it; what comes along with its answer is.
    windows = crops(photographs, 500, 6).mean(axis=-1, keepdims=True) / 255
    edge = np.repeat([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], 6).reshape(6, 6, 1, 1)
    flat = (windows - windows.mean(axis=(1, 2), keepdims=True)).reshape(len(windows), -1)
    inverse = np.linalg.pinv(np.cov(flat.T), rcond=1e-6)
    weights = (inverse @ edge.reshape(-1)).reshape(edge.shape)
    found = patterns(weights, windows)

    def likeness(one):
        return np.corrcoef(one.reshape(-1), edge.reshape(-1))[0, 1]

    assert likeness(found) > 0.99 > 0.9 > likeness(weights)


def test_a_second_grid_stands_beside_the_first_in_the_same_order(tmp_path, photographs):
    kernel = patch_filters(photographs, 9)
    filters_png(tmp_path / "one.png", kernel)
    filters_png(tmp_path / "two.png", kernel, beside=-kernel)
    one, two = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert two.shape[1] > one.shape[1]
    margin, gap = 8, 24
    half = (two.shape[1] - 2 * margin - gap) // 2
    left, right = two[:, margin : margin + half], two[:, margin + half + gap :][:, :half]
    opaque = (left[..., 3] == 255) & (right[..., 3] == 255)
    assert opaque.any()
    total = left[opaque][:, :3].astype(int) + right[opaque][:, :3]
    assert np.abs(total - 256).max() <= 1
