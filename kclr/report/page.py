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
from kclr.report.searches import search_section
from kclr.report.sections import Names, probe_section, run_section
from kclr.report.transfers import transfer_section
from kclr.runs.directories import locked
from kclr.runs.paths import atomic
from kclr.runs.records import read_probe, read_results, read_search
from kclr.runs.run import Run, load_run
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
        return _write(out, beside, *found)


def _write(out, beside, transfers, searches, runs, probes):
    """Write the page and its files."""
    names = Names()
    with atomic(beside) as folder:
        folder.mkdir()
        shown = {
            "transfers": [
                transfer_section(path, results, folder, names) for path, results in transfers
            ],
            "searches": [search_section(path, found, folder, names) for path, found in searches],
            "runs": [run_section(run, name, folder, names) for run, name in runs],
            "probes": [probe_section(path, found, folder, names) for path, found in probes],
        }
        numbers = {key: [part.pop("numbers") for part in parts] for key, parts in shown.items()}
        files = sorted([path.name for path in folder.iterdir()] + [NUMBERS])
        _write_json(folder / NUMBERS, {"kclr": __version__, "files": files, **numbers})
        page = _render(folder=beside.name, **shown)
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
    """What to report on: transfer experiments and searches (path, results), runs (run, name),
    probes."""
    transfers, searches, runs, probes = [], [], [], []
    seen = set()

    def new(path):
        known = path.resolve() in seen
        seen.add(path.resolve())
        return not known

    for path in map(Path, paths):
        if path.is_file() and path.suffix == ".json":
            probes += [(path, read_probe(path))] if new(path) else []
        elif (path / "results.json").exists():
            transfers += [(path, read_results(path / "results.json"))] if new(path) else []
        elif (path / "search.json").exists():
            searches += [(path, read_search(path / "search.json"))] if new(path) else []
        elif (path / "search.key").is_file():
            raise RunError(
                f"{path} has no search.json: its search is not finished. Continue it: kclr search "
                f"{path / 'spec.yaml'} --out {path} --resume"
            )
        elif (path / "units").is_dir():
            raise RunError(
                f"{path} has no results.json: its experiment is not finished. Continue it: kclr "
                f"transfer {path / 'spec.yaml'} --out {path} --resume"
            )
        elif path.is_dir():
            runs += [(load_run(path), path.resolve().name)] if new(path) else []
        else:
            state = "is neither a directory nor a JSON file" if path.exists() else "does not exist"
            raise RunError(
                f"{path} {state}. Use directories of `kclr train`, `kclr transfer` or `kclr "
                "search`, or files of `kclr probe --json`."
            )
    runs[:0] = [
        (load_run(inside), f"{path.resolve().name}/{inside.name}")
        for path, _ in transfers
        for inside in sorted(path.iterdir())
        if inside.name[0] != "." and Run(inside).layers and new(inside)
    ]
    if not transfers + searches + runs + probes:
        raise SpecError("Nothing to report on. Add a run: kclr report RUN")
    return transfers, searches, runs, probes


def _write_json(path, values):
    path.write_text(json.dumps(_finite(values), indent=1) + "\n", encoding="utf-8")


def _finite(value):
    """Plain values without the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _render(folder, **shown):
    from importlib.resources import files

    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("kclr.report").joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        version=__version__,
        variables=VARIABLES,
        names=[part["name"] for parts in shown.values() for part in parts],
        folder=folder,
        **shown,
    )
