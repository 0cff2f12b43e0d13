"""`labels.csv` in a folder of pictures or sounds: which file has which label.

Its columns are `file`, a path from the folder on, and `label`; and, where they are wanted, `split`
(train or test) and `group`.
"""

import csv
import difflib
import io
import os
import warnings
from collections import Counter
from typing import Any, NamedTuple

from kclr.data.census import Census
from kclr.data.class_folders import best_held_out, split_of
from kclr.data.labels import Labelled, as_classes, check_split_groups, divide
from kclr.data.source_folder import Files
from kclr.errors import RunError, SpecError
from kclr.runs.safe_reading import MOST_ROWS, read_text
from kclr.spec.wording import printable

NAME = "labels.csv"
_NEEDED, _OPTIONAL = ("file", "label"), ("split", "group")
_LISTED = 5  # names in a message


class Rows(NamedTuple):
    """What a table says of the files of a source that have a label.

    Attributes:
        numbers: int64 (files,), of the source's pictures, ascending.
        labels: int64 (files,), the class index of each.
        classes: their names.
        splits: str (files,), "train" or "test", or "" for one that is not used; None where the
            table does not divide them.
        groups: int64 (files,), or None.
        unlabelled: names of the source's files that have no label.
    """

    numbers: Any
    labels: Any
    classes: tuple[str, ...]
    splits: Any
    groups: Any
    unlabelled: list[str]


def has_table(folder) -> bool:
    """Whether a folder has a table of labels."""
    return os.path.isfile(os.path.join(os.path.expanduser(folder), NAME))


def labelled(source: Files, split, channels=None) -> Labelled:
    """The images of a split, as of `Source.labelled`.

    Raises:
        SpecError: the table has errors; the message counts all of them.
    """
    import numpy as np

    rows, place = read(source), printable(os.path.join(source.path, NAME))
    if split == "train" and rows.unlabelled:  # once for both
        count = len(rows.unlabelled)
        warnings.warn(
            f"{place}: {count:,} of the {count + len(rows.numbers):,} {source.noun} have no label "
            f"and are left out ({_few(rows.unlabelled)})",
            stacklevel=3,
        )
    images = source.model_copy(update={"channels": channels}).open()
    whole = Labelled(images, rows.labels, rows.classes, rows=rows.numbers, groups=rows.groups)
    if rows.splits is None:
        return whole.part(divide(rows.labels, split, place, rows.classes, rows.groups))
    parts = {name: whole.part(np.flatnonzero(rows.splits == name)) for name in ("train", "test")}
    if split == "test" and rows.groups is not None:
        shared = check_split_groups(parts["train"].groups, parts["test"].groups)
        if shared:
            warnings.warn(f"{place}: {shared}", stacklevel=3)
    return parts[split]


def training_rows(source: Files) -> tuple[Any, Any, tuple[str, ...]]:
    """Numbers and labels of the pictures that may be learned from, and the names of the classes.

    Raises:
        SpecError: the table has errors; the message counts all of them.
    """
    import numpy as np

    rows, place = read(source), printable(os.path.join(source.path, NAME))
    if rows.splits is None:
        kept = divide(rows.labels, "train", place, rows.classes, rows.groups)
    else:
        kept = np.flatnonzero(rows.splits == "train")
    return rows.numbers[kept], rows.labels[kept], rows.classes


def check(source: Files) -> None:
    """Refuse a table that has errors.

    Raises:
        SpecError: it has; the message counts all of them.
    """
    rows = read(source)
    if rows.splits is None:
        place = printable(os.path.join(source.path, NAME))
        divide(rows.labels, "test", place, rows.classes, rows.groups)


def read(source: Files) -> Rows:
    """Read the table in a source's folder, and compare it with the files there.

    Raises:
        SpecError: it has errors; the message counts all of them.
    """
    import numpy as np

    problem = source.problem()
    if problem:
        raise SpecError(problem)
    path = os.path.join(os.path.expanduser(source.path), NAME)
    place = printable(os.path.join(source.path, NAME))
    lines, columns = _lines(path, place)
    root = os.path.expanduser(source.path)
    pictures = [
        os.path.relpath(file, root).replace(os.sep, "/")
        for file in source._paths(Census(source.sounds))
    ]
    told = {_normal(line["file"]): line for line in lines if line["file"]}
    problems = _problems(lines, told, {*pictures}, columns, source)
    if problems:
        raise SpecError(f"{place}: {' '.join(problems)}")
    numbers = [number for number, name in enumerate(pictures) if name in told]
    used = [told[pictures[number]] for number in numbers]
    labels, classes = as_classes(np.array([line["label"] for line in used]), None, place)
    splits = groups = None
    if "split" in columns:
        found = [split_of(line["split"]) for line in used]
        judged = best_held_out(found)
        names = {"train": "train", judged: "test"}
        splits = np.array([names.get(part, "") for part in found])
        _check_splits(labels, splits, classes, place)
    if "group" in columns:
        groups = np.unique([line["group"] for line in used], return_inverse=True)[1].reshape(-1)
    unlabelled = sorted({*pictures} - {*told})
    return Rows(np.array(numbers, np.int64), labels, classes, splits, groups, unlabelled)


def _lines(path, place):
    """The rows of a table, as dictionaries with the number of their line, and its columns."""
    try:
        text = read_text(path, most=MOST_ROWS)
    except RunError as error:
        words = str(error).partition(": ")[2]
        raise SpecError(f"{place}: {words} Save it as CSV in UTF-8.") from None
    first = text.partition("\n")[0]
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), skipinitialspace=True
    )
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise SpecError(f"{place}: line {reader.line_num}: {error}. Save it as CSV.") from None
    problems = []
    for name in _NEEDED:
        if name not in header:
            there = ", ".join(map(printable, header[:8])) or "none"
            near = difflib.get_close_matches(name, header, 1, 0.65)
            cure = f"Rename {near[0]!r} to {name!r}" if near else "Name it so in the first line"
            problems.append(f"it has no column {name!r} (its columns: {there}). {cure}.")
    for name in header:
        near = difflib.get_close_matches(name, _OPTIONAL, 1, 0.75)
        if near and name not in _OPTIONAL:  # which must not be left out unnoticed
            problems.append(f"unknown column {printable(name)!r}. Did you mean {near[0]!r}?")
    twice = [name for name, count in Counter(header).items() if count > 1 and name]
    problems += [
        f"it has {header.count(name)} columns {printable(name)!r}. Keep one." for name in twice
    ]
    if problems:
        raise SpecError(f"{place}: {' '.join(problems)}")
    if not rows:
        raise SpecError(f"{place}: it has no rows. Add one for each file.")
    columns = [name for name in header if name in (*_NEEDED, *_OPTIONAL)]
    lines = []
    for number, row in rows:
        cells = dict(zip(header, map(str.strip, row), strict=False))
        lines.append({"line": number} | {name: cells.get(name, "") for name in columns})
    return lines, columns


def _problems(lines, told, pictures, columns, source):
    """What is wrong with a table's rows, each kind in words."""
    found = []

    def add(names, what, cure, noun="row"):
        if names:
            verb = "has" if len(names) == 1 else "have"
            words = f"{len(names):,} {noun}{'s' * (len(names) != 1)} {verb} {what}"
            found.append(f"{words}: {_few(names)}. {cure}")

    absent = [name for name in told if name not in pictures]
    stems = {os.path.splitext(name)[0]: name for name in pictures}
    meant = next((stems[name] for name in absent if name in stems), None)
    add(
        absent,
        f"a file that is not one of the folder's {source.noun}",
        f"Write the ending too: {printable(meant)}."
        if meant
        else "Write paths from the folder on, or remove these rows.",
    )
    counts = Counter(_normal(line["file"]) for line in lines if line["file"])
    add([n for n, c in counts.items() if c > 1], "several rows", "Keep one.", "file")
    for name, cure in (
        ("file", "Add it, or remove the row."),
        ("label", "Add it, or remove the row."),
        ("split", "Write train or test."),
        ("group", "Write one; it may be one of its own."),
    ):
        if name in columns:
            empty = [_place(line) for line in lines if not line[name]]
            add(empty, f"no {name}", cure)
    if "split" in columns:
        strange = [line for line in lines if line["split"] and not split_of(line["split"])]
        named = [f"{line['split']} in line {line['line']}" for line in strange]
        add(named, "an unknown split", "Write train or test.")
    return found


def _check_splits(labels, splits, classes, place):
    import numpy as np

    for name in ("train", "test"):
        if not (splits == name).any():
            raise SpecError(
                f"{place}: no row has the split {name}. Add some, or remove the column split to "
                "hold out a fifth of each class."
            )
    unknown = np.setdiff1d(labels[splits == "test"], labels[splits == "train"])
    if len(unknown):
        names = [classes[index] for index in unknown]
        raise SpecError(
            f"{place}: classes that only test files have: {_few(names)}. Add training files of "
            "them, or remove these test files."
        )


def _place(line):
    return f"line {line['line']}" + (f" ({line['file']})" if line["file"] else "")


def _normal(name):
    return os.path.normpath(name.replace("\\", "/")).replace(os.sep, "/")


def _few(names):
    shown = ", ".join(printable(name) for name in names[:_LISTED])
    return f"{shown}, ..." if len(names) > _LISTED else shown
