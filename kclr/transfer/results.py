"""The directory of a transfer experiment, and its results as JSON, CSV and a table for people."""

import csv
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from kclr.errors import RunError, SpecError
from kclr.paths import atomic
from kclr.report import claims
from kclr.report.charts import amount
from kclr.report.summary import Row, summarize
from kclr.run import Run

_COLUMNS = (
    "arm", "labels", "images", "seed", "accuracy", "seconds", "parameters", "trained_parameters",
    "failed",
)  # fmt: skip


NOTE = """\
accuracy  of the test images after the last epoch: mean ± standard deviation over repeats
gain      over the random start of the same repeat, in points, with its 95 % confidence interval
epochs    until the mean is as good as the random start's best epoch
seconds   of training, without the tests"""


class Results(Run):
    """The directory that an experiment is written to. Its files are written atomically."""

    def unit_path(self, arm, labels, seed) -> Path:
        """Where a finished or failed unit is kept."""
        return self.path / "units" / slug(arm) / f"labels-{labels:g}" / f"seed-{seed}.json"

    def unit(self, arm, labels, seed) -> dict[str, Any] | None:
        """A unit that is on disk; None where there is none.

        Raises:
            RunError: it cannot be read.
        """
        return self.read_json(self.unit_path(arm, labels, seed).relative_to(self.path))

    def read_json(self, path) -> dict[str, Any] | None:
        """What a file of the directory holds; None where there is none.

        Raises:
            RunError: it cannot be read.
        """
        path = self.path / path
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read: {error}. Remove it, and resume.") from None
        if not isinstance(value, dict):
            raise RunError(f"{path}: not as `kclr transfer` writes it. Remove it, and resume.")
        return value

    def write_json(self, path, value):
        """Write a value to a file of the directory."""
        with atomic(self.path / path) as file:
            file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

    def write_results(self, results):
        """Write `results.json` and `results.csv`."""
        self.write_json("results.json", results)
        with atomic(self.path / "results.csv") as path, path.open("w", newline="") as file:
            writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(results["units"])


def slug(name) -> str:
    """A name as a directory is called: letters, digits and hyphens; others told apart by a hash.

    "kclr fine-tuned" becomes kclr-fine-tuned.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    rest = re.sub(r"[\w ()-]", "", name)
    return (
        f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}" if rest or not plain else plain
    )


def load_results(path) -> dict[str, Any]:
    """What `results.json` of an experiment's directory says.

    Raises:
        RunError: there is none.
    """
    file = Path(path) / "results.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(
            f"{path} holds no finished experiment: it has no results.json. `kclr transfer SPEC "
            f"--out {path}` makes one; go on with one that was interrupted with --resume."
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: cannot be read: {error}.") from None


def check_key(keys, unit, where):
    """Refuse to go on with a unit that was made otherwise.

    Raises:
        SpecError: its key is none of these.
    """
    if unit.get("key") not in keys:
        raise SpecError(
            f"{where} was made with other settings, images or filters. Write to another directory "
            "with --out, or start anew with --overwrite (what is there is lost)."
        )


def reason(error) -> str:
    """An error in a line: kclr's own as it is, others with their kind."""
    words = " ".join(str(error).split())[:500]
    if isinstance(error, (SpecError, RunError)):
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def failures(results) -> list[dict[str, Any]]:
    """The units that failed."""
    return [unit for unit in results["units"] if "failed" in unit]


def print_results(results) -> None:
    """Print the table of an experiment, and what failed with the reasons.

    Args:
        results: as in `results.json`.
    """
    width = None if sys.stdout.isatty() else 100
    console = Console(highlight=False, soft_wrap=True, width=width)
    console.print(results["title"], markup=False)
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
        console.print(claims.MEASURES, *said, sep="\n", markup=False)
    lost = failures(results)
    for unit in lost:
        place = f"{unit['arm']}, labels {unit['labels']:g}, seed {unit['seed']}"
        console.print(f"failed: {place}: {unit['failed']}", markup=False)
    if lost or claims.failed(results):
        console.print("Try the failed ones again with --resume.")


def results_table(rows: list[Row]) -> Table:
    """Rows of `summarize` for one amount of labels as a table."""
    table = Table(title=_amount(rows[0]), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("start", no_wrap=True)
    for heading in ("accuracy, %", "gain", "epochs", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        reached = row.epochs_to_random_best
        epochs = "never" if reached is None else str(reached)
        table.add_row(row.arm, _accuracy(row), _gain(row), epochs, f"{row.seconds:.1f}")
    return table


def end_to_end_table(measures) -> Table:
    """Layer by layer and end to end, side by side (see `kclr.report.claims.measures`)."""
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
