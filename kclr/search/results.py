"""The results of a search: a table, a plot, and the best trial's spec."""

import json
from pathlib import Path
from typing import Any

from keras_tuner.engine.trial import TrialStatus

from kclr.runs.paths import atomic, write_csv
from kclr.runs.records import TunersTrial, read_record
from kclr.runs.run import Run
from kclr.search.plots import best_first, front, short_names, table_rows, trials_png
from kclr.search.space import Stage, with_values, yaml_of
from kclr.search.tuner import RESTORE, result_of
from kclr.spec.schema import Spec
from kclr.spec.search import rounded
from kclr.spec.wording import printable
from kclr.version import hardware, versions

SHOWN = 10  # trials in the printed table
WIDE = 200  # characters of a line, where there is no terminal to end it


def rows_of(stage: Stage, own: Path) -> list[dict[str, Any]]:
    """The trials of a stage, in the order in which they began.

    Returns:
        Dictionaries with layer, trial, status, `values` by key path, and where it has ended with
        score, seconds, steps, complete and further metrics, or with `failed`, the reason.
    """
    rows = []
    for path in sorted(own.glob("trial_*/trial.json")):
        trial = read_record(path, TunersTrial, own, "kclr search", RESTORE)
        values = trial["hyperparameters"]["values"]
        ended = trial["status"] in (TrialStatus.COMPLETED, TrialStatus.FAILED)
        rows.append(
            {
                "layer": stage.name,
                "trial": trial["trial_id"],
                "status": trial["status"],
                "values": {path: rounded(values[path]) for path in stage.paths if path in values},
                **(result_of(own, trial["trial_id"]) if ended else {}),
            }
        )
    return rows


def best_of(oracle) -> dict[str, Any] | None:
    """Number, values and score of the best trial; None where none has succeeded."""
    done = [t for t in oracle.trials.values() if t.status == TrialStatus.COMPLETED]
    if not done:
        return None
    best = min(done, key=oracle.order_of)
    values = {
        path: rounded(value)
        for path, value in best.hyperparameters.values.items()
        if not path.startswith("tuner/")
    }
    return {"trial": best.trial_id, "values": values, "score": best.score}


def write_results(run: Run, spec: Spec, plain: dict[str, Any], found) -> dict[str, Any]:
    """Write `best.yaml`, `search.json`, `trials.csv` and `trials.png` to a search's directory.

    Args:
        run: the directory. spec: the spec, plain: its plain value.
        found: for each stage itself, its directory and its best trial.

    Returns:
        What `search.json` says: `name`, `objective`, `rows` of all stages (see `rows_of`), `best`
        for each stage, `spec`, `versions` and `hardware`.
    """
    search = spec.search
    assert search
    best = plain
    for _, _, own in found:
        best = with_values(best, search, own["values"])
    figures = "; ".join(
        f"{stage.name}: {search.objective.metric} {own['score']:.6g} (trial {own['trial']})"
        for stage, _, own in found
    )
    run.write_text("best.yaml", f"# The best of a search. {figures}.\n{yaml_of(best)}")
    rows = [row for stage, own, _ in found for row in rows_of(stage, own)]
    written = {
        "name": spec.name or run.path.resolve().name,
        "objective": {"metric": search.objective.metric, "direction": search.objective.better},
        "rows": rows,
        "best": [{"layer": stage.name, **own} for stage, _, own in found],
        "spec": spec.model_dump(mode="json"),
        "versions": versions(),
        "hardware": hardware(),
    }
    with atomic(run.path / "trials.csv") as temporary:
        write_csv(temporary, table_rows(rows))
    trials_png(run.path / "trials.png", written)
    run.write_text("search.json", json.dumps(written, indent=1) + "\n")  # it makes it finished
    return written


def print_results(written: dict[str, Any], out: Path) -> None:
    """The table of a search, and where its files are."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    metric, direction = written["objective"]["metric"], written["objective"]["direction"]
    for best in written["best"]:
        rows = [row for row in written["rows"] if row["layer"] == best["layer"]]
        done = best_first(rows, direction)
        paths = list(dict.fromkeys(path for row in rows for path in row["values"]))
        cheap = front(done, direction)
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        words = f"{best['layer']}: {len(done)} of {len(rows)} trials succeeded"
        console.print(words, style="bold", highlight=False)
        # They differ where a search goes on with the better ones of several short trainings.
        steps = ["steps"] if len({row.get("steps") for row in done}) > 1 else []
        for column in ("trial", metric, "seconds", *steps):
            width = max(len(word) for word in (*column.split("_"), "0.0000"))
            table.add_column(column.replace("_", " "), justify="right", min_width=width)
        for name in short_names(paths):
            table.add_column(name.replace("_", " "), overflow="fold", min_width=5)
        for row in done[:SHOWN]:
            mark = "*" if row in cheap else ""
            table.add_row(
                f"{mark}{row['trial']}",
                f"{row['score']:.4g}",
                f"{row['seconds']:,.1f}",
                *(f"{row[key]:,.0f}" if key in row else "-" for key in steps),
                *(_shown(row["values"].get(path)) for path in paths),
            )
        console.print(table, highlight=False)
        console.print("* no other trial was as good in less time", highlight=False)
        failed: dict[str, list[str]] = {}
        for row in rows:
            if "failed" in row:
                failed.setdefault(" ".join(row["failed"].split()), []).append(row["trial"])
        for reason, trials in failed.items():
            words = printable(f"failed ({', '.join(trials)}): {reason}")
            console.print(words, highlight=False)
    print(f"\nthe best   kclr train {out / 'best.yaml'}")
    print(f"all        {out / 'trials.csv'}, {out / 'trials.png'}")
    print(f"a page     kclr report {out}")


def _shown(value):
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else printable(value)
