"""What there is to see in a search: its trials in order, as a table, and as pictures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kclr.drawing.figure import AXIS, GRID, SERIES, own_figure, save, svg

SHOWN_BEST = 5  # trials that the parallel coordinates single out


_BLUE, _VERMILION = SERIES[1][0], SERIES[2][0]


def front(rows: Sequence[Mapping[str, Any]], direction="max") -> list[Mapping[str, Any]]:
    """The Pareto front: the trials for which no other is as good in less time.

    Args:
        rows: trials with score and seconds; others are skipped.
        direction: "max" if a larger score is better, or "min".

    Returns:
        Those on the front, by seconds, their scores better and better.
    """
    sign = 1 if direction == "max" else -1
    found: list[Mapping[str, Any]] = []
    there = [row for row in rows if "score" in row]
    for row in sorted(there, key=lambda row: (row["seconds"], -sign * row["score"])):
        if not found or sign * row["score"] > sign * found[-1]["score"]:
            found.append(row)
    return found


def short_names(paths: Sequence[str]) -> list[str]:
    """The ends of key paths, as short as tells them apart."""
    words = [path.split(".") for path in paths]
    shown = [1] * len(paths)
    while True:
        ends = [".".join(own[-count:]) for own, count in zip(words, shown, strict=True)]
        twice = [ends.count(end) > 1 for end in ends]
        grown = [
            count + (again and count < len(own))
            for own, count, again in zip(words, shown, twice, strict=True)
        ]
        if grown == shown:
            return ends
        shown = grown


def trials_png(path, search: Mapping[str, Any]) -> None:
    """Draw score against seconds for each searched layer, and its Pareto front, atomically.

    Args:
        path: file to write.
        search: what `search.json` says.
    """
    layers = [best["layer"] for best in search["best"]]
    with own_figure(
        figsize=(max(6.4, 5 * len(layers)), 4.4), dpi=160, layout="constrained"
    ) as figure:
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
        for place, layer in enumerate(layers, 1):
            axes = figure.add_subplot(1, len(layers), place)
            rows = [row for row in search["rows"] if row["layer"] == layer]
            _against_seconds(axes, rows, search["objective"])
            failed = sum("failed" in row for row in rows)
            words = f"{layer}: {len(rows)} trials" + (f", {failed} failed" if failed else "")
            axes.set_title(words, loc="left", size=11, weight="bold", parse_math=False)
            axes.legend(frameon=False, fontsize=9.5, loc="best")
        save(figure, path)


def seconds_svg(name, rows, objective: Mapping[str, str], layer) -> str:
    """Draw score against seconds as `trials_png` does, an `<svg>` element.

    Args:
        name: str, makes the ids in the drawing unique in a page.
        rows: the trials of one layer. objective: metric and direction. layer: its name.
    """
    ends = front(rows, objective["direction"])
    alt = f"{layer}: {objective['metric']} against seconds of training; on the front " + "; ".join(
        f"trial {row['trial']} with {row['score']:.4g} in {row['seconds']:.1f} s" for row in ends
    )
    with own_figure(figsize=(4.6, 3.2), layout="constrained") as figure:
        _against_seconds(figure.add_subplot(), rows, objective)
        return svg(figure, name, alt)


def _against_seconds(axes, rows, objective):
    done = [row for row in rows if "score" in row]
    ends = front(done, objective["direction"])
    scale = 100 if _share(objective["metric"]) else 1
    for whole, face, words in ((True, _BLUE, "trial"), (False, "none", "paused")):
        some = [row for row in done if row["complete"] == whole]
        if some:
            axes.scatter(
                [row["seconds"] for row in some],
                [scale * row["score"] for row in some],
                s=26, facecolors=face, edgecolors=_BLUE, linewidths=0.9, alpha=0.75, label=words,
            )  # fmt: skip
    if ends:
        axes.plot(
            [row["seconds"] for row in ends],
            [scale * row["score"] for row in ends],
            color=_VERMILION, marker="o", markersize=5, linewidth=1.8, drawstyle="steps-post",
            label="Pareto front",
        )  # fmt: skip
    for row in ends:
        axes.annotate(
            row["trial"],
            (row["seconds"], scale * row["score"]),
            xytext=(5, 4),
            textcoords="offset points",
            size=9,
        )
    axes.margins(0.07)
    axes.set_xlabel("seconds of training, without shared layers", size=10.5)
    axes.set_ylabel(_named(objective["metric"]), size=10.5)
    _dress(axes)


def coordinates_svg(name, rows, objective: Mapping[str, str], layer) -> str:
    """Draw every trial as a line across the hyperparameters and the score: an `<svg>` element.

    Axes of numbers span their range, on a log scale if it is more than a factor of 20; other values
    are evenly spaced. The best `SHOWN_BEST` are highlighted; a line has a gap if a hyperparameter
    is not used.

    Args:
        name: str, makes the ids in the drawing unique in a page.
        rows: the trials of one layer. objective: metric and direction. layer: its name.
    """
    import numpy as np

    sign = 1 if objective["direction"] == "max" else -1
    done = sorted((row for row in rows if "score" in row), key=lambda row: sign * row["score"])
    paths = list(dict.fromkeys(path for row in done for path in row["values"]))
    scale = 100 if _share(objective["metric"]) else 1
    columns = [[row["values"].get(path) for row in done] for path in paths]
    columns.append([scale * row["score"] for row in done])
    scales = [_scale(column) for column in columns]
    alt = f"{layer}: the values of every trial and its {objective['metric']}. The best: " + (
        ", ".join(f"{path} {value}" for path, value in done[-1]["values"].items()) if done else "-"
    )
    with own_figure(figsize=(max(4.6, 1.25 * len(columns)), 3.6), layout="constrained") as figure:
        axes = figure.add_subplot()
        for place, row_values in enumerate(zip(*columns, strict=True)):
            heights = [
                np.nan if value is None else height(value)
                for (height, _), value in zip(scales, row_values, strict=True)
            ]
            best = place >= len(done) - SHOWN_BEST
            axes.plot(
                heights, color=_VERMILION if best else SERIES[0][0], alpha=0.95 if best else 0.35,
                linewidth=1.6 if best else 0.8, marker="o", markersize=3 if best else 1.5,
                zorder=3 if best else 2,
            )  # fmt: skip
        for place, (_, ticks) in enumerate(scales):
            axes.axvline(place, color=AXIS[0], linewidth=0.8, zorder=1)
            for at, words in ticks:
                axes.text(place + 0.05, at, words, size=8, va="center", zorder=4, parse_math=False)
        labels = [*short_names(paths), _named(objective["metric"])]
        axes.set_xticks(range(len(labels)), labels, size=9, rotation=20, ha="right")
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(labels) - 0.6)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return svg(figure, name, alt)


def _scale(column):
    """How a column's values become heights from 0 to 1, and the heights of its ticks."""

    there = [value for value in column if value is not None]
    numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in there]
    if numbers and all(numbers):
        low, high = min(there), max(there)
        if low == high:
            return lambda value: 0.5, [(0.5, f"{low:.4g}")]
        warp = math.log if low > 0 and high / low > 20 else float
        span = float(warp(high)) - float(warp(low))
        return (
            lambda value: (float(warp(value)) - float(warp(low))) / span,
            [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")],
        )
    kinds = sorted({str(value) for value in there})
    places = {kind: i / max(1, len(kinds) - 1) for i, kind in enumerate(kinds)}
    ticks = [(at, kind if len(kind) <= 14 else f"{kind[:12]}...") for kind, at in places.items()]
    return lambda value: places[str(value)], ticks


def _share(metric):
    return metric.endswith("accuracy")


def _named(metric):
    return metric.replace("_", " ") + (" (%)" if _share(metric) else "")


def _dress(axes):
    axes.tick_params(labelsize=10, color=AXIS[0])
    axes.grid(color=GRID[0], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(AXIS[0])


def table_rows(rows) -> list[dict[str, Any]]:
    """Trials as `search.json` has them, with a column for each hyperparameter."""
    table = []
    for row in rows:
        facts = {key: value for key, value in row.items() if key != "values"} | row["values"]
        if "warnings" in facts:
            facts["warnings"] = "; ".join(facts["warnings"])
        table.append(facts)
    return table


def best_first(rows, direction) -> list[Mapping[str, Any]]:
    """The trials that have a score, the best first; after them those of Hyperband's short trainings
    that did not go on, which have seen fewer steps."""
    sign = -1 if direction == "max" else 1
    done = [row for row in rows if "score" in row]
    return sorted(done, key=lambda row: (not row["complete"], sign * row["score"]))
