"""What the report shows of a search: the trials in pictures and as a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from kclr.errors import RunError
from kclr.report.sections import NOTHING, Names, Section, hardware, versions
from kclr.runs.paths import write_csv
from kclr.runs.records import read_search
from kclr.runs.safe_reading import sha256
from kclr.search.plots import (
    SHOWN_BEST,
    best_first,
    coordinates_svg,
    seconds_svg,
    short_names,
    table_rows,
    trials_png,
)
from kclr.spec.registry import register
from kclr.spec.wording import printable


@register("section", "searches")
class Searches(Section):
    """The trials of a search (`kclr.runs.records.Search`)."""

    order = 20

    def read(self, path):
        if (path / "search.json").exists():
            return read_search(path / "search.json")
        if (path / "search.key").is_file():
            raise RunError(
                f"{path} has no search.json: its search is not finished. Continue it: kclr search "
                f"{path / 'spec.yaml'} --out {path} --resume"
            )
        return None

    def show(self, found, path, name, folder, names):
        return _shown(path, found, folder, names)


def _shown(path: Path, found: Mapping[str, Any], folder: Path, names: Names) -> dict[str, Any]:
    name, objective = found["name"], found["objective"]
    anchor = names(name)
    stages = [
        _stage(f"{anchor}-{number}", best["layer"], found, objective)
        for number, best in enumerate(found["best"])
    ]
    rows = table_rows(found["rows"])
    trials_png(folder / f"{anchor}-trials.png", found)
    write_csv(folder / f"{anchor}-trials.csv", rows)
    return {
        "name": name,
        "title": f"Search: {name}",
        "anchor": anchor,
        "metric": objective["metric"].replace("_", " "),
        "shown": SHOWN_BEST,
        "stages": stages,
        "spec": yaml.safe_dump(found.get("spec"), sort_keys=False, allow_unicode=True),
        "provenance": {
            "directory": str(path),
            "versions": versions(found),
            "hardware": hardware(found),
            "sha256 of search.json": sha256(path / "search.json", path),
        },
        "numbers": dict(found),
    }


def _stage(anchor, layer, found, objective):
    """The pictures of one layer's trials, and its table, the best first."""
    rows = [row for row in found["rows"] if row["layer"] == layer]
    done = best_first(rows, objective["direction"])
    paths = list(dict.fromkeys(path for row in rows for path in row["values"]))
    return {
        "layer": layer,
        "seconds": seconds_svg(f"{anchor}-seconds", rows, objective, layer),
        "coordinates": coordinates_svg(f"{anchor}-values", rows, objective, layer)
        if done
        else None,
        "columns": ["trial", objective["metric"], "seconds", "steps", *short_names(paths)],
        "lines": [
            [
                row["trial"],
                f"{row['score']:.4g}",
                f"{row['seconds']:,.1f}",
                f"{row['steps']:,}" if "steps" in row else NOTHING,
                *(_words(row["values"].get(path)) for path in paths),
            ]
            for row in done
        ],
        "failed": _by_message((row["failed"], row["trial"]) for row in rows if "failed" in row),
        "warnings": _by_message(
            (message, row["trial"]) for row in rows for message in row.get("warnings", ())
        ),
    }


def _by_message(said):
    """The trials that had the same to say, and what; printable."""
    trials: dict[str, list[str]] = {}
    for message, trial in said:
        words = printable(" ".join(message.split()))
        trials.setdefault(words, []).append(printable(trial))
    return [(", ".join(dict.fromkeys(own)), words) for words, own in trials.items()]


def _words(value):
    return NOTHING if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
