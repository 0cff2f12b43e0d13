"""What was tried and what came of it: results.json, and the table of docs/reliability.md."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- table: ./tools/faults --table -->", "<!-- end of the table -->"

# What is lost at most, by what is tried.
LOST = {
    "killed": "the steps since the last checkpoint, which are taken again",
    "a disk that is full": "the steps since the last checkpoint, which are taken again",
    "files that may not grow": "the steps since the last checkpoint, which are taken again",
    "a damaged file, then --resume": "the layer or unit of the damaged file, which is made again",
    "specs, overrides, transfer and search specs": "nothing",
    "damaged and hostile files": "what the file held",
}


def add(entries, command, wrong):
    """Add counts to results.json; those of the same fault and command are replaced.

    Args:
        entries: for each fault how often it was tried, and how often survived.
        command: that repeats it.
        wrong: what was found, in words.
    """
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    for fault, (tried, survived) in entries.items():
        rows = [row for row in rows if (row["fault"], row["command"]) != (fault, command)]
        own = {"fault": fault, "tried": tried, "survived": survived, "command": command}
        rows.append(own | {"commit": commit(), "open": wrong.get(fault, [])})
    text = json.dumps(rows, indent=1, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def commit() -> str:
    """The commit that is tried, with a plus where the working tree differs from it."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=9", "--exclude=*"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def table() -> str:
    """results.json as the table of docs/reliability.md."""
    lines = [
        "| fault | tried | survived | lost at most | command | commit |",
        "|---|---|---|---|---|---|",
    ]
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    for row in rows:
        lost = LOST[row["fault"].rpartition(": ")[2]]
        lines.append(
            f"| {row['fault']} | {row['tried']:,} | {row['survived']:,} | {lost} "
            f"| `{row['command']}` | {row['commit']} |"
        )
    return "\n".join(lines)


def write_table():
    """Write the table into docs/reliability.md."""
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    tail = rest.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table()}\n{END}{tail}", encoding="utf-8")
