"""What the report shows of a run: its filters, learning curves and origin."""

import base64
from pathlib import Path
from typing import Any

from kclr.drawing.curves import curves_png, history_svgs
from kclr.report.sections import (
    NOTHING,
    Names,
    Section,
    copy_picture,
    hardware,
    versions,
    without,
)
from kclr.runs.paths import write_csv
from kclr.runs.run import Run, labels_used, load_run
from kclr.runs.safe_reading import read_bytes
from kclr.spec.registry import register


@register("section", "runs")
class Runs(Section):
    """The filters and the learning curves of a run, finished or not."""

    order = 80

    def read(self, path):
        return load_run(path) if path.is_dir() else None

    def show(self, found, path, name, folder, names):
        return _shown(found, name, folder, names)


def _shown(run: Run, name: str, folder: Path, names: Names) -> dict[str, Any]:
    run.check_arrays()
    summary, trained = run.summary, run.layers
    anchor = names(name)
    layers = []
    for layer in trained:
        place = names(f"{anchor}-{layer.directory.name}")
        height, width, channels, filters = layer.kernel.shape
        history = layer.history()
        picture = folder / f"{place}-filters.png"
        drawn = copy_picture(layer, picture, run.series)
        size = f"{width:,} samples" if run.series else f"{height}x{width} px"
        if history:
            kept = read_bytes(layer.directory / "history.csv", run.path)
            (folder / f"{place}-history.csv").write_bytes(kept)
            curves_png(folder / f"{place}-curves.png", history, f"{name}, {layer.name}: training")
        layers.append(
            {
                "name": layer.name,
                "filters": base64.b64encode(picture.read_bytes()).decode(),
                "what": f"{filters:,} filters of {size} on {channels:,} channel"
                + "s" * (channels != 1),
                "drawn": drawn,
                "components": channels not in (1, 3) and not run.series,
                "zero": "the gray line is 0" if run.series else "zero is mid-gray",
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
        "title": name,
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


def _fact(key, form):
    """The column of a layer's table that shows a fact, where the layer has it."""

    def words(layer):
        value = layer.facts.get(key)
        return NOTHING if value is None else format(value, form)

    return words


def _labels(layer):
    used = labels_used([layer])
    return f"{used:,}" if used else NOTHING


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
    "labels used": _labels,
    "probe": _fact("probe_accuracy", ".1%"),
    "probing, s": _fact("probe_seconds", ",.1f"),
}


def _told(lines):
    """The columns of the layers' table in which some layer says something, and their cells."""
    told = [any(cell != NOTHING for cell in column) for column in zip(*lines, strict=True)]
    columns = [name for name, some in zip(LAYER_COLUMNS, told, strict=True) if some]
    cells = [[cell for cell, some in zip(line, told, strict=True) if some] for line in lines]
    return columns, cells
