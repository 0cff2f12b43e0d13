"""Charts of a transfer experiment: accuracy by epoch and by the share of labels.

In the report a chart is an `<svg>` element whose colours are CSS variables, so that one drawing is
readable on light and dark backgrounds. The title and legend, which a PNG includes, are text in the
page.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kclr.drawing.figure import AXIS, GRID, SERIES, own_figure, save, svg

# Inches, so that the text is about that of the page on a phone, and in three columns.
SIZE = (4.2, 2.9)


# Lengths of line and gap, in widths of the line.
DASHES = ((), (4, 1.6), (1, 1.3), (4, 1.3, 1, 1.3))


MARKERS = "osD^vPX*"


RANDOM = "random"


_TREATMENT = re.compile(r"[\s,:]*\b(and |start|frozen|fine-tuned)+$")


@dataclass(frozen=True)
class Style:
    """How an arm is drawn: indices into `SERIES` (and `MARKERS`) and into `DASHES`."""

    series: int
    dash: int

    @property
    def variable(self) -> str:
        """The colour in the page."""
        return f"var(--series-{self.series})"

    @property
    def dash_array(self) -> str:
        """Of a line 2 px wide, as SVG wants it."""
        return " ".join(f"{2 * length:g}" for length in DASHES[self.dash])

    def line(self) -> dict[str, Any]:
        """Arguments for matplotlib's `plot`."""
        dashes = DASHES[self.dash]
        return {
            "color": SERIES[self.series][0],
            "linestyle": (0, dashes) if dashes else "-",
            "linewidth": 1.8,
        }


def styles(arms: Sequence[str]) -> dict[str, Style]:
    """Give each arm a style: a colour for the origin of its filters, a dash for their treatment.

    So "kclr fine-tuned" and "kclr frozen" share a colour, and the frozen one is dashed.

    Args:
        arms: names, in order. Those that start with "random" are gray.

    Returns:
        A style for each name, all different for up to eight origins and four treatments.
    """
    found: dict[str, Style] = {}
    origins: dict[str, int] = {}
    for arm in arms:
        origin = _TREATMENT.sub("", arm) or arm
        if origin not in origins:
            others = sum(name != RANDOM for name in origins)
            origins[origin] = 0 if origin == RANDOM else 1 + others % (len(SERIES) - 1)
        series = origins[origin]
        wanted = 1 if arm.endswith("frozen") else 0
        free = [d for d in (wanted, 0, 2, 3, 1) if Style(series, d) not in found.values()]
        found[arm] = Style(series, free[0] if free else wanted)
    return found


def amount(labels) -> str:
    """An amount of labels in words: "10 % of the labels", "20 labels of each class"."""
    if labels > 1:
        return f"{labels:g} labels per class"
    return "all labels" if labels == 1 else f"{100 * labels:g} % of the labels"


def epochs_svg(name, curves, look: Mapping[str, Style], labels) -> str:
    """Draw test accuracy against epoch: a line for each arm, with a band of one standard deviation.

    Args:
        name: str, makes the ids in the drawing unique in a page.
        curves: for each arm the means and the spreads (None where a single repeat has none), both
            (epochs,), as shares of 1.
        look: from `styles`.
        labels: float, the share of labels that the curves were learned from.

    Returns:
        An `<svg>` element.
    """
    ends = (f"{arm} {100 * means[-1]:.1f} %" for arm, (means, _) in curves.items() if means)
    alt = f"Test accuracy by epoch with {amount(labels)}. After the last epoch: {'; '.join(ends)}."
    with own_figure(figsize=SIZE, layout="constrained") as figure:
        _epochs(figure.add_subplot(), curves, look)
        return svg(figure, name, alt)


def epochs_png(path, curves, look: Mapping[str, Style], title) -> None:
    """Write the picture of `epochs_svg`, a panel for each share of labels, with a legend.

    Args:
        path: file to write, replaced atomically.
        curves: from (labels, arm) to what `epochs_svg` takes for an arm.
        look: from `styles`.
        title: str above the panels.
    """
    shares = list(dict.fromkeys(labels for labels, _ in curves))
    with own_figure(
        figsize=(max(6, 4.6 * len(shares)), 4.4), dpi=160, layout="constrained"
    ) as figure:
        for place, labels in enumerate(shares, 1):
            axes = figure.add_subplot(1, max(1, len(shares)), place)
            arms = {arm: curve for (share, arm), curve in curves.items() if share == labels}
            _epochs(axes, arms, look)
            axes.set_title(amount(labels), loc="left", size=11, weight="bold")
        _title_and_legend(figure, title, look)
        save(figure, path)


def labels_svg(name, rows, look: Mapping[str, Style]) -> str:
    """Draw test accuracy against the share of labels: lines, and bands of a standard deviation.

    Args:
        name: str, makes the ids in the drawing unique in a page.
        rows: from `kclr.transfer.summary.summarize`.
        look: from `styles`.

    Returns:
        An `<svg>` element.
    """
    alt = "Test accuracy by the share of labels. " + " ".join(
        f"{arm}: "
        + ", ".join(f"{100 * row.mean:.1f} % with {amount(row.labels)}" for row in points)
        + "."
        for arm, points in _by_arm(rows).items()
    )
    with own_figure(figsize=SIZE, layout="constrained") as figure:
        _labels(figure.add_subplot(), rows, look)
        return svg(figure, name, alt)


def labels_png(path, rows, look: Mapping[str, Style], title) -> None:
    """Write the picture of `labels_svg`, with a title and a legend, atomically."""
    with own_figure(figsize=(7.5, 5.4), dpi=160, layout="constrained") as figure:
        _labels(figure.add_subplot(), rows, look)
        _title_and_legend(figure, title, look)
        save(figure, path)


def _by_arm(rows):
    found: dict[str, list[Any]] = {}
    for row in sorted(rows, key=lambda row: row.labels):
        found.setdefault(row.arm, []).append(row)
    return found


def _epochs(axes, curves, look):
    from matplotlib.ticker import MaxNLocator

    for arm, (means, spreads) in curves.items():
        marker = "o" if len(means) == 1 else ""
        _line(axes, np.arange(1, len(means) + 1), means, spreads, arm, look[arm], marker)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch", size=10.5)
    _dress(axes)


def _labels(axes, rows, look):
    for arm, points in _by_arm(rows).items():
        marker = MARKERS[look[arm].series % len(MARKERS)]
        means, spreads = [row.mean for row in points], [row.spread for row in points]
        _line(axes, [row.images for row in points], means, spreads, arm, look[arm], marker)
    axes.set_xscale("log")
    amounts = {row.images: row.labels for row in rows}
    names = [
        (f"{labels:g} per class" if labels > 1 else f"{100 * labels:g} %") + f"\n{images:,}"
        for images, labels in sorted(amounts.items())
    ]
    axes.set_xticks(sorted(amounts), names)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("labels (share or number, and images)", size=10.5)
    _dress(axes)


def _line(axes, x, means, spreads, arm, style, marker):
    means = 100 * np.asarray(means, np.float64)
    spreads = 100 * np.array([np.nan if s is None else s for s in spreads], np.float64)
    axes.plot(x, means, marker=marker, markersize=5, label=arm, **style.line())
    if np.isfinite(spreads).any():
        low, high = means - spreads, means + spreads
        axes.fill_between(x, low, high, color=style.line()["color"], alpha=0.14, linewidth=0)


def _dress(axes):
    axes.set_ylabel("test accuracy (%)", size=10.5)
    axes.tick_params(labelsize=10, color=AXIS[0])
    axes.grid(color=GRID[0], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXIS[0])


def _title_and_legend(figure, title, look):
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    figure.suptitle(title, size=12, weight="bold", parse_math=False, wrap=True)
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, arm in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(arm, handle)
    if handles:
        columns = max(1, int(figure.get_figwidth() // 2.4))
        legend = figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False,
            fontsize=10, handlelength=2.6,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
