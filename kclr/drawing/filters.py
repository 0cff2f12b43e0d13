"""Filters to look at: in an order, as a grid of tiles, and by the patches that excite them."""

import numpy as np

from kclr.drawing.figure import own_figure, save

MOST_FILTERS = 256


MOST_MOSAICS = 64


# Optimal leaf ordering grows with the cube of the filters: 0.2 s for 512, 20 s for 2,048, and four
# times that where they are nearly equal, as in a layer that collapsed.
MOST_FOR_OPTIMAL_ORDER = 512


# Gray, red-green and blue-yellow: apart, so that a gray edge and a coloured one are not alike.
OPPONENT_COLOURS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])


def filter_order(kernel):
    """Order filters so that similar ones are next to each other.

    The order is that of the leaves of a hierarchical clustering (Ward 1963), arranged so that
    neighbours are closest (Bar-Joseph et al. 2001, "Fast optimal leaf ordering") for up to
    `MOST_FOR_OPTIMAL_ORDER` filters. Filters are compared without their mean and at unit norm. On
    gray and colour images the amplitude spectrum is compared as well as the weights: gratings of
    one direction look similar, but are orthogonal if their phases differ.

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
    if kernel.shape[2] in (1, 3):
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
    """Amplitude spectra of filters (filters, height, width, 1 or 3), as rows of unit norm."""
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


def filters_png(path, kernel, order=None, title=None, beside=None):
    """Draw filters as a grid of images.

    Zero is mid-gray, and each filter is scaled to its own range around it. Filters with other than
    one or three channels are shown as their three principal components (red, green, blue), without
    centring, so that zero stays mid-gray. The space between filters is transparent. At most
    `MOST_FILTERS` filters are shown, evenly spaced along the order.

    Args:
        path: file to write, replaced atomically.
        kernel: float (kernel_height, kernel_width, channels, filters); or their `patterns`.
        order: int (shown,), the filters to show, left to right and line by line; by default
            `filter_order(kernel)`.
        title: str above the grid.
        beside: float, of the shape of `kernel`, for a second grid to the right of the first.
    """
    kernels = [np.asarray(each, np.float64) for each in (kernel, beside) if each is not None]
    order = filter_order(kernels[0]) if order is None else np.asarray(order, np.int64)
    shown = _evenly(order, MOST_FILTERS)
    height, width = kernels[0].shape[:2]
    columns = _columns(len(shown), width / height)
    scale = _scale(800, len(kernels) * columns * width, 96 / max(height, width))
    grids = []
    for each in kernels:
        tiles = _around_gray(_three_channels(np.moveaxis(each, -1, 0)))[shown]
        grids.append(_grid(_opaque(_enlarge(tiles, scale)), columns, gap=2))
    grid = _grid(np.array(grids), len(grids), gap=24)
    _save_picture(path, grid, _caption(title, len(shown), len(order)))


def patches_png(path, patches, responses=None, title=None):
    """Draw, for each filter, a small mosaic of the image patches that excite it most.

    Args:
        path: file to write, replaced atomically.
        patches: uint8 (filters, per_filter, height, width, channels), 1 or 3 channels; the filters
            in the wanted order, as returned by `top_patches`. At most `MOST_MOSAICS` filters are
            shown, evenly spaced.
        responses: float (filters, per_filter); places where it is 0 are left a pale gray.
        title: str above the grid.
    """
    patches = np.asarray(patches, np.uint8)
    filters, per_filter, height, width, channels = patches.shape
    shown = _evenly(np.arange(filters), MOST_MOSAICS)
    inner = _columns(per_filter, width / height)
    mosaic_size = inner * width, -(-per_filter // inner) * height
    columns = _columns(len(shown), mosaic_size[0] / mosaic_size[1])
    scale = _scale(1000, columns * mosaic_size[0], 240 / max(mosaic_size))
    mosaics = []
    for index in shown:
        tiles = patches[index] if channels == 3 else np.repeat(patches[index, ..., :1], 3, axis=-1)
        tiles = _opaque(_enlarge(tiles, scale))
        if responses is not None:
            tiles[~(np.asarray(responses)[index] > 0)] = (128, 128, 128, 64)
        mosaics.append(_grid(tiles, inner, gap=1))
    grid = _grid(np.array(mosaics or np.zeros((0, 1, 1, 4)), np.uint8), columns, gap=8)
    _save_picture(path, grid, _caption(title, len(shown), filters))


def _evenly(order, most):
    if len(order) <= most:
        return order
    return order[np.linspace(0, len(order) - 1, most).round().astype(int)]


def _caption(title, shown, total):
    note = "no filters" if not total else None
    if shown < total:
        note = f"{shown:,} of {total:,} filters"
    return ", ".join(part for part in (title, note) if part)


def _three_channels(filters):
    """Filters (filters, height, width, channels) as red, green and blue, zero staying zero."""
    filters = np.where(np.isfinite(filters), filters, 0)
    channels = filters.shape[-1]
    if channels == 3:
        return filters
    if channels == 1:
        return np.repeat(filters, 3, axis=-1)
    flat = filters.reshape(-1, channels)
    _, vectors = np.linalg.eigh(flat.T @ flat)
    vectors = vectors[:, ::-1][:, :3]
    # An eigenvector's sign is arbitrary: fixed here, so that equal kernels give equal pictures.
    strongest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    components = filters @ (vectors * np.where(strongest < 0, -1, 1))
    return np.pad(components, [(0, 0)] * 3 + [(0, 3 - components.shape[-1])])


def _around_gray(filters):
    """Scale each filter to fill its range around mid-gray: uint8, 0 at 128."""
    largest = np.abs(filters).max(axis=(1, 2, 3), initial=0, keepdims=True)
    return (128 + 127 * filters / np.where(largest > 0, largest, 1)).round().astype(np.uint8)


def _columns(tiles, aspect):
    """Columns of a grid about as wide as high, without an unfinished line where that is near.

    `aspect` is a tile's width over its height.
    """
    square = max(1, int(np.ceil(np.sqrt(tiles / aspect))))
    full = [count for count in range(square, 2 * square) if tiles % count == 0]
    return full[0] if full else square


def _scale(target, size, most):
    """Whole number of px for a pixel, to make `size` pixels about `target` px."""
    return max(1, int(min(target / max(size, 1), most)))


def _enlarge(tiles, scale):
    return tiles.repeat(scale, axis=1).repeat(scale, axis=2)


def _opaque(tiles):
    return np.concatenate([tiles, np.full((*tiles.shape[:-1], 1), 255, np.uint8)], axis=-1)


def _grid(tiles, columns, gap):
    """Lay tiles (tiles, height, width, 4) out line by line, with transparent gaps between them."""
    count, height, width, _ = tiles.shape
    columns = min(columns, max(count, 1))
    lines = -(-count // columns)
    padded = np.zeros((lines * columns, height + gap, width + gap, 4), np.uint8)
    padded[:count, :height, :width] = tiles
    grid = padded.reshape(lines, columns, height + gap, width + gap, 4).swapaxes(1, 2)
    grid = grid.reshape(lines * (height + gap), columns * (width + gap), 4)
    return grid[: max(0, len(grid) - gap), :-gap]


def _save_picture(path, grid, caption, margin=8, dpi=100):
    """Write a grid (height, width, 4), pixel by pixel, with a caption above it."""
    with own_figure(dpi=dpi) as figure:
        height, width = grid.shape[0] + 2 * margin, grid.shape[1] + 2 * margin
        if caption:
            # This gray reads on white as well as on black, and the background is transparent.
            text = figure.text(0, 1, caption, size=10, color="#777777", va="top", parse_math=False)
            box = text.get_window_extent(figure.canvas.get_renderer())
            height += int(np.ceil(box.height)) + margin
            width = max(width, int(np.ceil(box.width)) + 2 * margin)
            text.set_position((margin / width, 1 - margin / height))
        # Half a pixel more: the canvas rounds down, and inches are not whole numbers.
        figure.set_size_inches((width + 0.5) / dpi, (height + 0.5) / dpi)
        if grid.size:
            figure.figimage(grid, margin, margin, origin="upper")
        save(figure, path, transparent=True, description=caption or None)
