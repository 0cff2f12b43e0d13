"""Pictures of a run: what filters look like, what excites them, and how they were learned.

The functions draw on a canvas of their own, under matplotlib's own
defaults, so a caller's backend, style and open figures stay as they are.
"""

import csv
import os
from contextlib import contextmanager

import numpy as np

from kclr.report.filters import filter_order
from kclr.runs.paths import atomic

MOST_FILTERS = 256
MOST_MOSAICS = 64

# Of the colour-blind-safe palette of Okabe and Ito (2008), the two that differ most on white.
BLUE, VERMILION = "#0072B2", "#D55E00"

# Title, label of the y axis, its limits (None: as the values ask), and the history's columns with
# the name of each line. An objective's own measures get a picture by a line here.
PANELS = (
    ("Loss", "loss (mean of a batch)", (None, None), {"loss": "loss"}),
    (
        "Distances",
        "distance (of embeddings)",
        (0, None),
        {"positive_distance": "positive", "negative_distance": "negative"},
    ),
    (
        "Triplets",
        "share of triplets (0 to 1)",
        (0, 1),
        {"active_share": "active", "triplet_accuracy": "accuracy"},
    ),
    (
        "Similarities",
        "cosine (-1 to 1)",
        (-1, 1),
        {"positive_similarity": "positive", "negative_similarity": "negative"},
    ),
    ("Told apart", "share of pairs (0 to 1)", (0, 1), {"contrast_accuracy": "accuracy"}),
    ("Temperature", "temperature", (0, None), {"temperature": "temperature"}),
    (
        "Parts of the loss",
        "loss (mean of a batch)",
        (None, None),
        {
            "invariance_loss": "invariance",
            "variance_loss": "variance",
            "covariance_loss": "covariance",
            "positive_product": "positive product",
            "negative_square": "negative square",
        },
    ),
    (
        "Cross-correlation",
        "correlation",
        (None, None),
        {"on_diagonal": "on the diagonal", "off_diagonal": "off it, mean square"},
    ),
    ("Probe", "accuracy (0 to 1)", (None, None), {"probe_accuracy": "probe"}),
    ("Effective rank", "effective rank (dimensions)", (0, None), {"effective_rank": "rank"}),
    ("Learning rate", "learning rate", (0, None), {"learning_rate": "rate"}),
    ("Speed", "patches per second", (0, None), {"patches_per_second": "speed"}),
)


def filters_png(path, kernel, order=None, title=None):
    """Draw filters as a grid that can be read as edges, colours and blobs.

    Zero is mid-gray, and each filter fills its own range around it. Other channels than one or
    three are shown as their three principal components (red, green, blue), without centring, so
    that zero stays mid-gray. The space between filters is transparent. Of more than
    `MOST_FILTERS` filters as many are shown, evenly spaced along the order.

    Args:
        path: file to write, replaced in one go.
        kernel: float (kernel_height, kernel_width, channels, filters).
        order: int (shown,), the filters to show, left to right and line by line; by default
            `filter_order(kernel)`.
        title: str above the grid.
    """
    kernel = np.asarray(kernel, np.float64)
    order = filter_order(kernel) if order is None else np.asarray(order, np.int64)
    shown = _evenly(order, MOST_FILTERS)
    tiles = _around_gray(_three_channels(np.moveaxis(kernel, -1, 0)))[shown]
    columns = _columns(len(tiles), kernel.shape[1] / kernel.shape[0])
    scale = _scale(800, columns * kernel.shape[1], 96 / max(kernel.shape[:2]))
    grid = _grid(_opaque(_enlarge(tiles, scale)), columns, gap=2)
    _save_picture(path, grid, _caption(title, len(shown), len(order)))


def patches_png(path, patches, responses=None, title=None):
    """Draw, for each filter, a small mosaic of the image patches that excite it most.

    Args:
        path: file to write, replaced in one go.
        patches: uint8 (filters, per_filter, height, width, channels), 1 or 3 channels; the
            filters in the order wanted, as `top_patches` returns them. Of more than
            `MOST_MOSAICS` filters as many are shown, evenly spaced.
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
        save(figure, path, transparent=True)


def curves_png(path, history, title=None):
    """Draw a layer's learning curves as small multiples, 1,600 px wide, to be read at 1,000.

    Only the columns that are there and hold a number get a line (`PANELS` names them). Where a
    value is empty or not finite, the line has a gap; rows that do not have a panel's columns at
    all, as those between two probes, are passed over.

    Args:
        path: file to write, replaced in one go.
        history: rows as dictionaries, or the path of a CSV file. The column `step` gives the x
            axis; without it the rows are numbered from 1.
        title: str above the panels.
    """
    if isinstance(history, str | os.PathLike):
        with open(history, newline="", encoding="utf-8") as file:
            history = list(csv.DictReader(file))
    x_label, panels = panels_of(history)
    rows = max(1, -(-len(panels) // 2))
    with own_figure(figsize=(10, 0.4 + 2.9 * rows), dpi=160, layout="constrained") as figure:
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
        if title:
            figure.suptitle(title, size=13, weight="bold", parse_math=False)
        if not panels:
            figure.text(0.5, 0.4, "nothing recorded", size=12, color="#555555", ha="center")
        columns = min(2, max(1, len(panels)))
        for place, panel in enumerate(panels, 1):
            axes = figure.add_subplot(rows, columns, place)
            draw_panel(axes, *panel)
            axes.set_xlabel(x_label, size=10.5)
        save(figure, path)


def panels_of(history):
    """The panels of a history that have something to show.

    Returns:
        the name of the x axis, and for each panel what `draw_panel` takes: steps, title, label of
        the y axis, limits, lines, and whether it needs a legend.
    """
    steps, x_label = history_column(history, "step"), "step"
    if not np.isfinite(steps).any():
        steps, x_label = np.arange(1, len(history) + 1), "log row"
    panels = []
    for name, unit, limits, names in PANELS:
        there = [any(column in row for column in names) for row in history]
        rows = [row for row, has in zip(history, there, strict=True) if has]
        lines = {label: history_column(rows, column) for column, label in names.items()}
        lines = {label: line for label, line in lines.items() if np.isfinite(line).any()}
        if lines:
            panels.append((steps[np.array(there)], name, unit, limits, lines, len(names) > 1))
    return x_label, panels


def history_column(history, name):
    """A column as float64 (rows,), nan where it is missing, empty or not finite."""
    values = [row.get(name) for row in history]
    column = np.array([np.nan if v is None or v == "" else float(v) for v in values], np.float64)
    return np.where(np.isfinite(column), column, np.nan)


def draw_panel(axes, steps, name, unit, limits, lines, with_legend):
    """Draw lines over their steps: a panel with its title, unit and legend."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    lowest = min(np.nanmin(line) for line in lines.values())
    highest = max(np.nanmax(line) for line in lines.values())
    for colour, (label, line) in zip((BLUE, VERMILION), lines.items(), strict=False):
        axes.plot(steps, line, color=colour, linewidth=1.6, label=label, solid_capstyle="round")
        # A point without neighbours would leave no trace of a line.
        there = np.concatenate([[False], np.isfinite(line) & np.isfinite(steps), [False]])
        alone = there[1:-1] & ~there[:-2] & ~there[2:]
        axes.plot(steps[alone], line[alone], "o", color=colour, markersize=5)
    axes.set_title(name, loc="left", size=11, weight="bold")
    if with_legend:
        axes.legend(
            loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=10.5,
            borderaxespad=0.1, handlelength=1.4, columnspacing=1.2, labelcolor="linecolor",
        )  # fmt: skip
    axes.set_ylabel(unit, size=10.5)
    axes.tick_params(labelsize=10, color="#999999")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    if 1e4 <= highest < 1e7:
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    low, high = limits
    if low is not None:
        # Never a limit that hides a value: a similarity may be below zero, and a share on it.
        low, high = min(low, lowest), highest if high is None else max(high, highest)
        margin = 0.04 * (high - low) or 1
        axes.set_ylim(low - margin / 2, high + margin)


@contextmanager
def own_figure(**options):
    """A figure outside pyplot, under matplotlib's defaults instead of the caller's style."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(**options)
        FigureCanvasAgg(figure)
        yield figure


def save(figure, path, transparent=False):
    """Write a figure as PNG, whole or not at all."""
    with atomic(path) as temporary:
        figure.savefig(
            temporary, format="png", dpi=figure.dpi, transparent=transparent,
            metadata={"Software": None},
        )  # fmt: skip
