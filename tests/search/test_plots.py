"""A search in pictures and in the report: the front is the front, and every trial is there."""

import json

import numpy as np
import pytest

from kclr.errors import RunError
from kclr.report.page import write_report
from kclr.search.plots import best_first, coordinates_svg, front, short_names, trials_png

GOAL = {"metric": "probe_accuracy", "direction": "max"}


def made(trials=12, seed=0):
    random = np.random.default_rng(seed)
    rows = []
    for number in range(trials):
        values = {
            "stack.1.objective.temperature": float(random.uniform(0.01, 1)),
            "stack.1.embedding.head": str(random.choice(["[]", "[64, 16]"])),
        }
        if number % 2:
            values["stack.1.train.batch_size"] = int(random.integers(8, 64))
        row = {"layer": "conv2", "trial": f"{number:02d}", "values": values}
        if number == 3:
            row |= {"status": "FAILED", "failed": "the embeddings <have> collapsed"}
        else:
            seconds, score = random.uniform(1, 9, 2)
            row |= {"status": "COMPLETED", "score": score / 10, "seconds": seconds, "steps": 20}
            row["complete"] = number != 4
        rows.append(row)
    best = {"layer": "conv2", "trial": "00", "values": {}, "score": 0.5}
    return {"name": "mine", "objective": GOAL, "rows": rows, "best": [best], "spec": {"seed": 3}}


def with_row(tmp_path, row):
    written = made(3)
    written["rows"][0] |= row
    (tmp_path / "search.json").write_text(json.dumps(written))
    return tmp_path


@pytest.mark.parametrize(
    "row",
    [
        {"score": 2**62, "trial": "[bold]\x1b[2J"},
        {"values": {"a": [1, 2], "b": float("nan"), "c": None, "d": True, "e": 10**17}},
    ],
)
def test_trials_of_unusual_values_are_shown(tmp_path, row):
    assert write_report([with_row(tmp_path, row)], tmp_path / "report.html")


@pytest.mark.parametrize(
    "row",
    [
        {"score": float("nan")},
        {"score": 0.5, "seconds": -1.0},
        {"values": []},
        {"score": 0.5, "complete": None},
        {"failed": None},
        {"layer": 3},
        {"trial": 10**4000},
    ],
)
def test_a_trial_that_no_search_writes_is_named(tmp_path, row):
    with pytest.raises(
        RunError, match=r"search\.json: (not a valid file of `kclr search`|cannot be read)"
    ):
        write_report([with_row(tmp_path, row)], tmp_path / "report.html")


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_front_is_what_no_other_trial_beats(direction):
    rows = made(60)["rows"]
    sign = 1 if direction == "max" else -1
    done = [row for row in rows if "score" in row]
    expected = [
        row
        for row in done
        if not any(
            other["seconds"] <= row["seconds"] and sign * other["score"] >= sign * row["score"]
            for other in done
            if other is not row
        )
    ]
    assert front(rows, direction) == sorted(expected, key=lambda row: row["seconds"])


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_best_stands_first_and_short_trainings_last(direction):
    ordered = best_first(made()["rows"], direction)
    assert [row["trial"] for row in ordered if not row["complete"]] == [ordered[-1]["trial"]]
    scores = [row["score"] for row in ordered[:-1]]
    assert scores == sorted(scores, reverse=direction == "max")


def test_names_are_as_short_as_tells_them_apart():
    paths = ["stack.0.train.steps", "stack.1.train.steps", "stack.1.block.filters", "seed"]
    assert short_names(paths) == ["0.train.steps", "1.train.steps", "filters", "seed"]


def test_every_trial_is_a_line_and_the_plot_is_a_picture(tmp_path):
    found = made()
    drawn = coordinates_svg("x", found["rows"], GOAL, "conv2")
    assert drawn.startswith("<svg")
    for words in ("temperature", "batch_size", "[64, 16]", "probe accuracy (%)"):
        assert words in drawn
    trials_png(tmp_path / "trials.png", found)
    assert (tmp_path / "trials.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_of_which_one_trial_succeeded_is_drawn_too(tmp_path):
    rows = made()["rows"][2:4]
    trials_png(tmp_path / "trials.png", made() | {"rows": rows})
    assert coordinates_svg("x", rows, GOAL, "conv2")


def test_the_report_shows_a_search_with_its_table_and_its_failures(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/search.json").write_text(json.dumps(made()))
    write_report([tmp_path / "s"], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "trial 03: the embeddings &lt;have&gt; collapsed" in page
    assert page.count('<th scope="row">') == 11
    assert (tmp_path / "report-files/mine-trials.png").exists()
    numbers = json.loads((tmp_path / "report-files/numbers.json").read_text())
    assert len(numbers["searches"][0]["rows"]) == 12


def test_a_search_that_is_not_finished_or_damaged_is_named_with_the_cure(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/search.key").write_text("x")
    with pytest.raises(RunError, match="not finished.*--resume"):
        write_report([tmp_path / "s"], tmp_path / "report.html")
    (tmp_path / "s/search.json").write_text("{}")
    with pytest.raises(RunError, match="not a valid file of `kclr search`"):
        write_report([tmp_path / "s"], tmp_path / "report.html")


def test_warnings_of_trials_stand_below_the_table_and_can_do_nothing(tmp_path):
    written = made(6)
    hostile = "skipped <script>alert(1)</script>\x1b[2J"
    for number, said in ((1, ["a 16-bit file"]), (2, ["a 16-bit file", hostile]), (3, [hostile])):
        written["rows"][number]["warnings"] = said  # the third failed
    (tmp_path / "search.json").write_text(json.dumps(written))
    write_report([tmp_path], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<li>trial 01, 02: a 16-bit file</li>" in page
    assert "<li>trial 02, 03: skipped &lt;script&gt;" in page
    assert "<script>alert" not in page
    assert "\x1b" not in page
