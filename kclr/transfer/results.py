"""The directory of a transfer experiment, and its results as JSON, CSV and a text table."""

import csv
import functools
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kclr.errors import RunError, SpecError, reason
from kclr.runs import records
from kclr.runs.directories import TRACE, write_trace
from kclr.runs.paths import atomic
from kclr.runs.run import Run
from kclr.spec.wording import printable
from kclr.transfer import claims
from kclr.transfer.arms import arms
from kclr.transfer.charts import amount
from kclr.transfer.progress import describe, failure
from kclr.transfer.summary import Row, summarize

_COLUMNS = (
    "arm", "labels", "images", "seed", "accuracy", "seconds", "parameters", "trained_parameters",
    "failed",
)  # fmt: skip


NOTE = """\
accuracy  on the test images after the last epoch: mean ± standard deviation over repeats
gain      over the random start of the same repeat, in points, with 95 % confidence interval
epochs    until the mean is as good as the random start's best epoch
seconds   of training, without testing"""


class Results(Run):
    """The directory that an experiment is written to. Its files are written atomically."""

    def unit_path(self, arm, labels, seed) -> Path:
        """Where a finished or failed unit is kept."""
        amount = f"{labels:g}" if float(f"{labels:g}") == labels else repr(labels)
        return self.path / "units" / slug(arm) / f"labels-{amount}" / f"seed-{seed}.json"

    def write_failure(self, unit, path, error):
        """Say in a unit why it failed; the trace is kept beside it, where kclr's own words end."""
        unit["failed"] = reason(error)
        trace = path.with_suffix(f".{TRACE}")
        if not isinstance(error, (SpecError, RunError)) and write_trace(trace, error):
            unit["trace"] = trace.relative_to(self.path).as_posix()

    def unit(self, arm, labels, seed) -> dict[str, Any] | None:
        """A unit that is on disk; None where there is none.

        Raises:
            RunError: it cannot be read.
        """
        path = self.unit_path(arm, labels, seed).relative_to(self.path)
        return self.read_json(path, records.Unit)

    def read_json(self, path, kind: type[records.Record]) -> dict[str, Any] | None:
        """What a file of the directory holds, which is of this kind; None where there is none.

        Raises:
            RunError: it cannot be read.
        """
        path = self.path / path
        if not path.exists():
            return None
        return records.read_record(
            path,
            kind,
            self.path,
            "kclr transfer",
            "Remove it, and continue with resume=True (--resume).",
        )

    def write_json(self, path, value):
        """Write a value to a file of the directory."""
        with atomic(self.path / path) as file:
            file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def write_results(self, results):
        """Write `results.json` and `results.csv`."""
        with atomic(self.path / "results.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(results["units"])
        self.write_json("results.json", results)  # it makes the experiment finished


def slug(name) -> str:
    """A name as a directory is called, no two alike: letters, digits and hyphens, with a hash where
    several names have the same ones.

    "kclr fine-tuned" becomes kclr-fine-tuned. Without a hash are the names of kclr's own arms, and
    words in small letters with spaces between them.
    """
    plain = _plain(name)
    if name == _own_names().get(plain, plain.replace("-", " ")):
        return plain
    return f"{plain[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _plain(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


@functools.cache
def _own_names():
    """kclr's own arms by their plain names."""
    own = (each for each in arms().values() if each.__module__.startswith(arms.__module__))
    return {_plain(each.name): each.name for each in own}


def load_results(path) -> dict[str, Any]:
    """What `results.json` of an experiment's directory says.

    Raises:
        RunError: there is none.
    """
    file = Path(path) / "results.json"
    if not file.exists():
        raise RunError(
            f"{path} is not a finished experiment: it has no results.json. Create one with `kclr "
            f"transfer SPEC --out {path}`, or continue an interrupted one with resume=True "
            "(--resume)."
        )
    return records.read_results(file)


def failures(results) -> list[dict[str, Any]]:
    """The units that failed."""
    return [unit for unit in results["units"] if "failed" in unit]


def print_results(results) -> None:
    """Print the table of an experiment, and what failed and why.

    Args:
        results: as in `results.json`.
    """
    width = None if sys.stdout.isatty() else 100
    console = Console(highlight=False, soft_wrap=True, width=width, markup=False, emoji=False)
    console.print(printable(results["title"]))
    rows = summarize(results["units"])
    for labels in dict.fromkeys(row.labels for row in rows):
        console.print(results_table([row for row in rows if row.labels == labels]))
    if rows:
        console.print(NOTE)
    gap = claims.fine_tuning(rows)
    if gap:
        console.print(f"\n{claims.FINE_TUNING}", *(f"  {line}" for line in gap), sep="\n")
    compared = claims.measures(results)
    if compared:
        console.print(end_to_end_table(compared))
        said = [*claims.layer_by_layer(compared), *claims.failed(results)]
        console.print(claims.MEASURES, *map(printable, said), sep="\n")
    lost = failures(results)
    for unit in lost:
        console.print(printable(f"failed: {describe(unit)}: {failure(unit)}"))
    if lost or claims.failed(results):
        console.print("Retry the failed ones with resume=True (--resume).")


def results_table(rows: list[Row]) -> Table:
    """Rows of `summarize` for one amount of labels as a table."""
    table = Table(title=_amount(rows[0]), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("start", no_wrap=True)
    for heading in ("accuracy, %", "gain", "epochs", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        reached = row.epochs_to_random_best
        epochs = "never" if reached is None else str(reached)
        table.add_row(printable(row.arm), _accuracy(row), _gain(row), epochs, f"{row.seconds:.1f}")
    return table


def end_to_end_table(measures) -> Table:
    """A comparison of layer by layer and end to end (see `kclr.transfer.claims.measures`)."""
    title = "layer by layer and end to end"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("layer by layer", "end to end", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    for measure in measures:
        table.add_row(*measure.words())
    return table


def _amount(row):
    return f"{amount(row.labels)}: {row.images:,} images"


def _accuracy(row):
    mean = f"{100 * row.mean:.1f}"
    return mean if row.spread is None else f"{mean} ± {100 * row.spread:.1f}"


def _gain(row):
    return "" if row.gain is None else claims.points(row.gain, row.gain_low, row.gain_high)
