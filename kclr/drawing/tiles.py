"""Pictures of tiles: small images of any channels, enlarged pixel by pixel, in grids and strips."""

import numpy as np

from kclr.drawing.figure import own_figure, save

# Gray, red-green and blue-yellow: apart, so that a gray edge and a coloured one are not alike.
OPPONENT_COLOURS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])


# Pixels, uint8 (height, width, 4), and texts (x, y, words): a text's lower end is y px from the
# top, its middle x px from the left; x is None for a line that starts at the left.
Picture = tuple[np.ndarray, list[tuple[float | None, float, str]]]


LINE = 16  # px of a line of text


STRETCH = "black to white: each channel's 1st to 99th percentile"


def evenly(order, most):
    """At most `most` of an order, evenly spaced along it, both ends among them."""
    if len(order) <= most:
        return order
    return order[np.linspace(0, len(order) - 1, most).round().astype(int)]


def caption(title, shown, total):
    """The title, with a note where not all filters are shown."""
    note = "no filters" if not total else None
    if shown < total:
        note = f"{shown:,} of {total:,} filters"
    return ", ".join(part for part in (title, note) if part)


def colours_of(channels, bands, what) -> str:
    """What the colours of a picture of many channels are, in words."""
    if bands is not None:
        return f"red, green and blue are the channels {', '.join(map(str, bands))}"
    if channels == 2:
        return f"2 channels as colours: principal components of all {what} (first: light, dark)"
    return (
        f"{channels:,} channels as colours: the three principal components of all {what} "
        "(first: light, dark; others: hues)"
    )


def three_channels(filters, bands=None):
    """Filters (filters, height, width, channels) as red, green and blue, zero staying zero."""
    channels = filters.shape[-1]
    if bands is not None:
        return filters[..., _indices(bands, channels)]
    if channels == 3:
        return filters
    if channels == 1:
        return np.repeat(filters, 3, axis=-1)
    return _in_colours(filters, filters.reshape(-1, channels))


def _indices(bands, channels):
    numbers = np.asarray(bands)
    if numbers.shape != (3,) or not ((numbers >= 1) & (numbers <= channels)).all():
        raise ValueError(
            f"bands={list(bands)}: use three numbers of channels, from 1 to {channels}"
        )
    return numbers - 1


def _in_colours(values, rows):
    """Values (..., channels) along the main directions of `rows` (rows, channels), as colours.

    The first direction is gray and the others hues, as of photographs. Distances stay as they are.
    """
    _, vectors = np.linalg.eigh(rows.T @ rows)
    vectors = vectors[:, ::-1][:, :3]
    # An eigenvector's sign is arbitrary: fixed here, so that equal kernels give equal pictures.
    strongest = np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0)
    vectors = vectors * np.where(strongest < 0, -1, 1)
    return values @ vectors @ OPPONENT_COLOURS[: vectors.shape[1]]


def around_gray(filters):
    """Scale each filter to fill its range around mid-gray: uint8, 0 at 128."""
    largest = np.abs(filters).max(axis=(1, 2, 3), initial=0, keepdims=True)
    return (128 + 127 * filters / np.where(largest > 0, largest, 1)).round().astype(np.uint8)


def patch_colours(patches, there, bands=None):
    """Patches of any channels and numbers as colours, and each of their channels as gray.

    Args:
        patches: numbers (filters, per_filter, height, width, channels).
        there: bool (filters, per_filter), which of them exist.
        bands: three numbers of channels, counted from 1, for red, green and blue.

    Returns:
        coloured: uint8 (filters, per_filter, height, width, 3); gray: uint8, as `patches`.
    """
    channels = patches.shape[-1]
    if bands is None and channels in (1, 3) and patches.dtype == np.uint8:
        return np.repeat(patches, 3 // channels, axis=-1), patches
    # Of each channel by itself: one may be a temperature and the next a height.
    stretched = stretch(patches, there, axis=0)
    gray = _as_bytes(stretched)
    if bands is not None:
        return gray[..., _indices(bands, channels)], gray
    if channels in (1, 3):
        return np.repeat(gray, 3 // channels, axis=-1), gray
    rows = stretched[there].reshape(-1, channels)
    coloured = _in_colours(stretched, rows - rows.mean(axis=0) if len(rows) else rows)
    return _as_bytes(stretch(coloured, there, axis=None)), gray


def stretch(values, there, axis):
    """Stretch numbers so that the 1st and the 99th percentile of those that exist are 0 and 1.

    Args:
        values: numbers (filters, per_filter, ..., channels); those not finite count as 0.
        there: bool (filters, per_filter), which of them exist.
        axis: 0 for each channel by itself, None for all channels together.

    Returns:
        float64, as `values`; 0.5 of a channel that is constant.
    """
    values = np.nan_to_num(np.asarray(values, np.float64), posinf=0, neginf=0)
    rows = values[there].reshape(-1, values.shape[-1])
    if not rows.size:
        return np.full_like(values, 0.5)
    low, high = np.percentile(rows, (1, 99), axis=axis)
    if axis == 0:  # a spike that is rarer than a hundredth is all there is to see
        flat = low == high
        low, high = np.where(flat, rows.min(axis=0), low), np.where(flat, rows.max(axis=0), high)
    return np.where(high > low, (values - low) / np.where(high > low, high - low, 1), 0.5)


def _as_bytes(stretched):
    return (255 * np.clip(stretched, 0, 1)).round().astype(np.uint8)


def columns(tiles, aspect):
    """Columns of a grid about as wide as high, without an unfinished line where that is near.

    `aspect` is a tile's width over its height.
    """
    square = max(1, int(np.ceil(np.sqrt(tiles / aspect))))
    most = 2 * square if aspect == 1 else square + square // 4  # of long tiles, many make a ribbon
    full = [count for count in range(square, most) if tiles % count == 0]
    return full[0] if full else square


def scale(target, size, most):
    """Whole number of px for a pixel, to make `size` pixels about `target` px."""
    return max(1, int(min(target / max(size, 1), most)))


def enlarge(tiles, scale):
    """Tiles with `scale` x `scale` px for each of their pixels."""
    return tiles.repeat(scale, axis=1).repeat(scale, axis=2)


def opaque(tiles):
    """Tiles of colours as pixels, uint8 (..., 4)."""
    return np.concatenate([tiles, np.full((*tiles.shape[:-1], 1), 255, np.uint8)], axis=-1)


def grid(tiles, columns, gap):
    """Lay tiles (tiles, height, width, 4) out line by line, with transparent gaps between them."""
    count, height, width, _ = tiles.shape
    columns = min(columns, max(count, 1))
    lines = -(-count // columns)
    padded = np.zeros((lines * columns, height + gap, width + gap, 4), np.uint8)
    padded[:count, :height, :width] = tiles
    laid = padded.reshape(lines, columns, height + gap, width + gap, 4).swapaxes(1, 2)
    laid = laid.reshape(lines * (height + gap), columns * (width + gap), 4)
    return laid[: max(0, len(laid) - gap), :-gap]


def strips(coloured, gray, numbers, room) -> Picture:
    """A line of tiles for each filter: in colour, then each channel in gray under its number.

    Args:
        coloured: uint8 (filters, height, width, 3). gray: uint8 (filters, height, width, channels).
        numbers: int (shown,), the channels to show, counted from 1.
        room: px that the lines may be wide.

    Returns:
        The picture.
    """
    shown = np.moveaxis(gray[..., numbers - 1], -1, 1)[..., None].repeat(3, axis=-1)
    lines = np.concatenate([coloured[:, None], shown], axis=1)
    lines = lines.reshape(-1, *lines.shape[2:])
    step = -(-max(lines.shape[1:3]) // 64)  # of large patches every so many pixels
    lines = lines[:, ::step, ::step]
    height, width = lines.shape[1:3]
    gap = 2
    enlarged = scale(room, (len(numbers) + 1) * width, 48 / max(height, width))
    pixels = grid(opaque(enlarge(lines, enlarged)), len(numbers) + 1, gap)
    pixels = np.pad(pixels, [(LINE, 0), (0, 0), (0, 0)])
    tile = width * enlarged + gap
    every = int(np.ceil((8 * len(str(numbers[-1])) + 4) / tile))
    texts: list[tuple[float | None, float, str]] = [
        ((index + 1.5) * tile, LINE - 3, str(number))
        for index, number in enumerate(numbers)
        if index % every == 0
    ]
    return pixels, texts


def line(words) -> Picture:
    """A picture that is a line of text."""
    return np.zeros((LINE, 1, 4), np.uint8), [(None, LINE - 4, words)]


def side_by_side(pictures, gap=24) -> Picture:
    """Pictures from left to right, with a transparent gap between them."""
    height = max(len(pixels) for pixels, _ in pictures)
    laid, texts, left = [], [], 0
    for pixels, own in pictures:
        laid.append(np.pad(pixels, [(0, height - len(pixels)), (0, gap), (0, 0)]))
        texts += [(x if x is None else x + left, y, words) for x, y, words in own]
        left += pixels.shape[1] + gap
    return np.concatenate(laid, axis=1)[:, :-gap], texts


def below(*pictures, gap=12) -> Picture:
    """Pictures from top to bottom."""
    width = max(pixels.shape[1] for pixels, _ in pictures)
    laid, texts, top = [], [], 0
    for pixels, own in pictures:
        laid.append(np.pad(pixels, [(0, gap), (0, width - pixels.shape[1]), (0, 0)]))
        texts += [(x, y + top, words) for x, y, words in own]
        top += len(pixels) + gap
    return np.concatenate(laid)[:-gap], texts


def save_tiles(path, picture, caption, margin=8, dpi=100):
    """Write a picture, pixel by pixel, with a caption above it."""
    # This gray reads on white as well as on black, and the background is transparent.
    style = {"size": 10, "color": "#777777", "parse_math": False}
    pixels, texts = picture
    with own_figure(dpi=dpi) as figure:
        height, width = pixels.shape[0] + 2 * margin, pixels.shape[1] + 2 * margin
        renderer = figure.canvas.get_renderer()
        placed, top = [], margin
        if caption:
            text = figure.text(0, 0, caption, va="top", linespacing=1.4, **style)
            box = text.get_window_extent(renderer)
            top += int(np.ceil(box.height)) + margin
            width = max(width, int(np.ceil(box.width)) + 2 * margin)
            placed.append((text, margin, margin))
        for x, y, words in texts:
            across = "left" if x is None else "center"
            text = figure.text(0, 0, words, ha=across, va="baseline", **style)
            if x is None:
                box = text.get_window_extent(renderer)
                width = max(width, int(np.ceil(box.width)) + 2 * margin)
            placed.append((text, margin + (x or 0), top + y))
        height += top - margin
        for text, x, y in placed:
            text.set_position((x / width, 1 - y / height))
        # Half a pixel more: the canvas rounds down, and inches are not whole numbers.
        figure.set_size_inches((width + 0.5) / dpi, (height + 0.5) / dpi)
        if pixels.size:
            figure.figimage(pixels, margin, margin, origin="upper")
        save(figure, path, transparent=True, description=caption.replace("\n", ". ") or None)
