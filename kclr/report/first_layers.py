"""The first layers of a transfer experiment side by side: learned without and with labels."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kclr.report.plots import filters_png
from kclr.runs.run import Run, load_run


def first_layers(
    path: Path, results: Mapping[str, Any], folder: Path, anchor: str
) -> list[dict[str, str]]:
    """Pictures of the filters that an experiment has of its own, or was given.

    Args:
        path: its directory. results: what its `results.json` says.
        folder: where the pictures go. anchor: how their names begin.

    Returns:
        For each kind of filters `what` they are, `words` about them, and the picture, `filters`,
        as base64; the first of the repeats where each has its own. Empty where there is but one.

    Raises:
        RunError: a kernel cannot be read.
    """
    found = _runs(path, results)
    if len(found) < 2:
        return []
    shown = []
    for what, run in found:
        layer = run.layers[0]
        picture = folder / f"{anchor}-{what.replace(',', '').replace(' ', '-')}-filters.png"
        filters_png(picture, layer.kernel)
        shown.append(
            {
                "what": what,
                "words": _words(run, layer),
                "filters": base64.b64encode(picture.read_bytes()).decode(),
            }
        )
    return shown


def _runs(path, results) -> list[tuple[str, Run]]:
    spec = results.get("spec") or {}
    places = [
        ("without labels", [path / "pretrained", Path(str(spec.get("pretrained") or path))]),
        ("without labels, end to end", [path / "end-to-end"]),
        ("with labels", sorted(_within(path / "supervised"), key=_number)),
    ]
    found = []
    for what, folders in places:
        # What is not there may be a spec, whose run is in the experiment's directory.
        there = [run for run in map(Run, folders) if run.layers]
        found += [(what, load_run(run.path)) for run in there[:1]]
    return found


def _within(folder):
    return folder.iterdir() if folder.is_dir() else ()


def _number(folder):
    return len(folder.name), folder.name


def _words(run, layer):
    height, width, _, filters = layer.kernel.shape
    words = f"{filters:,} filters of {height}x{width} px"
    data, accuracy = layer.facts.get("data"), layer.facts.get("test_accuracy")
    if data is None:
        return f"{words}: {layer.name} of {run.path.name}"
    right = f"{100 * accuracy:.1f} % of its test images right"
    return f"{words}: the classifier trained on {data}, {right}"
