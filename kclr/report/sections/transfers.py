"""What the report shows of a transfer experiment: its tables, charts, and first layers."""

import base64
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from kclr.errors import RunError
from kclr.report.sections import (
    NOTHING,
    Names,
    Section,
    copy_picture,
    hardware,
    mean_and_spread,
    versions,
    without,
)
from kclr.runs.paths import write_csv
from kclr.runs.records import read_results
from kclr.runs.run import Run, labels_used, load_run
from kclr.runs.safe_reading import sha256
from kclr.spec.registry import register
from kclr.transfer import charts, claims
from kclr.transfer.summary import CONFIDENCE, REFERENCE, curves, summarize


@register("section", "transfers")
class Transfers(Section):
    """The charts and the arms' table of a transfer experiment (`kclr.runs.records.Results`)."""

    order = 10

    def read(self, path):
        if (path / "results.json").exists():
            return read_results(path / "results.json")
        if (path / "units").is_dir():
            raise RunError(
                f"{path} has no results.json: its experiment is not finished. Continue it: kclr "
                f"transfer {path / 'spec.yaml'} --out {path} --resume"
            )
        return None

    def within(self, path):
        return [
            inside
            for inside in sorted(path.iterdir())
            if inside.name[0] != "." and Run(inside).layers
        ]

    def show(self, found, path, name, folder, names):
        return _shown(path, found, folder, names)


def _shown(path: Path, results: Mapping[str, Any], folder: Path, names: Names) -> dict[str, Any]:
    name, units = results["name"], results["units"]
    rows, points = summarize(units), curves(units)
    compared = claims.measures(results)
    title = str(results.get("title") or name)
    anchor = names(name)
    look = charts.styles(list(dict.fromkeys(unit["arm"] for unit in units)))
    points = {key: curve for key, curve in points.items() if curve[0]}
    shares = {row.labels: _amount(row.labels, row.images) for row in rows}
    by_epoch = [
        (label, charts.epochs_svg(f"{anchor}-epochs-{number}", own, look, share))
        for number, (share, label) in enumerate(shares.items())
        if (own := {arm: curve for (labels, arm), curve in points.items() if labels == share})
    ]
    if by_epoch:
        charts.epochs_png(folder / f"{anchor}-accuracy-by-epoch.png", points, look, title)
    by_labels = None
    if len(shares) > 1:
        by_labels = charts.labels_svg(f"{anchor}-labels", rows, look)
        charts.labels_png(folder / f"{anchor}-accuracy-by-labels.png", rows, look, title)
    plain = [{"experiment": name} | asdict(row) for row in rows]
    epochs = [
        {"arm": arm, "labels": labels, "epoch": epoch, "mean": mean, "spread": spread}
        for (labels, arm), curve in points.items()
        for epoch, (mean, spread) in enumerate(zip(*curve, strict=True), 1)
    ]
    write_csv(folder / f"{anchor}-arms.csv", plain)
    write_csv(folder / f"{anchor}-epochs.csv", epochs)
    write_csv(folder / f"{anchor}-units.csv", [without(unit, "history") for unit in units])
    if compared:
        write_csv(folder / f"{anchor}-end-to-end.csv", [asdict(measure) for measure in compared])
    return {
        "name": name,
        "title": title,
        "anchor": anchor,
        "groups": _groups(rows, look, REFERENCE),
        "confidence": f"{100 * CONFIDENCE:g} %",
        "reference": REFERENCE,
        "repeated": any(row.repeats > 1 for row in rows),
        "by_epoch": by_epoch,
        "by_labels": by_labels,
        "legend": [(arm, look[arm]) for arm in dict.fromkeys(row.arm for row in rows)],
        "claim": claims.FINE_TUNING,
        "fine_tuning": claims.fine_tuning(rows),
        "measures": [measure.words() for measure in compared],
        "measured": claims.MEASURES,
        "layer_by_layer": claims.layer_by_layer(compared),
        "not_judged": claims.failed(results),
        "first_layers": first_layers(path, results, folder, anchor),
        "failed": [
            (unit["arm"], charts.amount(unit["labels"]), unit["seed"], unit["failed"])
            for unit in units
            if "failed" in unit
        ],
        "spec": _yaml(results.get("spec")),
        "provenance": {
            "directory": str(path),
            "versions": versions(results),
            "hardware": hardware(results),
            "seeds": ", ".join(str(seed) for seed in sorted({int(unit["seed"]) for unit in units})),
            "sha256 of results.json": sha256(path / "results.json", path),
        },
        "numbers": {**results, "arms": plain, "epochs": epochs},
    }


def _groups(rows, look, reference):
    """The arms' table: for each share of labels its words, and its rows as words."""
    ends = [
        end for row in rows for end in (row.gain, row.gain_low, row.gain_high) if end is not None
    ]
    low, high = min([0, *ends]), max([0, *ends])

    def place(value):
        return 2 + 96 * (value - low) / ((high - low) or 1)

    groups = []
    for share in dict.fromkeys(row.labels for row in rows):
        own = [row for row in rows if row.labels == share]
        missed = "not reached" if any(row.arm == reference for row in own) else NOTHING
        lines = []
        for row in own:
            bar, interval = None, NOTHING
            if row.gain is not None:
                bar = [place(0), place(row.gain), place(row.gain), place(row.gain)]
            if row.gain_low is not None:
                bar = [place(v) for v in (0, row.gain, row.gain_low, row.gain_high)]
                interval = f"{_points(row.gain_low)} to {_points(row.gain_high)}"
            lines.append(
                {
                    "arm": row.arm,
                    "style": look[row.arm],
                    "repeats": row.repeats,
                    "accuracy": mean_and_spread(row.mean, row.spread),
                    "gain": _points(row.gain),
                    "interval": interval,
                    "bar": bar,
                    "verdict": _verdict(row),
                    "seconds": f"{row.seconds:,.1f}",
                    "epochs": row.epochs_to_random_best or missed,
                }
            )
        groups.append((_amount(share, own[0].images), lines))
    return groups


def _amount(labels, images):
    words = charts.amount(labels)
    return f"{words[0].upper()}{words[1:]} ({images:,} images)"


def _verdict(row):
    if row.gain_low is None:
        return NOTHING
    if row.gain_low > 0:
        return "better"
    return "worse" if row.gain_high < 0 else "not clear"


def _yaml(spec):
    return spec and yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)


def _points(gain):
    return NOTHING if gain is None else claims.points(gain)


def first_layers(
    path: Path, results: Mapping[str, Any], folder: Path, anchor: str
) -> list[dict[str, str]]:
    """Pictures of the filters that an experiment trained or was given.

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
        copy_picture(layer, picture)
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
        # What does not exist may be a spec, whose run is in the experiment's directory.
        there = [run for run in map(Run, folders) if run.layers]
        for run in there[:1]:
            used = labels_used(run.layers)
            told = what.replace("without labels", f"with {used:,} labels") if used else what
            found.append((told, load_run(run.path)))
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
    right = f"{100 * accuracy:.1f} % of its test images correct"
    return f"{words}: the classifier trained on {data}, {right}"
