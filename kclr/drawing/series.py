"""Filters of series as curves: their weights, and the stretches of the series that excite them."""

from contextlib import contextmanager

import numpy as np

from kclr.drawing.figure import own_figure, save
from kclr.drawing.tiles import caption, evenly, stretch

MOST_CURVES, MOST_STRETCHES = 48, 32


COLUMNS, BESIDE = 6, 4  # boxes of a half of the picture; stretches of a filter


# Of the colour-blind-safe palette of Okabe and Ito (2008): no yellow, which is pale on white.
COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7A3E1D",
)  # fmt: skip
OTHERS = "#CFCFCF"


# Left, right, upper and lower end of what is drawn in a box of one unit; above it is its number.
LEFT, RIGHT, TOP, BOTTOM = 0.04, 0.96, 0.17, 0.97


def filter_curves(path, kernels, order, title=None):
    """Draw filters of series in boxes: a line for each channel, each filter in its own range.

    Args:
        path: file to write, replaced atomically.
        kernels: one or two of float (length, channels, filters), from left to right.
        order: int (filters,), which filters to show; at most `MOST_CURVES`, evenly spaced.
        title: str above the boxes.
    """
    shown = evenly(order, MOST_CURVES)
    length, channels, _ = kernels[0].shape
    curves = [np.nan_to_num(np.moveaxis(each, -1, 0), posinf=0, neginf=0) for each in kernels]
    curves = [each[shown] for each in curves]
    largest = [np.abs(each).max(axis=(1, 2), initial=0, keepdims=True) for each in curves]
    curves = [
        each / np.where(most > 0, most, 1) for each, most in zip(curves, largest, strict=True)
    ]
    weight = sum(np.square(each).sum(axis=(0, 1)) for each in curves)
    columns = min(len(shown), COLUMNS if len(kernels) > 1 else 2 * COLUMNS) or 1
    lines = -(-len(shown) // columns) or 1
    note = (
        f"each box is a filter, with its number above it: {_samples(length)} from left to right, "
        "in its own range; the gray line is 0"
    )
    words = caption(title, len(shown), len(order))
    with _sheet(words, note, lines, channels, weight) as sheet:
        figure, colours, bottom, top = sheet
        for half, each in enumerate(curves):
            left, right = half / len(curves), (half + 1) / len(curves)
            axes = figure.add_axes((left + 0.012, bottom, right - left - 0.024, top - bottom))
            _boxes(axes, each, np.arange(len(each)), columns, lines, colours, zero=True)
            for place, number in enumerate(shown):
                line, column = divmod(place, columns)
                axes.text(
                    column + LEFT, line + TOP - 0.02, number, size=7, color="#777777", va="bottom"
                )
            _label(axes, lines, length)
        save(figure, path, description=words or None)


def stretch_curves(path, stretches, there, title=None):
    """Draw the stretches that excite each filter most, side by side, a line for each channel.

    Args:
        path: file to write, replaced atomically.
        stretches: numbers (filters, per_filter, length, channels), the filters in the wanted order,
            the strongest stretch first; at most `MOST_STRETCHES` filters are shown, evenly spaced,
            and `BESIDE` stretches of each.
        there: bool (filters, per_filter), which stretches exist.
        title: str above the boxes.
    """
    shown = evenly(np.arange(len(stretches)), MOST_STRETCHES)
    words = caption(title, len(shown), len(stretches))
    stretches, there = stretches[shown, :BESIDE], there[shown, :BESIDE]
    beside, length, channels = stretches.shape[1:]
    # Of each channel by itself: one may be an acceleration and the next a pressure.
    curves = np.clip(2 * stretch(stretches, there, axis=0) - 1, -1.1, 1.1)
    weight = np.square(np.diff(curves, axis=2)).sum(axis=(0, 1, 2))
    halves = 2 if len(shown) > 4 else 1
    lines = -(-len(shown) // halves) or 1
    note = (
        "each line of boxes is a filter, its strongest stretch first: "
        f"{_samples(length)} from left to right, from bottom to top the 1st to the 99th percentile "
        f"of {'the series' if channels == 1 else 'each channel'}"
    )
    with _sheet(words, note, lines, channels, weight) as sheet:
        figure, colours, bottom, top = sheet
        for half in range(halves):
            left, right = half / halves, (half + 1) / halves
            axes = figure.add_axes((left + 0.012, bottom, right - left - 0.024, top - bottom))
            own = slice(half * lines, (half + 1) * lines)
            places = np.flatnonzero(there[own].ravel())
            boxes = curves[own].reshape(-1, length, channels)[places]
            _boxes(axes, boxes, places, beside, lines, colours)
            _label(axes, lines, length)
        save(figure, path, description=words or None)


@contextmanager
def _sheet(title, note, lines, channels, weight):
    """A figure with its title, the note, and the legend of the channels above the boxes.

    Args:
        lines: int, of boxes. channels: int.
        weight: float (channels,), those with most are coloured.

    Yields:
        The figure; each channel's colour; the boxes' lower and upper end, of the figure's height.
    """
    coloured = np.sort(np.argsort(-weight, kind="stable")[: len(COLOURS)])
    colours = [OTHERS] * channels
    for colour, channel in zip(COLOURS, coloured, strict=False):
        colours[channel] = colour
    head, foot = 0.8 if channels > 1 else 0.52, 0.25  # inches
    height = head + 0.75 * max(lines, 1) + foot
    with own_figure(figsize=(10, height), dpi=160) as figure:
        for inches, words, size in ((0.12, title, 12), (0.36, note, 9)):
            figure.text(
                0.012, 1 - inches / height, words, size=size, va="top", parse_math=False,
                color="#555555" if size < 10 else "black",
            )  # fmt: skip
        if channels > 1:
            from matplotlib.lines import Line2D

            names = {f"channel {channel + 1}": colours[channel] for channel in coloured}
            if channels > len(coloured):
                names[f"{channels - len(coloured):,} others"] = OTHERS
            figure.legend(
                [Line2D([], [], color=colour, linewidth=2) for colour in names.values()], names,
                loc="upper left", bbox_to_anchor=(0.005, 1 - 0.55 / height), ncols=len(names),
                frameon=False, fontsize=8, handlelength=1.2, columnspacing=1.2, borderpad=0,
            )  # fmt: skip
        yield figure, colours, foot / height, 1 - head / height


def _boxes(axes, curves, places, columns, lines, colours, zero=False):
    """Draw curves in boxes of one unit each.

    Args:
        curves: float (boxes, length, channels) from -1 (the lower end of a box) to 1.
        places: int (boxes,), line by line.
        columns, lines: int, of all boxes. colours: of each channel. zero: with a line at 0.
    """
    from matplotlib.collections import LineCollection, PolyCollection

    line, column = np.divmod(places, columns)
    corners = np.array([[LEFT, TOP], [RIGHT, TOP], [RIGHT, BOTTOM], [LEFT, BOTTOM]])
    middle, half = (TOP + BOTTOM) / 2, (BOTTOM - TOP) / 2
    origin = np.stack([column, line], axis=1)[:, None]
    if len(places):
        axes.add_collection(PolyCollection(origin + corners, facecolor="#F5F5F5", edgecolor="none"))
    if zero and len(places):
        across = origin + np.array([[LEFT, middle], [RIGHT, middle]])
        axes.add_collection(LineCollection(list(across), colors="#B0B0B0", linewidths=0.6))
    if curves.shape[1] == 1:
        curves = curves.repeat(2, axis=1)
    along = np.linspace(LEFT + 0.03, RIGHT - 0.03, curves.shape[1])
    # The pale ones first, that they cover none of the others.
    for channel in sorted(range(curves.shape[2]), key=lambda each: colours[each] != OTHERS):
        y = line[:, None] + middle - 0.92 * half * curves[:, :, channel]
        x = column[:, None] + along
        points = list(np.stack([x, y], axis=-1))
        # In wide lines the many waves of a sound are a blot.
        width = 0.5 if colours[channel] == OTHERS or curves.shape[1] > 150 else 0.9
        axes.add_collection(LineCollection(points, colors=colours[channel], linewidths=width))
    axes.set(xlim=(0, columns), ylim=(lines, 0))


def _label(axes, lines, length):
    """Say below the boxes what is along them; upwards there are no numbers."""
    axes.axis("off")
    style = {"size": 7, "color": "#777777", "va": "top"}
    axes.text(LEFT, lines, "0", **style)
    if length > 1:
        axes.text(RIGHT, lines, f"{length - 1:,}", ha="right", **style)


def _samples(length):
    return "1 sample" if length == 1 else f"{length:,} samples"
