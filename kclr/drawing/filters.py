"""Filters to look at: in an order, as tiles or curves, and by the patches that excite them."""

import numpy as np

from kclr.drawing import tiles
from kclr.drawing.series import filter_curves, stretch_curves
from kclr.drawing.tiles import OPPONENT_COLOURS
from kclr.kernels import MOST_IMAGE_CHANNELS, most_diverse

MOST_FILTERS = 256


MOST_MOSAICS = 64


# Optimal leaf ordering grows with the cube of the filters: 0.2 s for 512, 20 s for 2,048, and four
# times that where they are nearly equal, as in a layer that collapsed.
MOST_FOR_OPTIMAL_ORDER = 512


# As many filters are shown channel by channel, and as many of their channels.
MOST_STRIPS, MOST_IN_STRIP = 8, 32


def filter_order(kernel):
    """Order filters so that similar ones are next to each other.

    The order is that of the leaves of a hierarchical clustering (Ward 1963), arranged so that
    neighbours are closest (Bar-Joseph et al. 2001, "Fast optimal leaf ordering") for up to
    `MOST_FOR_OPTIMAL_ORDER` filters. Filters are compared without their mean and at unit norm. On
    channels of images and series (not of features) the amplitude spectrum is compared as well as
    the weights: gratings of one direction look similar, but are orthogonal if their phases differ.

    Args:
        kernel: float (kernel_height, kernel_width, channels, filters).

    Returns:
        int64 (filters,), indices of filters. Filters without any contrast come after the others,
        darkest first; dead ones (all zero, or with a value that is not finite) last.
    """
    kernel = np.asarray(kernel, np.float64)
    weights = np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], np.prod(kernel.shape[:3]))
    finite = np.isfinite(weights).all(axis=1)
    largest = np.abs(weights).max(axis=1, initial=0)
    dead = ~finite | (largest == 0)
    # Dividing by the largest weight first keeps the squares of tiny or huge weights in range.
    weights = np.where(dead[:, None], 0, weights) / np.where(dead, 1, largest)[:, None]
    mean = weights.mean(axis=1)
    contrast = weights - mean[:, None]
    flat = ~dead & (np.linalg.norm(contrast, axis=1) <= 1e-6)
    lively = np.flatnonzero(~dead & ~flat)

    features = _unit(contrast[lively])
    if kernel.shape[2] <= MOST_IMAGE_CHANNELS:
        shape = (len(lively), *kernel.shape[:3])
        features = np.hstack([_amplitudes(features.reshape(shape)), 0.4 * features])
    flat = np.flatnonzero(flat)
    return np.concatenate(
        [
            lively[_leaf_order(features)],
            flat[np.argsort((mean * largest)[flat], kind="stable")],
            np.flatnonzero(dead),
        ]
    )


def _unit(rows):
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(norms, np.finfo(float).tiny)


def _amplitudes(filters):
    """Amplitude spectra of filters (filters, height, width, channels), as rows of unit norm."""
    if filters.shape[-1] == 3:
        filters = filters @ OPPONENT_COLOURS.T
    # Twice the size, so that shifts inside the kernel do not wrap around.
    size = (2 * filters.shape[1], 2 * filters.shape[2])
    spectrum = np.abs(np.fft.rfft2(filters, s=size, axes=(1, 2)))
    return _unit(spectrum.reshape(len(filters), np.prod(spectrum.shape[1:])))


def _leaf_order(features):
    if len(features) < 3:
        return np.arange(len(features))
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    # Not `pdist`: that takes 5 s for 2,048 filters of 512 channels, the product 0.2 s.
    products = features @ features.T
    lengths = np.diagonal(products)
    squares = np.maximum(lengths[:, None] + lengths - 2 * products, 0)
    np.fill_diagonal(squares, 0)
    distances = squareform(np.sqrt(squares), checks=False)
    tree = linkage(distances, "ward")
    if len(features) <= MOST_FOR_OPTIMAL_ORDER:
        tree = optimal_leaf_ordering(tree, distances)
    return leaves_list(tree).astype(np.int64)


def top_patches(batches, jump, start, size, per_filter=9, filters=None):
    """Find the image patches that excite each filter most.

    A patch is the receptive field of a cell of the feature map, cut from the image; border pixels
    are repeated outside the image. Each image contributes at most one patch per filter, and only if
    the response is above zero. Of equal responses the first is kept. Memory does not grow with the
    number of images.

    Args:
        batches: iterable of (images, maps): images uint8 (batch, height, width, channels), and
            their feature maps float (batch, map_height, map_width, filters). Batches may differ
            in height and width.
        jump: int or (int, int), px of the image between neighbouring cells (y, x).
        start: int or (int, int), px of the image where the first cell's field starts (y, x);
            negative with padding.
        size: int or (int, int), px of the receptive field (height, width).
        per_filter: int, how many patches to keep for each filter.
        filters: int (chosen,), which filters to follow, in this order; by default all.

    Returns:
        patches: uint8 (chosen, per_filter, *size, channels), strongest first; responses: float32
        (chosen, per_filter), 0 if no further image excites the filter (the patch is black).

    Raises:
        ValueError: there are no batches.
    """
    jump, start, size = (np.broadcast_to(value, 2) for value in (jump, start, size))
    responses = patches = None
    for images, maps in batches:
        images, maps = np.asarray(images), np.asarray(maps)
        if filters is not None:
            maps = maps[..., np.asarray(filters)]
        cells = maps.reshape(len(maps), -1, maps.shape[-1]).astype(np.float32, copy=False)
        cells = np.where(cells > 0, cells, 0)
        if responses is None:
            responses = np.zeros((per_filter, maps.shape[-1]), np.float32)
            patches = np.zeros((*responses.shape, *size, images.shape[-1]), images.dtype)
        best = cells.argmax(axis=1)
        candidates = np.concatenate(
            [responses, np.take_along_axis(cells, best[:, None], axis=1)[:, 0]]
        )
        winners = np.argsort(-candidates, axis=0, kind="stable")[:per_filter]
        responses = np.take_along_axis(candidates, winners, axis=0)
        patches = np.take_along_axis(
            patches, np.minimum(winners, per_filter - 1)[..., None, None, None], axis=0
        )
        rank, column = np.nonzero((winners >= per_filter) & (responses > 0))
        image = winners[rank, column] - per_filter
        y, x = np.divmod(best[image, column], maps.shape[2])
        patches[rank, column] = _windows(images, image, start + jump * np.stack([y, x], 1), size)
    if responses is None or patches is None:
        raise ValueError("there are no images to look for patches in")
    return patches.swapaxes(0, 1), responses.T


def _windows(images, image, corners, size):
    """Cut a window of `size` at each corner (windows, 2), repeating the border pixels outside."""
    rows = np.clip(corners[:, :1] + np.arange(size[0]), 0, images.shape[1] - 1)
    columns = np.clip(corners[:, 1:] + np.arange(size[1]), 0, images.shape[2] - 1)
    return images[image[:, None, None], rows[:, :, None], columns[:, None, :]]


def patterns(kernel, windows):
    """What each filter looks for: the pattern in its input that makes it respond.

    The weights of a filter are not that pattern. They also cancel what comes along with it, least
    to be recognised where a whitening is folded into them. The pattern is the covariance of the
    input with the filter's response (Haufe et al. 2014, "On the interpretation of weight vectors of
    linear models in multivariate neuroimaging", equation 7). Here it is that of each window without
    its mean colour, which varies so much more than all else that every pattern would look flat; so
    the pattern of a filter for a plain colour shows what little contrast comes along with it.

    Args:
        kernel: float (kernel_height, kernel_width, channels, filters).
        windows: float (windows, kernel_height, kernel_width, channels), of the filters' input.

    Returns:
        float64, as the kernel; each filter's pattern up to a factor above zero.
    """
    kernel = np.asarray(kernel, np.float64)
    windows = np.asarray(windows, np.float64)
    if np.prod(kernel.shape[:2]) > 1:
        windows = windows - windows.mean(axis=(1, 2), keepdims=True)
    flat = windows.reshape(len(windows), -1)
    flat = flat - flat.mean(axis=0)
    answers = flat @ kernel.reshape(-1, kernel.shape[-1])
    return (flat.T @ answers / len(flat)).reshape(kernel.shape)


def filters_png(path, kernel, order=None, title=None, beside=None, bands=None, series=False):
    """Draw filters as a grid of images, or those of series as curves.

    Zero is mid-gray, and each filter is scaled to its own range around it. Filters with other than
    one or three channels are shown in the colours of `bands`, or of the three principal components
    of all filters, without centring, so that zero stays mid-gray: the first as light and dark, the
    others as hues. Below the grid, the strongest filters are then shown channel by channel. The
    space between filters is transparent. At most `MOST_FILTERS` filters are shown, evenly spaced
    along the order; of curves fewer, with a line for each channel.

    Args:
        path: file to write, replaced atomically.
        kernel: float (kernel_height, kernel_width, channels, filters); or their `patterns`.
        order: int (shown,), the filters to show, left to right and line by line; by default
            `filter_order(kernel)`.
        title: str above the grid.
        beside: float, of the shape of `kernel`, for a second grid to the right of the first.
        bands: three numbers of channels, counted from 1, to show as red, green and blue.
        series: bool, the kernel is one of series (its height is 1): draw it as curves.

    Raises:
        ValueError: a channel of `bands` does not exist.
    """
    kernels = [np.asarray(each, np.float64) for each in (kernel, beside) if each is not None]
    order = filter_order(kernels[0]) if order is None else np.asarray(order, np.int64)
    if series:
        filter_curves(path, [each[0] for each in kernels], order, title)
        return
    shown = tiles.evenly(order, MOST_FILTERS)
    height, width, channels = kernels[0].shape[:3]
    columns = tiles.columns(len(shown), width / height)
    scale = tiles.scale(800, len(kernels) * columns * width, 96 / max(height, width))
    strongest = np.argsort(-_strengths(kernels[0])[shown], kind="stable")[:MOST_STRIPS]
    grids, strips = [], []
    for each in kernels:
        filters = np.moveaxis(np.where(np.isfinite(each), each, 0), -1, 0)[shown]
        coloured = tiles.around_gray(tiles.three_channels(filters, bands))
        grids.append(tiles.grid(tiles.opaque(tiles.enlarge(coloured, scale)), columns, gap=2))
        strips.append((coloured[strongest], tiles.around_gray(filters[strongest])))
    words = [tiles.caption(title, len(shown), len(order))]
    many = channels not in (1, 3) and len(shown) > 0
    if many or bands is not None:
        words.append(tiles.colours_of(channels, bands, "filters") + "; mid-gray is 0")
    picture = tiles.side_by_side([(grid, []) for grid in grids])
    if many and channels > 1:
        heading = f"the strongest {_count(len(strongest), 'filter')}, in colour and by channel"
        picture = _with_strips(picture, strips, heading, channels)
    tiles.save_tiles(path, picture, "\n".join(filter(None, words)))


def _strengths(kernel):
    """The norm of each filter; what is not finite counts as 0."""
    return np.sqrt(np.square(np.where(np.isfinite(kernel), kernel, 0)).sum(axis=(0, 1, 2)))


def _different(patches, most):
    """Which patches (patches, height, width, channels) to show: filters may share their best."""
    patches = np.moveaxis(patches.astype(np.float64), 0, -1)
    patches = patches - patches.mean(axis=(0, 1), keepdims=True)
    return np.sort(most_diverse(patches, min(patches.shape[-1], most)))


def _count(number, noun):
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def _with_strips(picture, strips, heading, channels):
    """A picture with strips below it: of each of its grids the chosen filters, channel by channel.

    Args:
        picture: pixels and texts. heading: above the strips.
        strips: for each grid the chosen tiles, uint8 (chosen, height, width, 3) in colour, and
            (chosen, height, width, channels).
    """
    numbers = tiles.evenly(np.arange(1, channels + 1), MOST_IN_STRIP)
    if len(numbers) < channels:
        heading = f"{heading}, {len(numbers)} of {channels:,} channels"
    room = max(800, picture[0].shape[1]) / len(strips)
    parts = [tiles.strips(coloured, gray, numbers, room) for coloured, gray in strips]
    return tiles.below(picture, tiles.line(heading), tiles.side_by_side(parts))


def patches_png(path, patches, responses=None, title=None, bands=None, series=False):
    """Draw, for each filter, a small mosaic of the image patches that excite it most.

    Patches of gray or colour, uint8, are shown as they are. Other numbers are stretched: each
    channel's 1st to 99th percentile of all that is shown. Other numbers of channels are shown in
    the colours of `bands`, or of the three principal components of all patches shown: the first as
    light and dark, the others as hues; below, the best patches of some filters that differ most
    are shown channel by channel. Stretches of series are drawn as curves.

    Args:
        path: file to write, replaced atomically.
        patches: uint8 or other numbers (filters, per_filter, height, width, channels); the filters
            in the wanted order, as returned by `top_patches`. At most `MOST_MOSAICS` filters are
            shown, evenly spaced.
        responses: float (filters, per_filter); places where it is 0 are left a pale gray.
        title: str above the grid.
        bands: three numbers of channels, counted from 1, to show as red, green and blue.
        series: bool, the patches are stretches of series (their height is 1): draw curves.

    Raises:
        ValueError: a channel of `bands` does not exist.
    """
    patches = np.asarray(patches)
    filters, per_filter, height, width, channels = patches.shape
    there = np.ones((filters, per_filter), bool) if responses is None else np.asarray(responses) > 0
    if series:
        stretch_curves(path, patches[:, :, 0], there, title)
        return
    shown = tiles.evenly(np.arange(filters), MOST_MOSAICS)
    inner = tiles.columns(per_filter, width / height)
    mosaic_size = inner * width, -(-per_filter // inner) * height
    columns = tiles.columns(len(shown), mosaic_size[0] / mosaic_size[1])
    scale = tiles.scale(1000, columns * mosaic_size[0], 240 / max(mosaic_size))
    there, patches = there[shown], patches[shown]
    many, plain = channels not in (1, 3) and there.any(), patches.dtype == np.uint8
    coloured, gray = tiles.patch_colours(patches, there, bands)
    mosaics = []
    for each, has in zip(coloured, there, strict=True):
        mosaic = tiles.opaque(tiles.enlarge(each, scale))
        mosaic[~has] = (128, 128, 128, 64)
        mosaics.append(tiles.grid(mosaic, inner, gap=1))
    pixels = tiles.grid(np.array(mosaics or np.zeros((0, 1, 1, 4)), np.uint8), columns, gap=8)
    picture: tiles.Picture = (pixels, [])
    words = [tiles.caption(title, len(shown), filters)]
    if many or bands is not None:
        words.append(tiles.colours_of(channels, bands, "patches"))
    elif not plain and there.any():
        words.append(tiles.STRETCH)
    if many:
        best = np.flatnonzero(there[:, 0])
        chosen = best[_different(gray[best, 0], MOST_STRIPS)]
        heading = f"the best patch of {_count(len(chosen), 'filter')}, in colour and by channel; "
        heading += tiles.STRETCH
        strips = [(coloured[chosen, 0], gray[chosen, 0])]
        picture = _with_strips(picture, strips, heading, channels)
    tiles.save_tiles(path, picture, "\n".join(filter(None, words)))
