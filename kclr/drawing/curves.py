"""Learning curves: how a layer was trained, as one picture or as one drawing for each panel."""

import csv
import os

import numpy as np

from kclr.drawing.figure import own_figure, save, svg

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


def curves_png(path, history, title=None):
    """Draw a layer's learning curves as small multiples, 1,600 px wide, readable at 1,000.

    Each existing column with numbers is drawn (`PANELS` names them). A line has a gap at values
    that are empty or not finite; rows without any of a panel's columns, such as those between two
    probes, are skipped.

    Args:
        path: file to write, replaced atomically.
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


def history_svgs(name, history, layer) -> list[str]:
    """Draw a layer's learning curves as `plots.curves_png` does, an `<svg>` for each panel.

    Args:
        name: str, makes the ids in the drawings unique in a page.
        history: rows as dictionaries; the columns that `plots.PANELS` names are drawn.
        layer: str, its name, for screen readers.
    """
    found: list[str] = []
    unit, panels = panels_of(history)
    for steps, title, label, limits, lines, with_legend in panels:
        alt = f"{layer}, {title.lower()} by {unit}: " + "; ".join(
            _ends(shown, line) for shown, line in lines.items()
        )
        with own_figure(figsize=(4.4, 2.7), layout="constrained") as figure:
            axes = figure.add_subplot()
            draw_panel(axes, steps, title, label, limits, lines, with_legend)
            axes.set_xlabel(unit, size=10.5)
            found.append(svg(figure, f"{name}-{len(found)}", alt))
    return found


def _ends(shown, line):
    there = line[np.isfinite(line)]
    return f"{shown} from {there[0]:.3g} to {there[-1]:.3g}"
