"""The commands that are interrupted, each on the smallest input that meets every stage of it.

`WORKS` names them. `end_of` says what a directory holds in a form that can be compared: numbers
and words exactly, without seconds; pictures and exports as far as that they are there.
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

TRAIN = """
data: {source: photos, tile: 32, limit: 200}
stack:
  - block: {filters: 8, kernel_size: 5}
    learner: {name: kmeans, windows: 2000}
  - block: {filters: 6, kernel_size: 3}
    train: {steps: 30, batch_size: 16, log_every: 4, checkpoint_seconds: 0, jit: false}
"""
TRANSFER = """
data: digits
limit: 100
test_limit: 100
pretrained: spec.yaml
classifier: {name: zhao, filters: [4, 4], dense_units: 4}
arms: [random start, kclr frozen]
labels: [2]
repeats: 2
train: {epochs: 1, batch_size: 8}
"""
PRETRAINED = """
data: {source: photos, channels: 1, tile: 32, limit: 100}
stack: [{block: {filters: 4, kernel_size: 3}, learner: {name: patches, windows: 500}}]
"""
SEARCH = """
data: {source: photos, channels: 1, tile: 32, limit: 200}
stack: [{block: {filters: 4, kernel_size: 3},
         train: {steps: 12, batch_size: 8, log_every: 3, checkpoint_seconds: 0, jit: false}}]
search: {space: {stack.0.objective.margin: {float: [0.5, 3.0]}}, tuner: random, trials: 2,
         objective: loss}
"""


@dataclass(frozen=True)
class Work:
    """A command, and how it goes on after an interruption.

    Attributes:
        name: of the command, as in the table.
        files: what lies in its directory before: names and texts.
        first: its arguments. again: those of going on.
        out: what it writes, below its directory.
        needs: the work whose end lies beside it, if any.
        left_out: what is not compared, of `out`: names that a search gives anew.
        saves: whether SIGTERM ends it with status 130 and its state saved.
    """

    name: str
    files: dict[str, str]
    first: tuple[str, ...]
    again: tuple[str, ...]
    out: str = "out"
    needs: str | None = None
    left_out: Callable[[str], bool] = lambda name: False
    saves: bool = True

    def prepare(self, place, ends):
        """Lay what the command needs into its directory.

        Args:
            place: the directory.
            ends: a directory with the uninterrupted ends of other works, by their names.
        """
        place.mkdir(parents=True)
        for name, text in self.files.items():
            (place / name).write_text(text, encoding="utf-8")
        if self.needs:
            other = WORKS[self.needs]
            shutil.copytree(ends / self.needs / other.out, place / other.out, symlinks=True)


def _work(name, spec, *words, **options):
    command = name.split()[0]
    first = (command, "spec.yaml", "--out", "out", *words)
    return Work(name, spec, first, (*first, "--resume"), **options)


def _of_trials(name):
    # Trials' directories hold keras-tuner's own files, with the times of day in them.
    return not name.startswith(("search.json", "best.yaml", "trials."))


WORKS = {
    work.name: work
    for work in (
        _work("train", {"spec.yaml": TRAIN}),
        Work(
            "train --overwrite",
            {"spec.yaml": TRAIN},
            ("train", "spec.yaml", "--out", "out", "--overwrite"),
            ("train", "spec.yaml", "--out", "out", "--resume"),
            needs="train",
        ),
        _work("train --workers 2", {"spec.yaml": TRAIN}, "--workers", "2"),
        Work(
            "transfer",
            {"transfer.yaml": TRANSFER, "spec.yaml": PRETRAINED},
            ("transfer", "transfer.yaml", "--out", "out"),
            ("transfer", "transfer.yaml", "--out", "out", "--resume"),
        ),
        _work("search", {"spec.yaml": SEARCH}, left_out=_of_trials),
        Work(
            "export",
            {},
            ("export", "out", "--out", "exported"),
            ("export", "out", "--out", "exported"),
            out="exported",
            needs="train",
            saves=False,
        ),
        Work(
            "report",
            {},
            ("report", "out", "--out", "pages/page.html"),
            ("report", "out", "--out", "pages/page.html"),
            out="pages",
            needs="train",
            saves=False,
        ),
    )
}


def end_of(work: Work, place) -> dict[str, object]:
    """What a work has written, by file, in a form that can be compared."""
    folder = Path(place) / work.out
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name == ".lock" or work.left_out(name):
            continue
        found[name] = "directory" if path.is_dir() else _content(path)
    return found


def differences(one: dict, other: dict) -> list[str]:
    """The names of the files that two ends have not in common, or not alike."""
    names = sorted(one.keys() | other.keys())
    return [name for name in names if one.get(name) != other.get(name)]


def _content(path):
    suffix = path.suffix
    try:
        if suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            return str(array.dtype), array.shape, digest
        if suffix == ".json":
            return _timeless(json.loads(path.read_text(encoding="utf-8")))
        if suffix == ".jsonl":
            lines = path.read_text(encoding="utf-8").splitlines()
            return [_timeless(json.loads(line)) for line in lines]
        if suffix == ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return [_timeless(row) for row in csv.DictReader(file)]
        if suffix == ".yaml":
            return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, EOFError, OSError, yaml.YAMLError) as error:
        return f"cannot be read: {error}"
    return "there" if path.stat().st_size else "empty"


def _timeless(value):
    """A value without what is another in every run: seconds, rates, dates, digests of such."""
    if isinstance(value, dict):
        kept = {}
        for key, inside in value.items():
            if key == "sha256" and isinstance(inside, dict):
                kept[key] = sorted(inside)
            elif isinstance(inside, dict | list):
                kept[key] = _timeless(inside)
            elif "second" not in key and key not in ("finished", "sha256", "crc32"):
                kept[key] = inside
        return kept
    return [_timeless(inside) for inside in value] if isinstance(value, list) else value
