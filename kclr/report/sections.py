"""The report's sections about a run and a probe.

Each `..._section` writes the plots and the tables of its subject into the report's directory, and
returns what the page's template shows of it, with its plain numbers under the key `numbers`.
"""

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kclr.drawing.curves import curves_png, history_svgs
from kclr.drawing.filters import filters_png
from kclr.errors import RunError
from kclr.probing.baselines import baseline_titles
from kclr.runs.paths import write_csv
from kclr.runs.run import Run
from kclr.runs.safe_reading import read_bytes, sha256
from kclr.spec.registry import parts

NOTHING = "\N{EN DASH}"


class Names:
    """Names of files and of places in the page: plain, and no two alike."""

    def __init__(self):
        self._taken = set()

    def __call__(self, words):
        plain = re.sub(r"[^\w.-]+", "-", words).strip("-.") or "unnamed"
        name, number = plain, 1
        while name.lower() in self._taken:
            number += 1
            name = f"{plain}-{number}"
        self._taken.add(name.lower())
        return name


def run_section(run: Run, name: str, folder: Path, names: Names) -> dict[str, Any]:
    """The filters and the learning curves of a run.

    Args:
        run: finished or not. name: what the page calls it.
        folder: where plots and tables go. names: those taken in the page so far.

    Raises:
        RunError: a file of the run cannot be read.
    """
    run.check_arrays()
    summary, trained = run.summary, run.layers
    anchor = names(name)
    layers = []
    for layer in trained:
        place = names(f"{anchor}-{layer.directory.name}")
        height, width, channels, filters = layer.kernel.shape
        history = layer.history()
        picture = folder / f"{place}-filters.png"
        drawn = copy_picture(layer, picture)
        if history:
            kept = read_bytes(layer.directory / "history.csv", run.path)
            (folder / f"{place}-history.csv").write_bytes(kept)
            curves_png(folder / f"{place}-curves.png", history, f"{name}, {layer.name}: training")
        layers.append(
            {
                "name": layer.name,
                "filters": base64.b64encode(picture.read_bytes()).decode(),
                "what": f"{filters:,} filters of {height}x{width} px on {channels:,} channel"
                + "s" * (channels != 1),
                "drawn": drawn,
                "components": channels not in (1, 3),
                "panels": history_svgs(place, history, layer.name),
                "facts": [words(layer) for words in LAYER_COLUMNS.values()],
            }
        )
    columns, cells = _told([layer["facts"] for layer in layers])
    for shown, own in zip(layers, cells, strict=True):
        shown["facts"] = own
    facts = [
        {"name": layer.name, "kernel_shape": "x".join(map(str, layer.kernel.shape))}
        | without(layer.facts, "name", "block", "kernel_shape", "sha256")
        for layer in trained
    ]
    write_csv(folder / f"{anchor}-layers.csv", facts)
    provenance = {"directory": str(run.path)}
    if summary is None:
        provenance["state"] = "not finished: these are the layers that are"
    else:
        provenance |= {
            "finished": summary.get("finished", NOTHING),
            "versions": versions(summary),
            "hardware": hardware(summary),
            "seed": summary.get("seed", NOTHING),
        }
    return {
        "name": name,
        "anchor": anchor,
        "layers": layers,
        "at_once": [layer.name for layer in trained if layer.facts.get("end_to_end")],
        "columns": columns,
        "spec": run.text("resolved.yaml"),
        "provenance": provenance,
        "digests": (summary or {}).get("sha256") or {},
        "numbers": {
            "name": name,
            "layers": [layer.facts for layer in trained],
            "summary": summary,
        },
    }


def copy_picture(layer, path) -> str | None:
    """Copy the picture of a layer's filters, which its training drew with the images at hand.

    Returns:
        What the picture shows; None where there is none that says so, and the filters' weights
        were drawn.

    Raises:
        RunError: the kernel cannot be read.
    """
    from PIL import Image

    try:
        drawn = read_bytes(layer.directory / "filters.png", layer.directory)
        with Image.open(io.BytesIO(drawn), formats=("PNG",)) as picture:
            words = str(picture.info["Description"])
    except (RunError, OSError, ValueError, SyntaxError, KeyError, Image.DecompressionBombError):
        filters_png(path, layer.kernel)
        return None
    path.write_bytes(drawn)
    return f"{words}."


def _fact(key, form):
    """The column of a layer's table that shows a fact, where the layer has it."""

    def words(layer):
        value = layer.facts.get(key)
        return NOTHING if value is None else format(value, form)

    return words


LAYER_COLUMNS = {
    "layer": lambda layer: layer.name,
    "kernel": lambda layer: "x".join(map(str, layer.kernel.shape)),
    "steps": _fact("steps", ","),
    "seconds": _fact("seconds", ",.1f"),
    "patches/s": _fact("patches_per_second", ",.0f"),
    "loss": _fact("loss", ".4f"),
    "effective rank": _fact("effective_rank", ".1f"),
    "dead filters": _fact("dead_filters", ""),
    "duplicates": _fact("duplicate_filters", ""),
    "probe": _fact("probe_accuracy", ".1%"),
    "probing, s": _fact("probe_seconds", ",.1f"),
}


def _told(lines):
    """The columns of the layers' table in which some layer says something, and their cells."""
    told = [any(cell != NOTHING for cell in column) for column in zip(*lines, strict=True)]
    columns = [name for name, some in zip(LAYER_COLUMNS, told, strict=True) if some]
    cells = [[cell for cell, some in zip(line, told, strict=True) if some] for line in lines]
    return columns, cells


def probe_section(
    path: Path, found: Mapping[str, Any], folder: Path, names: Names
) -> dict[str, Any]:
    """The table of a probe.

    Args:
        path: its file. found: what it says (`kclr.runs.records.Probed`).
        folder: where the table goes. names: those taken in the page so far.
    """
    summaries = found["summaries"]
    amounts = list(dict.fromkeys((s["labels"], s["label_count"]) for s in summaries))
    cells: dict[tuple[str, str], dict[Any, str]] = {}
    for s in summaries:
        line = cells.setdefault((s["classifier"], s["features"]), {})
        line[s["labels"], s["label_count"]] = mean_and_spread(s["mean"], s["spread"])
    data = ", ".join(dict.fromkeys(s["data"] for s in summaries))
    repeats = max((s["repeats"] for s in summaries), default=0)
    columns = [
        f"{labels:g} per class ({count:,})"
        if labels > 1
        else f"{100 * labels:g} % of labels ({count:,})"
        for labels, count in amounts
    ]
    anchor = names(path.stem)
    write_csv(folder / f"{anchor}-probe.csv", summaries)
    return {
        "name": path.stem,
        "anchor": anchor,
        "data": data,
        "repeats": repeats,
        "columns": columns,
        "lines": [
            (
                filters_name(features),
                classifier_title(classifier),
                [line.get(amount, NOTHING) for amount in amounts],
            )
            for (classifier, features), line in cells.items()
        ],
        "spec": None,
        "provenance": {"file": str(path), "sha256": sha256(path)},
        "digests": {},
        "numbers": {"name": path.stem, **found},
    }


def mean_and_spread(mean, spread) -> str:
    """Shares as percent, such as "64.1 ± 0.8"; a spread that is None is left out."""
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def versions(found) -> str:
    """Versions of kclr and its dependencies, from a summary or results."""
    named = {"kclr": found["kclr"]} if "kclr" in found else {}
    named |= found.get("versions") or {}
    return ", ".join(f"{name} {version}" for name, version in named.items()) or NOTHING


def hardware(found) -> str:
    """Of a summary or of results, in words."""
    facts = found.get("hardware")
    if not facts:
        return NOTHING
    gpus = ", ".join(facts.get("gpus") or []) or "no GPU"
    return f"{facts.get('cores', '?')} cores of {facts.get('processor', '?')}, {gpus}"


def without(mapping, *keys) -> dict[str, Any]:
    """A copy without some keys."""
    return {key: value for key, value in mapping.items() if key not in keys}


def classifier_title(name: str) -> str:
    """A classifier of features for people: a readout's `title`, else what it is called."""
    return getattr(parts("readout").get(name), "title", name)


def filters_name(features: str) -> str:
    """The displayed name of a kind of filters, such as "spherical k-means, all layers"."""
    name, comma, rest = features.partition(",")
    return baseline_titles().get(name, name) + comma + rest
