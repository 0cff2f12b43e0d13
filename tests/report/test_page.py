"""The report: one file with the right numbers, that opens anywhere and trusts nobody's words."""

import base64
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import stats

from kclr.drawing.filters import filters_png
from kclr.errors import RunError, SpecError
from kclr.report import page
from kclr.report.page import write_report
from kclr.report.sections import Section
from kclr.report.tables import print_probe
from kclr.runs.directories import locked
from kclr.spec import registry

pytestmark = pytest.mark.usefixtures("without_pictures")

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }}'
NOTHING = "\N{EN DASH}"
ARMS = ("random start", "kclr frozen", "kclr fine-tuned")
SHARES = (0.01, 0.1, 1.0)


def make_run(path, layers=2, finished=True, name="conv"):
    """A run directory as `kclr train` writes it, without the training."""
    random = np.random.default_rng(0)
    path.mkdir(parents=True)
    (path / "spec.yaml").write_text("stack: []\n")
    (path / "resolved.yaml").write_text(f"name: null\nnote: {json.dumps(HOSTILE)}\n")
    channels = 3
    for number in range(1, layers + 1):
        folder = path / "layers" / f"{number:02d}-{name}{number}"
        folder.mkdir(parents=True)
        kernel = random.normal(size=(5, 5, channels, 12)).astype(np.float32)
        np.save(folder / "kernel.npy", kernel)
        np.save(folder / "bias.npy", np.zeros(12, np.float32))
        facts = {"name": f"{name}{number}", "block": {"filters": 12}, "steps": 1500}
        facts |= {"seconds": 61.25, "loss": float("nan") if number == 2 else 0.5}
        (folder / "layer.json").write_text(json.dumps(facts))
        rows = [f"{step},{1 / step},{step % 7}" for step in range(50, 1501, 50)]
        (folder / "history.csv").write_text("\n".join(["step,loss,effective_rank", *rows]) + "\n")
        channels = 12
    if finished:
        summary = {"kclr": "0.1.0", "versions": {"keras": "3.15.1"}, "seed": 11}
        summary |= {"hardware": {"processor": "x86", "cores": 2, "gpus": ["H100"]}}
        summary |= {"finished": "2026-01-02T03:04:05Z", "sha256": {"spec.yaml": "ab" * 32}}
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def make_units(arms=ARMS, shares=SHARES, seeds=3, epochs=6):
    random = np.random.default_rng(1)
    units = []
    for share in shares:
        for arm in arms:
            for seed in range(seeds):
                curve = (
                    0.6
                    + 0.1 * np.log10(share)
                    + 0.05 * min(len(arm), 20) / 10
                    + np.arange(epochs) / 50
                )
                curve += random.normal(0, 0.01, epochs)
                history = [
                    {"epoch": epoch, "loss": 1.0, "accuracy": 0.9, "test_accuracy": a, "seconds": 2}
                    for epoch, a in enumerate(curve.tolist(), 1)
                ]
                units.append(
                    {"arm": arm, "labels": share, "images": round(50_000 * share), "seed": seed}
                    | {"accuracy": history[-1]["test_accuracy"], "history": history}
                    | {"seconds": 2.0 * epochs, "parameters": 1234}
                )
    return units


def make_transfer(path, units=None, **changed):
    path.mkdir(parents=True)
    results = {"name": "small", "title": "Small protocol: 6 epochs", "spec": {"epochs": 6}}
    results |= {"units": make_units() if units is None else units, "versions": {"keras": "3.15.1"}}
    results |= {"hardware": {"processor": "x86", "cores": 2, "gpus": []}} | changed
    (path / "results.json").write_text(json.dumps(results))
    return path


def make_probe(path):
    line = {"classifier": "ridge", "data": "tfds:cifar10", "repeats": 3}
    lines = [
        ("my run", 1.0, 50_000, 0.6512, 0.0021),
        ("my run", 10, 100, 0.3, None),
        ("kmeans", 1.0, 50_000, 0.68, 0.001),
    ]
    keys = ("features", "labels", "label_count", "mean", "spread")
    summaries = [line | dict(zip(keys, values, strict=True)) for values in lines]
    path.write_text(json.dumps({"results": [], "summaries": summaries}))
    return path


class Reader(HTMLParser):
    """A page's elements, the text of its tables, and what is written outside them."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.tables, self.words = [], [], ""
        self._cell = None
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.tables[-1][-1].append(self._cell.strip())
            self._cell = None

    def handle_data(self, data):
        self.words += data
        if self._cell is not None:
            self._cell += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def everything(folder):
    """Inputs of every kind."""
    transfer = make_transfer(folder / "transfer")
    make_run(transfer / "pretrained", layers=1)
    return [transfer, make_run(folder / "a run"), make_probe(folder / "probe.json")]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def written(inputs, tmp_path_factory):
    """What a report of inputs of every kind has written: the page, and what lies beside it."""
    return write_report(inputs, tmp_path_factory.mktemp("written") / "out" / "my report.html")


# the numbers


def test_gains_and_their_intervals_are_those_of_a_paired_t_test(tmp_path):
    units = make_units()
    write_report([make_transfer(tmp_path / "t", units)], tmp_path / "report.html")
    table = Reader(tmp_path / "report.html").tables[0]
    lines = {}
    for line in table[1:]:
        if len(line) == 1:
            share = line[0]
        else:
            lines[share, line[0]] = line[1:]
    assert len(lines) == 9
    for words, share in (("10 % of the labels (5,000 images)", 0.1), ("All labels", 1.0)):
        words = next(key for key, _ in lines if key.startswith(words))

        def final(arm, share=share):
            return [u["accuracy"] for u in units if (u["arm"], u["labels"]) == (arm, share)]

        gains = 100 * np.subtract(final("kclr fine-tuned"), final("random start"))
        test = stats.ttest_1samp(gains, 0)
        low, high = test.confidence_interval(0.95)
        shown = [cell.replace("\N{MINUS SIGN}", "-") for cell in lines[words, "kclr fine-tuned"]]
        accuracy = 100 * np.mean(final("kclr fine-tuned"))
        spread = 100 * np.std(final("kclr fine-tuned"), ddof=1)
        assert shown[:2] == ["3", f"{accuracy:.1f} ± {spread:.1f}"]
        assert shown[2:4] == [f"{gains.mean():+.1f}", f"{low:+.1f} to {high:+.1f}"]
        clear = {True: "better", False: "not clear"}[bool(test.pvalue < 0.05)]
        assert shown[5:7] == [clear, "12.0"]
        assert lines[words, "random start"][2] == NOTHING


def test_numbers_beside_the_page_are_those_of_the_units(tmp_path):
    units = make_units()
    units[0]["history"][0] |= {"loss": float("inf")}
    write_report([make_transfer(tmp_path / "t", units)], tmp_path / "r.html")
    with (tmp_path / "r-files" / "small-epochs.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["epoch"] == "4"]
    assert len(lines) == 9
    for line in lines:
        values = [
            unit["history"][3]["test_accuracy"]
            for unit in units
            if (unit["arm"], unit["labels"]) == (line["arm"], float(line["labels"]))
        ]
        assert float(line["mean"]) == pytest.approx(np.mean(values))
        assert float(line["spread"]) == pytest.approx(np.std(values, ddof=1))

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    numbers = json.loads((tmp_path / "r-files" / "numbers.json").read_text(), parse_constant=refuse)
    (experiment,) = numbers["transfers"]
    assert [unit["accuracy"] for unit in experiment["units"]] == [u["accuracy"] for u in units]
    with (tmp_path / "r-files" / "small-units.csv").open(newline="") as file:
        assert [float(line["accuracy"]) for line in csv.DictReader(file)] == [
            unit["accuracy"] for unit in units
        ]


def test_a_failed_unit_is_told_with_its_reason_and_costs_nothing_else(tmp_path):
    units = make_units()
    failed = {"arm": "kclr frozen", "labels": 0.1, "seed": 2, "failed": "the loss is not finite"}
    units = [u for u in units if (u["arm"], u["labels"], u["seed"]) != ("kclr frozen", 0.1, 2)]
    write_report([make_transfer(tmp_path / "t", [*units, failed])], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    assert "kclr frozen, 10 % of the labels, seed 2: the loss is not finite" in read.words
    (line,) = [x for x in read.tables[0] if x[0] == "kclr frozen" and x[1] == "2"]
    assert "to" in line[4]


def test_an_experiment_that_failed_altogether_can_be_reported(tmp_path):
    units = [{"arm": "random start", "labels": 1.0, "seed": 0, "failed": "out of memory"}]
    for number, found in enumerate((units, [], make_units(ARMS[1:], (1.0,), 1, 1))):
        path = make_transfer(tmp_path / f"t{number}", found)
        write_report([path], tmp_path / f"{number}.html")
    words = Reader(tmp_path / "0.html").words
    assert "No unit of work has finished" in words
    assert "out of memory" in words
    # Without a random start there is nothing to gain over.
    assert Reader(tmp_path / "2.html").tables[0][2][3:5] == [NOTHING] * 2


def test_a_run_is_shown_with_its_layers_pictures_spec_and_provenance(tmp_path):
    make_run(tmp_path / "mine")
    write_report([tmp_path / "mine"], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    # What no layer says anything of has no column.
    assert read.tables[0][0] == ["layer", "kernel", "steps", "seconds", "loss"]
    assert read.tables[0][1] == ["conv1", "5x5x3x12", "1,500", "61.2", "0.5000"]
    assert read.tables[0][2][1] == "5x5x12x12"
    for words in ("seed", "11", "kclr 0.1.0, keras 3.15.1", "2 cores of x86, H100", "ab" * 32):
        assert words in read.words
    assert HOSTILE in read.words  # of the resolved spec
    labels = [drawing.get("aria-label") or "" for drawing in read.all("svg")]
    assert "conv1, loss by step: loss from 0.02 to 0.000667" in labels


def test_a_run_of_series_shows_its_filters_as_curves(tmp_path):
    run = make_run(tmp_path / "gait", layers=1)
    folder = run / "layers" / "01-conv1"
    kernel = np.random.default_rng(0).normal(size=(1, 9, 6, 12)).astype(np.float32)
    np.save(folder / "kernel.npy", kernel)
    facts = json.loads((folder / "layer.json").read_text())
    (folder / "layer.json").write_text(json.dumps(facts | {"series": True}))
    page = write_report([run], tmp_path / "page.html")[0].read_text(encoding="utf-8")
    assert "12 filters of 9 samples on 6 channels" in page
    assert "Their weights; the gray line is 0." in page
    filters_png(tmp_path / "curves.png", kernel, series=True)
    assert base64.b64encode((tmp_path / "curves.png").read_bytes()).decode() in page


def test_an_unfinished_run_shows_the_layers_that_it_has(tmp_path):
    make_run(tmp_path / "mine", finished=False)
    write_report([tmp_path / "mine"], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    assert "not finished" in read.words
    assert len(read.tables[0]) == 3


def test_a_section_of_ones_own_is_shown_between_experiments_and_runs(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._parts, "section", registry.parts("section"))

    @registry.register("section", "notes")
    class Notes(Section):
        template = "<p>{{ part.words }}</p>"

        def read(self, path):
            return (path / "note.txt").read_text() if (path / "note.txt").exists() else None

        def show(self, found, path, name, folder, names):
            (folder / "copy.txt").write_text(found)
            shown = {"name": name, "title": f"Note: {name}", "anchor": names(name)}
            return shown | {"words": found, "provenance": {"file": path}, "numbers": len(found)}

    noted = tmp_path / "noted"
    noted.mkdir()
    (noted / "note.txt").write_text(HOSTILE)
    paths = [make_run(tmp_path / "run", layers=1), noted, make_transfer(tmp_path / "experiment")]
    written = write_report(paths, tmp_path / "report.html")
    read = Reader(written[0])
    titles = [found["id"] for found in read.all("h2")]
    assert titles == ["small-heading", "noted-heading", "run-heading"]
    assert HOSTILE in read.words
    assert "Where noted comes from" in read.words
    assert tmp_path / "report-files" / "copy.txt" in written
    numbers = json.loads((tmp_path / "report-files" / "numbers.json").read_text())
    assert numbers["notes"] == [len(HOSTILE)]


def test_a_probe_is_shown_as_a_table(tmp_path):
    write_report([make_probe(tmp_path / "probe.json")], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    assert read.tables == [
        [
            ["filters", "classifier", "100 % of labels (50,000)", "10 per class (100)"],
            ["my run", "ridge", "65.1 ± 0.2", "30.0"],
            ["spherical k-means", "ridge", "68.0 ± 0.1", NOTHING],
        ]
    ]
    assert "tfds:cifar10" in read.words


def test_the_runs_of_an_experiment_are_shown_with_it_and_once(tmp_path):
    transfer = make_transfer(tmp_path / "t")
    make_run(transfer / "pretrained", layers=1)
    make_run(transfer / "supervised", layers=1)
    paths = [transfer, transfer / "supervised", str(transfer), tmp_path / "t" / ".." / "t"]
    write_report(paths, tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    assert [image["alt"].split(":")[0] for image in read.all("img")] == [
        "conv1 of t/pretrained",
        "conv1 of supervised",
    ]


def supervised_source(transfer, seed):
    """What `kclr transfer` keeps of the classifier that was trained with labels."""
    path = make_run(transfer / "supervised" / f"seed-{seed}", layers=1, name="supervised")
    file = path / "layers/01-supervised1/layer.json"
    facts = json.loads(file.read_text()) | {"data": "tfds:cifar100", "test_accuracy": 0.412}
    file.write_text(json.dumps(facts))


def test_filters_learned_without_and_with_labels_stand_side_by_side(tmp_path):
    transfer = make_transfer(tmp_path / "t")
    make_run(transfer / "pretrained", layers=1)
    make_run(transfer / "end-to-end", layers=2)
    for seed in (10, 9):
        supervised_source(transfer, seed)
    written = write_report([transfer], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    figures = [image["alt"].split(", as a grid")[0] for image in read.all("img")][:3]
    assert figures == [
        "12 filters of 5x5 px: conv1 of pretrained, learned without labels",
        "12 filters of 5x5 px: conv1 of end-to-end, learned without labels, end to end",
        "12 filters of 5x5 px: the classifier trained on tfds:cifar100, 41.2 % of its test images "
        "correct, learned with labels",
    ]
    names = {path.name for path in written}
    assert {"small-without-labels-filters.png", "small-with-labels-filters.png"} <= names


def test_a_run_that_the_experiment_was_given_stands_beside_its_supervised_filters(tmp_path):
    run = make_run(tmp_path / "mine", layers=1)
    transfer = make_transfer(tmp_path / "t", spec={"pretrained": str(run)})
    supervised_source(transfer, 0)
    write_report([transfer], tmp_path / "report.html")
    alts = [image["alt"] for image in Reader(tmp_path / "report.html").all("img")]
    assert len(alts) == 2
    assert "conv1 of mine, learned without labels" in alts[0]
    # Nothing to put beside it, where nothing was trained with labels.
    write_report(
        [make_transfer(tmp_path / "u", spec={"pretrained": str(run)})], tmp_path / "u.html"
    )
    assert Reader(tmp_path / "u.html").all("img") == []


def test_the_gap_to_the_papers_claim_is_that_of_the_arms_table(tmp_path):
    write_report([make_transfer(tmp_path / "t")], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    assert "Fine-tuned filters against a random start" in read.words
    lines = [line for line in read.tables[0] if line[0] == "kclr fine-tuned"]
    assert len(lines) == 3
    for line in lines:
        low, high = line[4].split(" to ")
        assert f"{line[3]} points [{low}, {high}]" in read.words


def test_layer_by_layer_and_end_to_end_stand_in_a_table(tmp_path):
    runs = [
        {"way": way, "seed": 0, "seconds": seconds, "patches": 4096, "hardware": None}
        | {"top_layer": 0.6, "all_layers": 0.65}
        for way, seconds in (("layer by layer", 30.0), ("end to end", 60.0))
    ]
    runs.append({"way": "end to end", "seed": 1, "failed": HOSTILE})
    found = {"probe": {"classifier": "ridge"}, "runs": runs}
    units = make_units((*ARMS, "end-to-end fine-tuned"), (1.0,))
    transfer = make_transfer(tmp_path / "t", units, end_to_end=found)
    write_report([transfer], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    table = {line[0]: line[1:] for line in read.tables[1][1:]}
    assert table["seconds of training"] == ["30.0", "60.0", "0.50 times"]
    assert table["probe, all layers"] == ["65.0", "65.0", "+0.0"]
    assert "[" in table["fine-tuned, all labels"][2]
    assert "Layer by layer is faster: 0.50 times the seconds" in read.words
    assert f"end to end, seed 1: {HOSTILE}" in read.words
    with (tmp_path / "report-files" / "small-end-to-end.csv").open(newline="") as file:
        assert [line["name"] for line in csv.DictReader(file)] == list(table)


def test_layers_that_were_trained_at_once_are_said_to_be(tmp_path):
    run = make_run(tmp_path / "mine")
    for file in run.glob("layers/*/layer.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"end_to_end": True}))
    write_report([run], tmp_path / "report.html")
    words = Reader(tmp_path / "report.html").words
    assert "seconds of the whole training in each: conv1, conv2." in words


# the file


def test_a_report_is_one_file_that_asks_the_network_for_nothing(written):
    read = Reader(written[0])
    assert not {"script", "iframe", "object", "base"} & {tag for tag, _ in read.elements}
    for tag, attributes in read.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "data"):
                local = value.startswith(("data:", "#")) or value == "my%20report-files/"
                assert local, f"{tag} {name}={value[:60]}"
    text = written[0].read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#)|https?://(?!www\.w3\.org/)", text)
    assert "default-src 'none'" in text


def test_every_plot_and_table_lies_beside_the_page(written):
    assert written[0].name == "my report.html"
    beside = written[0].parent / "my report-files"
    assert sorted(written[1:]) == sorted(beside.iterdir())
    names = {path.name for path in written[1:]}
    assert {
        "small-accuracy-by-epoch.png",
        "small-accuracy-by-labels.png",
        "small-arms.csv",
        "transfer-pretrained-01-conv1-filters.png",
        "a-run-01-conv1-filters.png",
        "a-run-02-conv2-curves.png",
        "a-run-02-conv2-history.csv",
        "a-run-layers.csv",
        "probe-probe.csv",
        "numbers.json",
    } <= names
    for path in written[1:]:
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.verify()
        elif path.suffix == ".csv":
            assert len(list(csv.reader(path.open(newline="")))) > 1
    assert 'href="my%20report-files/"' in written[0].read_text(encoding="utf-8")


def test_same_inputs_give_the_same_page(inputs, written):
    first = [path.read_bytes() for path in written]
    again = [path.read_bytes() for path in write_report(inputs, written[0])]
    assert first == again


def test_runs_of_one_name_do_not_overwrite_each_others_pictures(tmp_path):
    make_run(tmp_path / "a" / "run", layers=1)
    make_run(tmp_path / "b" / "Run", layers=1)
    written = write_report([tmp_path / "a" / "run", tmp_path / "b" / "Run"], tmp_path / "r.html")
    assert len({path.name.lower() for path in written}) == len(written)
    assert sum(path.name.endswith("filters.png") for path in written) == 2
    read = Reader(tmp_path / "r.html")
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)


def test_words_from_files_are_never_taken_for_html(tmp_path):
    units = make_units((HOSTILE, "random start"), (1.0,), 2)
    units.append({"arm": HOSTILE, "labels": 1.0, "seed": 9, "failed": HOSTILE})
    hostile = {"name": HOSTILE, "title": HOSTILE, "spec": {"a": HOSTILE}}
    hostile |= {"versions": {HOSTILE: HOSTILE}, "hardware": {"processor": HOSTILE}}
    make_transfer(tmp_path / "t", units, **hostile)
    run = make_run(tmp_path / "run", layers=1)
    facts = json.loads((run / "layers/01-conv1/layer.json").read_text()) | {HOSTILE: HOSTILE}
    (run / "layers/01-conv1/layer.json").write_text(json.dumps(facts))
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"finished": HOSTILE, "versions": {HOSTILE: HOSTILE}, "sha256": {HOSTILE: "0" * 64}}
    (run / "summary.json").write_text(json.dumps(summary))
    probe = json.loads(make_probe(tmp_path / "p.json").read_text())
    probe["summaries"][0] |= {"features": HOSTILE, "classifier": HOSTILE, "data": HOSTILE}
    (tmp_path / "p.json").write_text(json.dumps(probe))
    written = write_report([tmp_path / "t", run, tmp_path / "p.json"], tmp_path / "report.html")
    read = Reader(tmp_path / "report.html")
    assert "script" not in {tag for tag, _ in read.elements}
    assert all(image["src"].startswith("data:image/png") for image in read.all("img"))
    assert not [name for _, a in read.elements for name in a if name.startswith("on")]
    assert read.words.count(HOSTILE) > 10
    assert {path.parent for path in written[1:]} == {tmp_path / "report-files"}


def test_those_who_cannot_see_or_use_a_mouse_get_everything(written):
    read = Reader(written[0])
    assert read.all("html") == [{"lang": "en"}]
    assert all(image["alt"] for image in read.all("img"))
    for drawing in read.all("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing["aria-label"]
    assert all(cell.get("scope") for cell in read.all("th"))
    ids = {attributes["id"] for _, attributes in read.elements if "id" in attributes}
    for _, attributes in read.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name, next(iter(ids))) in ids
        if "scroll" in attributes.get("class", "").split():
            assert attributes["tabindex"] == "0"
            assert attributes["aria-label"]
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert max(np.diff(levels)) == 1


def test_the_page_calls_filters_as_the_probe_does_and_markup_is_not_obeyed(tmp_path, capsys):
    probe = json.loads(make_probe(tmp_path / "p.json").read_text())
    names = ["kmeans, all layers", "pca, power 0.5", "my run [red]\x1b[31m :smile:"]
    rows = [probe["summaries"][0] | {"features": name} for name in names]
    (tmp_path / "p.json").write_text(json.dumps(probe | {"summaries": rows}))
    write_report([tmp_path / "p.json"], tmp_path / "report.html")
    words = Reader(tmp_path / "report.html").words
    print_probe([SimpleNamespace(**row) for row in rows])
    told = " ".join(capsys.readouterr().out.split())
    for shown in ("spherical k-means, all layers", "principal components, power 0.5"):
        assert shown in words
        assert shown in told
    assert "[red]\\x1b[31m :smile:" in told


# what goes wrong


def broken_results(tmp_path):
    (make_transfer(tmp_path / "t") / "results.json").write_text('{"name": "small", "uni')
    return tmp_path / "t"


def odd_results(tmp_path):
    return make_transfer(tmp_path / "t", units=[{"arm": "a", "labels": 1.0, "seed": 0}])


def results_without_units(tmp_path):
    return make_transfer(tmp_path / "t", units=17)


def odd_comparison(tmp_path):
    return make_transfer(tmp_path / "t", end_to_end={"runs": [{"way": "end to end"}]})


def unfinished_transfer(tmp_path):
    (tmp_path / "t" / "units").mkdir(parents=True)
    (tmp_path / "t" / "spec.yaml").write_text("")
    return tmp_path / "t"


def missing(tmp_path):
    return tmp_path / "nowhere"


def empty(tmp_path):
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def odd_probe(tmp_path):
    (tmp_path / "p.json").write_text("[1, 2]")
    return tmp_path / "p.json"


def broken_probe(tmp_path):
    (tmp_path / "p.json").write_bytes(b"\xff\xfe{")
    return tmp_path / "p.json"


def without(name, text=None):
    def make(tmp_path):
        path = make_run(tmp_path / "run") / name
        path.unlink() if text is None else path.write_bytes(text)
        return tmp_path / "run"

    make.__name__ = f"run_with_{'broken' if text else 'no'}_{Path(name).name}"
    return make


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (broken_results, "results.json"),
        (odd_results, "results.json"),
        (results_without_units, "results.json"),
        (odd_comparison, "results.json"),
        (unfinished_transfer, "kclr transfer"),
        (missing, "nowhere"),
        (empty, "empty"),
        (odd_probe, "p.json"),
        (broken_probe, "p.json"),
        (without("resolved.yaml"), "resolved.yaml"),
        (without("layers/01-conv1/kernel.npy"), "kernel.npy"),
        (without("layers/01-conv1/kernel.npy", b"\x93NUMPY"), "kernel.npy"),
        (without("layers/02-conv2/history.csv"), "history.csv"),
        (without("layers/02-conv2/history.csv", b"step,loss\n1,two\n"), "history.csv"),
        (without("layers/02-conv2/layer.json", b"[]"), "layer.json"),
        (without("layers/02-conv2/layer.json", b"{"), "layer.json"),
        (without("summary.json", b"[3]"), "summary.json"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_read_is_named_with_its_cure(tmp_path, make, named):
    path = make(tmp_path)
    out = tmp_path / "out" / "report.html"
    with pytest.raises(RunError, match=re.escape(named)) as caught:
        write_report([path], out)
    message = str(caught.value)
    assert str(path) in message
    assert message.endswith((".", "--json", "--resume", f"--json > {path}"))
    assert not list(tmp_path.glob("out/*"))


def test_a_report_on_nothing_or_under_a_strange_name_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(SpecError, match="kclr report RUN"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(SpecError, match=r"ends in \.html"):
        write_report([run], tmp_path / "report.pdf")
    (tmp_path / "d.html").mkdir()
    with pytest.raises(RunError, match="directory"):
        write_report([run], tmp_path / "d.html")


def test_somebodys_files_in_the_place_of_the_pictures_are_kept(tmp_path):
    run = make_run(tmp_path / "run")
    beside = tmp_path / "report-files"
    beside.mkdir()
    with pytest.raises(RunError, match="report-files is not part of a report"):
        write_report([run], tmp_path / "report.html")
    beside.rmdir()
    write_report([run], tmp_path / "report.html")
    (beside / "thesis.txt").write_text("years")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        write_report([run], tmp_path / "report.html")
    assert (beside / "thesis.txt").read_text() == "years"


@pytest.mark.parametrize("link", [False, True])
def test_a_page_of_somebody_else_is_not_replaced(tmp_path, link):
    run = make_run(tmp_path / "run")
    page = tmp_path / "page.html"
    page.write_text("<title>my thesis</title>")
    if link:
        page.rename(tmp_path / "thesis.html")
        page.symlink_to(tmp_path / "thesis.html")
    with pytest.raises(RunError, match=r"page\.html is .* and is not replaced\. Move it"):
        write_report([run], page)
    assert page.read_text() == "<title>my thesis</title>"
    assert not (tmp_path / "page-files").exists()


def test_a_new_report_leaves_nothing_of_the_old_one(tmp_path):
    make_run(tmp_path / "long name")
    make_run(tmp_path / "short")
    write_report([tmp_path / "long name"], tmp_path / "report.html")
    written = write_report([tmp_path / "short"], tmp_path / "report.html")
    assert sorted(written[1:]) == sorted((tmp_path / "report-files").iterdir())
    assert not [path for path in written if "long" in path.name]


def test_a_report_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", layers=1)
    written = write_report([run], tmp_path / "report.html")
    before = [path.read_bytes() for path in written]

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(page, "_render", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_report([run, make_transfer(tmp_path / "t")], tmp_path / "report.html")
    assert [path.read_bytes() for path in written] == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "report-files",
        "report.html",
        "run",
        "t",
    ]


def test_two_reports_of_one_name_do_not_write_at_the_same_time(tmp_path, monkeypatch):
    run, held = make_run(tmp_path / "run", layers=1), []
    atomic = page.atomic

    def written(path):
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass
        held.append(path.name)
        return atomic(path)

    monkeypatch.setattr(page, "atomic", written)
    write_report([run], tmp_path / "report.html")
    assert held == ["report-files", "report.html"]


def test_a_report_needs_no_tensorflow(tmp_path):
    transfer = make_transfer(tmp_path / "t")
    make_run(transfer / "pretrained")
    program = f"""
import sys
from kclr.report.page import write_report
from kclr.report.tables import print_probe
assert not {{"matplotlib", "jinja2", "scipy", "PIL"}} & set(sys.modules)
write_report([{str(transfer)!r}], {str(tmp_path / "report.html")!r})
assert not {{"tensorflow", "keras", "sklearn"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=Path(page.__file__).parents[2],
        env=os.environ | {"MPLCONFIGDIR": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_spec_in_the_page_can_be_copied_out_again(tmp_path):
    spec = {"epochs": 6, "arms": ["é", HOSTILE], "rates": [0.001]}
    write_report([make_transfer(tmp_path / "t", spec=spec)], tmp_path / "report.html")
    words = Reader(tmp_path / "report.html").words
    start = words.index("epochs: 6\n")
    assert yaml.safe_load(words[start : words.index("Where small comes from")]) == spec


# a browser

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)


def browse(path, folder):
    """Open a page in a browser without a window.

    Returns:
        The page as the browser has it, and what its console said, line by line.
    """
    options = (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage "
        "--allow-file-access-from-files --enable-logging=stderr --v=0 --dump-dom"
    )
    done = subprocess.run(
        [BROWSER, *options.split(), f"--user-data-dir={folder}", path.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_a_browser_opens_the_report_without_complaint_and_no_phone_scrolls_sideways(tmp_path):
    write_report(everything(tmp_path), tmp_path / "report.html")
    widths = (360, 390, 768, 1280)
    frames = "".join(
        f'<iframe src="report.html" style="width:{width}px;height:800px;border:0"></iframe>'
        for width in widths
    )
    measure = """
    onload = () => {
      document.title = [...document.querySelectorAll("iframe")].map(frame => {
        const page = frame.contentDocument.documentElement;
        const image = frame.contentDocument.querySelector("img");
        return `${page.clientWidth}:${page.scrollWidth}:${image.naturalWidth}`;
      }).join(" ");
    };"""
    (tmp_path / "frames.html").write_text(f"<title></title>{frames}<script>{measure}</script>")
    dom, console = browse(tmp_path / "frames.html", tmp_path / "profile")
    assert console == []
    title = re.search(r"<title>(.*?)</title>", dom)[1]
    measured = [tuple(map(int, part.split(":"))) for part in title.split()]
    assert len(measured) == len(widths)
    for width, (client, scroll, image) in zip(widths, measured, strict=True):
        assert width - 20 <= client <= width  # a scroll bar may take its part
        assert scroll == client
        assert image > 0
    dom, console = browse(tmp_path / "report.html", tmp_path / "profile")
    assert console == []
    assert "Where small comes from" in dom


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_a_complaint_of_the_browser_would_be_seen(tmp_path):
    text = "<title></title><script>console.error('found it')</script>"
    (tmp_path / "page.html").write_text(text)
    _, console = browse(tmp_path / "page.html", tmp_path / "profile")
    assert len(console) == 1
    assert "found it" in console[0]


def test_a_layer_is_shown_as_its_training_drew_it_and_a_file_that_is_no_picture_is_not(
    tmp_path, two_layers
):
    run = tmp_path / "run"
    shutil.copytree(two_layers.path, run)
    folder = run / "layers" / "02-conv2"
    own = (folder / "filters.png").read_bytes()
    shown = write_report([run], tmp_path / "page.html")[0].read_text(encoding="utf-8")
    assert base64.b64encode(own).decode() in shown
    assert "image patches that excite each filter most" in shown
    (folder / "filters.png").write_bytes(b"<script>alert()</script>")
    shown = write_report([run], tmp_path / "other.html")[0].read_text(encoding="utf-8")
    assert "three principal components" in shown
