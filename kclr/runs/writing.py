"""What is written to a run: its specs, its layers one by one, and the summary that finishes it."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from kclr.errors import RunError
from kclr.runs.directories import EXPORT, LAYER, LOCK, MARKER, RUN, check_ours, contents
from kclr.runs.keys import PICTURES, Identity, Made, adopt, check_finished, from_runs, list_pictures
from kclr.runs.paths import atomic, is_there, remove, write_csv
from kclr.runs.run import (
    ARRAYS,
    METRICS,
    Run,
    TrainedLayer,
    comparable,
    write_arrays,
    write_facts,
)
from kclr.runs.safe_reading import read_bytes, sha256
from kclr.spec.schema import Spec
from kclr.version import hardware, versions


def begin(
    run: Run,
    spec: Spec,
    text: str | None,
    made: Sequence[Made],
    images: Iterable[Identity],
    bare: bool = False,
) -> "Damage":
    """Check that what the run holds is of the same spec and images, and write both down.

    Args:
        run: locked for this process. spec: from `kclr.load_spec`.
        text: the spec as the user wrote it; by default the resolved spec.
        made: what the layers depend on (see `layers_made`).
        images: what identifies those of the spec.
        bare: keep no list of the pictures.

    Returns:
        What of the run was damaged since it was written.

    Raises:
        SpecError: it holds something else.
        RunError: a file is damaged that cannot be written again.
    """
    resolved = yaml.safe_dump(spec.model_dump(mode="json"), sort_keys=False)
    check_finished(run, spec, made, images)
    damage = _damage(run, spec, bare)
    if not bare:
        list_pictures(run, images)
    # The layers below one that is trained further are there already.
    adopt(spec, run.path, [part.run for part in from_runs(spec)], made)
    run.write_text("spec.yaml", text or resolved)
    run.write_text("resolved.yaml", resolved)
    remove(run.path / "summary.json")
    return damage


@dataclass(frozen=True)
class Damage:
    """What of a run was damaged since it was written, by what `summary.json` and the finished
    layers' `layer.json` say.

    Attributes:
        layers: for each finished layer, by its directory's name, which of its files.
        others: other files, by their place in the run, and what is wrong with each.
        digests: of these the sha256 that each should have, and the one that it has.
        rows_lost: whether `metrics.jsonl` had lines that cannot be read, and that are of no
            finished layer.
    """

    layers: Mapping[str, list[str]]
    others: Mapping[str, str]
    digests: Mapping[str, tuple[str, str]]
    rows_lost: bool


def _damage(run, spec, bare) -> Damage:
    """What of a run is damaged; the rows of its finished layers in `metrics.jsonl` are put back.

    Raises:
        RunError: a `layer.json` is damaged, or `metrics.jsonl` is no file.
    """
    layers = run.layers
    try:
        told = (run.summary or {}).get("sha256") or {}
    except RunError:
        told = {}  # it is written again
    finished = {layer.directory.name: layer for layer in layers}
    # What every run writes again is not compared.
    again = ("spec.yaml", "resolved.yaml", PICTURES, METRICS)
    vouched = {
        place: digest
        for place, digest in told.items()
        if RUN.writes(place) and place not in again and not EXPORT.writes(place)
        if not place.startswith("layers/") or place.split("/")[1] in finished
    }
    for layer in layers:
        vouched |= layer.digests
    changed = dict(run.changed(vouched))
    lower: dict[str, list[str]] = {}
    for place in [place for place in changed if place.startswith("layers/")]:
        _, folder, name = place.split("/")
        if name == "layer.json":
            layer = finished[folder]
            raise RunError(
                f"{layer.directory / name}: damaged or replaced: summary.json has another sha256. "
                f"Restore the file, or remove {layer.directory} and continue with `kclr train ... "
                "--resume`."
            )
        lower.setdefault(folder, []).append(name)
        del changed[place]
    # Layers of other runs have no rows in this one.
    own_only = not bare and not from_runs(spec)
    digests = {
        place: (vouched[place], sha256(run.path / place))
        for place in changed
        if (run.path / place).is_file()
    }
    changed |= {place: f"{changed[place]}. Restore it, or remove it" for place in digests}
    rows_lost = _put_rows_back(run, spec, finished, vouched, lower, own_only)
    return Damage(lower, changed, digests, rows_lost)


def _put_rows_back(run, spec, finished, vouched, damaged, own_only) -> bool:
    """Write the rows of finished layers in `metrics.jsonl` again where they are not those of their
    histories; whether lines of others cannot be read."""
    path = run.path / METRICS
    lines = [*run.lines(METRICS)] if is_there(path) else []
    rows, put_back = [row for row in lines if row], 0
    for _, top in spec.trainings():
        name = spec.stack[top].name
        folder = run.layer_directory(top, name).name
        known = f"layers/{folder}/history.csv" in vouched
        if folder not in finished or not known or "history.csv" in damaged.get(folder, ()):
            continue
        history = finished[folder].history()
        there = [
            {key: own for key, own in row.items() if key != "layer"}
            for row in rows
            if row["layer"] == name
        ]
        if (there or own_only) and comparable(there) != comparable(history):
            rows = [row for row in rows if row["layer"] != name]
            rows += [{"layer": name, **row, "step": int(row["step"])} for row in history]
            put_back += len(history)
    if None in lines or put_back:
        order = {layer.name: index for index, layer in enumerate(spec.stack)}
        rows.sort(key=lambda row: order.get(row["layer"], len(order)))
        run.write_lines(METRICS, rows)
    # The last line may be one that was being written.
    return lines[:-1].count(None) > put_back


@contextlib.contextmanager
def writing_layer(
    run: Run, index: int, facts: Mapping[str, Any], kernel, bias, rows: Sequence[Mapping] = ()
) -> Iterator[TrainedLayer]:
    """Write a finished layer, and what the block adds to it: all of it, or nothing.

    Args:
        run: of the layer. index: from 0.
        facts: `name`, `block`, and whatever else `layer.json` shall say.
        kernel, bias: float32, see `TrainedLayer`.
        rows: of its history.
    """
    with atomic(run.layer_directory(index, facts["name"])) as temporary:
        temporary.mkdir(parents=True)
        write_arrays(temporary, kernel, bias)
        if rows:
            write_csv(temporary / "history.csv", rows)
        yield TrainedLayer(temporary, dict(facts))
        write_facts(temporary, facts)


@contextlib.contextmanager
def writing_again(layer: TrainedLayer, damaged: Iterable[str], rows) -> Iterator[TrainedLayer]:
    """Write a finished layer again of which some files are damaged, with what the block adds to it:
    its pictures.

    Args:
        layer: of a run. damaged: the names of these files. rows: of its history, if that is among
            them.

    Raises:
        RunError: its kernel or bias are damaged, or its history and the rows are; or somebody
            else's files are in its directory.
    """
    check_ours(layer.directory, LAYER)
    _ = layer.kernel, layer.bias
    with atomic(layer.directory) as temporary:
        temporary.mkdir(parents=True)
        history = "history.csv"
        for name in (*ARRAYS, history):
            if name not in damaged and (layer.directory / name).exists():
                content = read_bytes(layer.directory / name, layer.directory, None)
                (temporary / name).write_bytes(content)
        if history in damaged:
            write_csv(temporary / history, rows)
            known = layer.digests.get(f"layers/{layer.directory.name}/{history}")
            if known not in (None, sha256(temporary / history)) or not rows:
                raise RunError(
                    f"{layer.directory / history}: damaged, and so are the same rows in {METRICS}. "
                    f"Restore one of them, or remove {layer.directory} and continue with `kclr "
                    "train ... --resume`."
                )
        yield TrainedLayer(temporary, layer.facts)
        write_facts(temporary, layer.facts)


def write_summary(
    run: Run,
    seed: int,
    images: Mapping[str, Any] | None = None,
    damaged: Mapping[str, tuple[str, str]] | None = None,
) -> None:
    """Write the summary, which makes the run finished.

    Args:
        run: with all its layers. seed: of the run.
        images: for each source of files by name, which of them are used and which are left out.
        damaged: `Damage.digests`: a file that is still damaged is not vouched for.
    """
    damaged = damaged or {}
    digests = {
        place: sha256(run.path / place)
        for place in sorted(contents(run.path, RUN)[0])
        if place[-1] != "/"
        and place not in (LOCK, MARKER, "summary.json")
        and not place.startswith("exports/")
    }
    for place, (right, wrong) in damaged.items():
        if digests.get(place) == wrong:
            digests[place] = right
    summary = {
        "versions": versions(),
        "hardware": hardware(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": seed,
        **({} if images is None else {"images": dict(images)}),
        "layers": [
            {"name": layer.name, "kernel_shape": list(layer.kernel.shape)}
            | {
                key: value
                for key, value in layer.facts.items()
                # The digests stand below, of all files.
                if key not in ("name", "block", "sha256", "made_of")
            }
            for layer in run.layers
        ],
        "sha256": digests,
    }
    run.write_text("summary.json", json.dumps(summary, indent=2) + "\n")
