"""One page with the results of runs, transfer experiments, searches and probes, and files with its
numbers.

The page contains all its text, vector graphics and pictures: it opens from disk, without a network
and without scripts. The same inputs give the same page, byte for byte.
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kclr.drawing.figure import VARIABLES
from kclr.errors import RunError, SpecError
from kclr.report.sections import Names, Section, sections
from kclr.runs.directories import locked
from kclr.runs.paths import atomic
from kclr.runs.safe_reading import read_json
from kclr.version import __version__

NUMBERS = "numbers.json"


def write_report(paths: Iterable[Any], out="report.html") -> list[Path]:
    """Write a page about runs, transfer experiments, searches and probes.

    Next to `NAME.html`, the directory `NAME-files` has every plot as PNG, the numbers as CSV, and
    all of them in `numbers.json`. An existing report is replaced.

    Args:
        paths: directories of `kclr train`, `kclr transfer` and `kclr search`, and files of `kclr
            probe --json`. A run inside the directory of a transfer experiment is shown with it.
        out: the file to write, `NAME.html`.

    Returns:
        The files written, the page first.

    Raises:
        RunError: something in `paths` cannot be read, or a file that is not part of a report would
            be overwritten.
        SpecError: nothing to report on, or `out` is not a valid name for a page.
    """
    out = Path(out)
    beside = out.with_name(f"{out.stem}-files")
    _check_place(out, beside)
    found = _read(paths)
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.parent):  # another report of this name waits until this one is there
        _check_place(out, beside)
        return _write(out, beside, found)


def _write(out, beside, found):
    """Write the page and its files."""
    names = Names()
    shown, numbers = [], {}
    with atomic(beside) as folder:
        folder.mkdir()
        for key, (section, things) in found.items():
            made = [section.show(*thing, folder, names) for thing in things]
            numbers[key] = [part.pop("numbers") for part in made]
            shown += [(section.template, part) for part in made]
        files = sorted([path.name for path in folder.iterdir()] + [NUMBERS])
        _write_json(folder / NUMBERS, {"kclr": __version__, "files": files, **numbers})
        page = _render(beside.name, shown)
    with atomic(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return [out, *(beside / name for name in files)]


def _check_place(out, beside):
    if out.suffix.lower() not in (".html", ".htm"):
        raise SpecError(f"{out}: a report is an HTML page. Choose a name that ends in .html.")
    if out.is_dir():
        raise RunError(f"{out} is a directory. Choose another name.")
    if out.is_symlink() or (out.exists() and not _is_report(out)):
        what = "is a link" if out.is_symlink() else "is not a kclr report"
        raise RunError(f"{out} {what} and is not replaced. Move it, or choose another name.")
    if not beside.exists():
        return
    try:
        ours = {*read_json(beside / NUMBERS, beside)["files"]}
    except (RunError, KeyError, TypeError):
        ours = set()
    others = sorted(
        path.name for path in beside.iterdir() if path.name not in ours and path.name[0] != "."
    )
    if others or not ours:
        what = (
            f"contains {others[0]}, which is not part of a report"
            if others
            else ("is not part of a report")
        )
        raise RunError(
            f"{beside} {what}; this report's files would replace it. Move it, or choose another "
            "name for the report."
        )


def _is_report(page):
    """Whether a file is one that `write_report` wrote."""
    if not page.is_file():
        return False
    with page.open("rb") as file:
        return b'<meta name="generator" content="kclr' in file.read(2000)


def _read(paths):
    """For each section by its key, itself and what it shows: found, path and name of each."""
    found: dict[str, tuple[Section, list]] = {key: (own, []) for key, own in sections().items()}
    seen = set()

    def new(path):
        known = path.resolve() in seen
        seen.add(path.resolve())
        return not known

    for path in filter(new, map(Path, paths)):
        key, read = _first(found, path)
        found[key][1].append((read, path, path.resolve().name))
    inside: dict[str, list] = {key: [] for key in found}
    for section, things in found.values():
        for _, path, name in things:
            for inner in filter(new, section.within(path)):
                key, read = _first(found, inner)
                inside[key].append((read, inner, f"{name}/{inner.name}"))
    for key, own in inside.items():
        found[key][1][:0] = own
    if not any(things for _, things in found.values()):
        raise SpecError("Nothing to report on. Add a run: kclr report RUN")
    return found


def _first(found, path):
    """The section that shows a path, by name, and what it read there."""
    for key, (section, _) in found.items():
        read = section.read(path)
        if read is not None:
            return key, read
    state = "is neither a directory nor a JSON file" if path.exists() else "does not exist"
    raise RunError(
        f"{path} {state}. Use directories of `kclr train`, `kclr transfer` or `kclr search`, or "
        "files of `kclr probe --json`."
    )


def _write_json(path, values):
    path.write_text(json.dumps(_finite(values), indent=1) + "\n", encoding="utf-8")


def _finite(value):
    """Plain values without the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _render(folder, shown):
    from importlib.resources import files

    import jinja2
    from markupsafe import Markup

    made = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    plain: dict[str, Any] = {"spec": None, "digests": {}}
    parts = [
        plain | part | {"body": Markup(made.from_string(template).render(part=part))}
        for template, part in shown
    ]
    page = files("kclr.report").joinpath("page.html").read_text(encoding="utf-8")
    return made.from_string(page).render(
        version=__version__,
        variables=VARIABLES,
        names=[part["name"] for part in parts],
        folder=folder,
        parts=parts,
    )
