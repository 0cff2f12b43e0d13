"""Whole experiments: what they hold, and that nothing in them depends on interruptions."""

import csv
import errno
import functools
import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image

from kclr.data.labels import load_labelled
from kclr.data.sources import as_images
from kclr.errors import RunError, SpecError
from kclr.events import Bars, JsonLines, Lines, Listener
from kclr.layers import stacked
from kclr.probing.baselines import baseline
from kclr.probing.probe import probe_run
from kclr.runs.records import Unit
from kclr.runs.run import load_run
from kclr.spec.registry import _parts
from kclr.spec.transfer import parse_transfer
from kclr.transfer import progress
from kclr.transfer.arms import Arm, arms
from kclr.transfer.experiment import _settled, run_experiment
from kclr.transfer.pretraining import Pretraining
from kclr.transfer.results import Results, failures, load_results, print_results, slug
from kclr.transfer.summary import summarize

pytestmark = pytest.mark.usefixtures("without_pictures")

PRETRAINING = """
data: {source: photos, limit: 1}
stack:
  - block: {filters: 6, kernel_size: 6, whitening: none}
    train: {steps: 4, batch_size: 16, jit: false}
"""
SECOND = """
  - block: {filters: 4, whitening: none}
    train: {steps: 4, batch_size: 16, jit: false}
"""
SMALL = """
data: digits
limit: 100
test_limit: 60
classifier: {name: zhao, filters: [6, 4], dense_units: 8, dropout: 0.2}
repeats: 1
train:
  epochs: 2
  batch_size: 25
  augment: [{class_name: RandomTranslation, config: {height_factor: 0.1, width_factor: 0.1}}]
"""
STARTS = SMALL + "arms: [random start, LSUV]\nlabels: [0.2, 1.0]\n"
FRESH = {"seconds", "versions", "hardware", "key"}


def experiment(text, out, overrides=(), **options):
    return run_experiment(parse_transfer(text, overrides), out, text=text, **options)


def without_times(value):
    """Results without what differs from run to run."""
    if isinstance(value, list):
        return [without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: without_times(item) for key, item in value.items() if key not in FRESH}


@pytest.fixture(scope="module")
def all_arms(tmp_path_factory):
    """An experiment with every arm, its baselines made from few patches."""
    place = tmp_path_factory.mktemp("all")
    spec = place / "layers.yaml"
    spec.write_text(PRETRAINING + SECOND)
    text = f"{SMALL}arms: [{', '.join(sorted(arms()))}]\npretrained: {spec}\nsupervised: digits\n"
    few = functools.partial(baseline, windows=2000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kclr.transfer.pretraining.baseline", few)
        return experiment(text, place / "out"), place / "out"


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    out = tmp_path_factory.mktemp("starts") / "out"
    return experiment(STARTS, out), out


@pytest.fixture
def broken_arm():
    """An arm that fails until it is mended."""
    fails = {"now": True}

    def prepare(model, start):
        if fails["now"]:
            raise KeyError("no such layer")

    _parts["arm"]["broken"] = Arm("broken", prepare, None)
    yield fails
    del _parts["arm"]["broken"]


def test_every_arm_ends_with_an_accuracy(all_arms):
    results, _ = all_arms
    assert failures(results) == []
    assert [unit["arm"] for unit in results["units"]] == sorted(arms())
    assert all(0 <= unit["accuracy"] <= 1 for unit in results["units"])
    assert len(summarize(results["units"])) == len(arms())


def test_what_is_written_is_what_is_returned(all_arms):
    results, out = all_arms
    assert load_results(out) == json.loads(json.dumps(results))
    unit = json.loads((out / "units/kclr-fine-tuned/labels-1/seed-0.json").read_text())
    assert unit.pop("made_of")  # of the file alone
    assert unit in results["units"]
    assert [row["epoch"] for row in unit["history"]] == [1, 2]
    assert unit["accuracy"] == unit["history"][-1]["test_accuracy"]
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [u["accuracy"] for u in results["units"]]


def test_the_title_states_the_protocol(all_arms):
    results, _ = all_arms
    assert "100 training and 60 test images of digits, 2 epochs, zhao" in results["title"]


def test_frozen_arms_train_fewer_weights_of_the_same_classifier(all_arms):
    units = {unit["arm"]: unit for unit in all_arms[0]["units"]}
    frozen, tuned = units["kclr frozen"], units["kclr fine-tuned"]
    assert frozen["parameters"] == tuned["parameters"] == tuned["trained_parameters"]
    moved = 6 * 6 * 6 + 6 + 3 * 3 * 6 * 4 + 4
    assert tuned["trained_parameters"] - frozen["trained_parameters"] == moved


def test_the_pretrained_spec_is_a_run_of_its_own(all_arms):
    _, out = all_arms
    kernel = np.load(out / "pretrained/layers/01-conv1/kernel.npy")
    assert kernel.shape == (6, 6, 3, 6)
    unit = json.loads((out / "units/kclr-frozen/labels-1/seed-0.json").read_text())
    assert unit["start"][0]["run_layer"] == "conv1"
    assert unit["start"][0]["frozen"]


def test_the_end_to_end_run_is_the_same_stack_trained_at_once(all_arms):
    _, out = all_arms
    run, at_once = (load_run(out / name) for name in ("pretrained", "end-to-end"))
    assert at_once.resolved["train"] == run.resolved["train"] | {"end_to_end": True}
    assert run.resolved | {"train": None} == at_once.resolved | {"train": None}
    assert [layer.facts.get("end_to_end") for layer in at_once.layers] == [True, True]
    assert (
        at_once.layers[0].facts["steps"] == sum(layer.facts["steps"] for layer in run.layers) == 8
    )
    unit = json.loads((out / "units/end-to-end-frozen/labels-1/seed-0.json").read_text())
    assert [row["run_layer"] for row in unit["start"][:2]] == ["conv1", "conv2"]


def test_both_ways_are_judged_by_the_same_probe(all_arms):
    ways = {run["way"]: run for run in all_arms[0]["end_to_end"]["runs"]}
    assert list(ways) == ["layer by layer", "end to end"]
    for run in ways.values():
        assert 0 <= run["top_layer"] <= 1
        assert 0 <= run["all_layers"] <= 1
    # Two layers of 4 steps with 16 crops of 4 patches each; the end-to-end run's 8 steps the same.
    assert {run["patches"] for run in ways.values()} == {512}


def test_the_supervised_source_is_a_run(all_arms):
    run = load_run(all_arms[1] / "supervised" / "seed-0")
    first, second = run.layers
    assert (first.kernel.shape, second.kernel.shape) == ((6, 6, 1, 6), (3, 3, 6, 4))
    assert first.bias.shape == (6,)
    assert (first.directory / "filters.png").exists()
    assert [row["epoch"] for row in first.history()] == [1, 2]
    pooled = {"kernel_size": 3, "pool_size": 2, "pool_strides": 2, "activation": "relu"}
    assert pooled.items() <= second.block.items()
    assert stacked(run.layers, 1).output_shape == (None, None, None, 4)
    assert run.summary["layers"][0]["test_accuracy"] == first.facts["test_accuracy"]


def test_what_was_made_before_is_not_made_again(all_arms, tmp_path, monkeypatch):
    """Every part of a finished experiment is kept: runs, probes, the supervised source."""
    results, out = all_arms
    copy = tmp_path / "out"
    shutil.copytree(out, copy)

    def refuse(*arguments, **options):
        raise AssertionError("made again")

    for name in ("supervised.fit", "experiment.fit", "end_to_end.stack_features"):
        monkeypatch.setattr(f"kclr.transfer.{name}", refuse)
    (copy / "units/supervised-frozen/labels-1/seed-0.json").unlink()
    text = (out / "spec.yaml").read_text()
    again = experiment(text, copy, resume=True)
    # The one unit that was missing got as far as its own training: its filters were there.
    assert [unit["failed"] for unit in failures(again)] == ["AssertionError: made again"]
    assert again["end_to_end"] == results["end_to_end"]


def test_the_table_has_a_row_for_every_arm(all_arms, capsys):
    print_results(all_arms[0])
    printed = capsys.readouterr().out
    assert "probe, all layers" in printed
    assert "a single pair shows nothing" in printed
    assert all(f" {name} " in printed for name in arms())
    assert "failed" not in printed


def test_the_same_seed_gives_the_same_numbers_whatever_runs_beside_an_arm(starts, tmp_path):
    results, _ = starts
    alone = experiment(STARTS, tmp_path / "out", ["arms=[LSUV]"])
    assert without_times(alone["units"]) == without_times(
        [unit for unit in results["units"] if unit["arm"] == "LSUV"]
    )


def test_few_labels_are_drawn_from_every_class_and_trained_as_long(starts):
    few, all_labels = (unit for unit in starts[0]["units"] if unit["arm"] == "LSUV")
    assert (few["images"], all_labels["images"]) == (20, 100)
    assert few["steps"] == all_labels["steps"] == 8


class Interrupting(Listener):
    """Ctrl-C in the middle of the third unit."""

    def __init__(self):
        self.epochs = 0

    def heard(self, event):
        self.epochs += event.name == "epoch"
        if self.epochs == 5:
            raise KeyboardInterrupt


class Counting(Listener):
    def heard(self, event):
        if event.name == "begun":
            self.kept, self.units = event.facts["kept"], []
        elif event.name == "started" and "arm" in event.facts:  # not the training of a layer
            self.units.append((event.facts["arm"], event.facts["labels"]))


def test_an_interrupted_experiment_resumes_and_ends_with_the_same_numbers(starts, tmp_path):
    results, _ = starts
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        experiment(STARTS, out, listener=Interrupting())
    assert not (out / "results.json").exists()
    counting = Counting()
    resumed = experiment(STARTS, out, resume=True, listener=counting)
    assert counting.kept == 2
    assert counting.units == [("random start", 1.0), ("LSUV", 1.0)]
    assert without_times(resumed) == without_times(results)


def test_arms_and_labels_can_be_added_to_a_finished_experiment(starts, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(starts[1], out)
    counting = Counting()
    changes = ["arms=[random frozen, LSUV, random start]", "labels=[1.0]"]
    results = experiment(STARTS, out, changes, resume=True, listener=counting)
    assert counting.units == [("random frozen", 1.0)]
    assert [unit["arm"] for unit in results["units"]] == ["random frozen", "LSUV", "random start"]


@pytest.mark.full
def test_repeats_can_be_added_and_filters_named_later(starts, tmp_path):
    """A finished random start stays what it is when the spec says more."""
    out = tmp_path / "out"
    shutil.copytree(starts[1], out)
    (tmp_path / "layers.yaml").write_text(PRETRAINING)
    changes = [
        "arms=[random start, kclr fine-tuned]",
        "labels=[0.2, 0.1]",
        "repeats=2",
        f"pretrained={tmp_path / 'layers.yaml'}",
    ]
    counting = Counting()
    results = experiment(STARTS, out, changes, resume=True, listener=counting)
    assert counting.kept == 1
    assert counting.units == [
        ("kclr fine-tuned", 0.2),
        *((arm, 0.1) for arm in ("random start", "kclr fine-tuned")),
        *((arm, 0.2) for arm in ("random start", "kclr fine-tuned")),
        *((arm, 0.1) for arm in ("random start", "kclr fine-tuned")),
    ]
    assert failures(results) == []
    assert starts[0]["units"][0] in results["units"]


@pytest.mark.full
def test_filters_that_keep_their_scale_are_another_unit(starts, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(starts[1], out)
    (tmp_path / "layer.yaml").write_text(PRETRAINING)
    text = f"{STARTS}pretrained: {tmp_path / 'layer.yaml'}\n"
    changes = ["arms=[random start, kclr fine-tuned]", "labels=[0.2]"]
    scaled = experiment(text, out, changes, resume=True)
    with pytest.raises(SpecError, match="kclr-fine-tuned.*other settings"):
        experiment(text, out, [*changes, "scale=false"], resume=True)
    unscaled = experiment(text, tmp_path / "unscaled", [*changes, "scale=false"])
    notes = [results["units"][1]["start"][0]["adaptation"] for results in (scaled, unscaled)]
    assert ["all /" in each for each in notes] == [True, False]


def test_units_of_other_settings_are_not_taken_for_those_of_the_spec(starts):
    _, out = starts
    before = (out / "resolved.yaml").read_text()
    with pytest.raises(SpecError, match="other settings"):
        experiment(STARTS, out, ["train.batch_size=20"], resume=True)
    assert (out / "resolved.yaml").read_text() == before


@pytest.mark.full
def test_a_unit_depends_on_the_images_of_its_supervised_source(tmp_path, capsys):
    other = tmp_path / "other"
    for number in range(20):
        (other / f"{number % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * number).save(other / f"{number % 2}" / f"{number}.png")
    text = f"{SMALL}arms: [supervised frozen]\nlayers: 1\nsupervised: 'folder:{other}'\n"
    first, out = experiment(text, tmp_path / "out"), tmp_path / "out"
    assert "units of" not in capsys.readouterr().out
    assert experiment(text, out, resume=True, verbose=True)["units"] == first["units"]
    assert "1 units of 2 epochs, 1 of them already finished" in capsys.readouterr().out
    Image.new("L", (8, 8), 255).save(other / "0" / "0.png")
    with pytest.raises(SpecError, match=r"supervised-frozen[^\n]*on other images"):
        experiment(text, out, resume=True)


def test_what_is_there_is_not_overwritten_by_accident(starts, tmp_path):
    _, out = starts
    with pytest.raises(RunError, match=r"a finished transfer experiment.*--resume"):
        experiment(STARTS, out)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="kclr did not create it"):
        experiment(STARTS, tmp_path, overwrite=True)
    (tmp_path / "run/layers").mkdir(parents=True)
    (tmp_path / "run/spec.yaml").write_text("a run")
    with pytest.raises(RunError, match="kclr did not create it"):
        experiment(STARTS, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run/spec.yaml").exists()


def test_an_arm_that_fails_leaves_the_others_alone_and_can_be_tried_again(
    broken_arm, tmp_path, capsys
):
    out = tmp_path / "out"
    text = f"{SMALL}arms: [random start, broken, LSUV]\nlabels: [0.2]\n"
    results = experiment(text, out, listener=Lines())
    (failed,) = failures(results)
    assert (failed["arm"], failed["failed"]) == ("broken", "KeyError: 'no such layer'")
    assert [unit["arm"] for unit in results["units"] if "accuracy" in unit] == [
        "random start",
        "LSUV",
    ]
    trace = "units/broken/labels-0.2/seed-0.error.txt"
    assert failed["trace"] == trace
    assert "in prepare" in (out / trace).read_text()
    assert f"seed 0: failed: KeyError: 'no such layer' (trace: {trace})" in capsys.readouterr().err
    print_results(results)
    assert "failed: broken, labels 0.2, seed 0: KeyError" in capsys.readouterr().out
    broken_arm["now"] = False
    counting = Counting()
    assert failures(experiment(text, out, resume=True, listener=counting)) == []
    assert counting.units == [("broken", 0.2)]
    assert not (out / trace).exists()


@pytest.mark.parametrize(
    "fails",
    [
        pytest.param("broken arm", marks=pytest.mark.full),
        "interrupted arm",
        pytest.param("full results", marks=pytest.mark.full),
    ],
)
def test_a_full_disk_or_ctrl_c_ends_an_experiment_and_what_is_finished_stays(
    broken_arm, tmp_path, monkeypatch, fails
):
    def prepare(model, start):
        if fails == "full results":
            monkeypatch.setattr("kclr.runs.paths.os.replace", full)
            return
        raise KeyboardInterrupt if fails == "interrupted arm" else full()

    def full(*arguments):
        error = OSError(errno.ENOSPC, "No space left on device")
        if arguments:
            raise error
        return error

    _parts["arm"]["broken"] = Arm("broken", prepare, None)
    out = tmp_path / "out"
    text = f"{SMALL}arms: [random start, broken, LSUV]\nlabels: [0.2]\n"
    with pytest.raises((OSError, KeyboardInterrupt)):
        experiment(text, out)
    monkeypatch.undo()
    assert [path.parts[-3] for path in out.glob("units/*/*/*")] == ["random-start"]
    assert not [*out.glob("**/.*.part*")]
    _parts["arm"]["broken"] = Arm("broken", lambda model, start: None, None)
    counting = Counting()
    assert failures(experiment(text, out, resume=True, listener=counting)) == []
    assert counting.units == [("broken", 0.2), ("LSUV", 0.2)]


def test_a_run_that_fails_to_train_fails_its_own_arms_alone(tmp_path, monkeypatch):
    spec = tmp_path / "layer.yaml"
    spec.write_text(PRETRAINING)

    def collapsed(*arguments, **options):
        raise RunError("the embeddings collapsed")

    monkeypatch.setattr("kclr.transfer.pretraining.train_run", collapsed)
    text = f"{SMALL}pretrained: {spec}\narms: [random start, kclr frozen]\n"
    results = experiment(text, tmp_path / "out")
    assert [unit.get("failed") for unit in results["units"]] == [None, "the embeddings collapsed"]


def test_arms_without_filters_are_the_same_where_the_filters_cannot_be_trained(
    tmp_path, monkeypatch
):
    """What an arm sees, and what is known of it, is that of the filters' spec."""
    images = np.random.default_rng(0).normal(900, 50, (6, 20, 20, 1)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    own = f"data: 'array:{tmp_path / 'images.npy'}'\nstack: [{{learner: random}}]"
    (tmp_path / "layer.yaml").write_text(own)
    spec = parse_transfer(f"{SMALL}pretrained: {tmp_path / 'layer.yaml'}\narms: [random start]")

    def damaged(*arguments, **options):
        raise RunError("a layer is damaged")

    monkeypatch.setattr("kclr.transfer.pretraining.train_run", damaged)
    filters = Pretraining(spec, Results(tmp_path / "out"), 1, Listener())
    assert filters.depth(0) == 1
    assert filters.scaling(0) == as_images(images).scaling()
    assert not filters.scaling(0).usual


@pytest.mark.parametrize(
    ("each", "trained"),
    [("true", [(7, "pretrained"), (8, "pretrained-1")]), ("false", [(7, "pretrained")])],
)
def test_filters_are_learned_once_or_anew_for_every_repeat(each, trained, tmp_path, monkeypatch):
    spec = tmp_path / "layer.yaml"
    spec.write_text("seed: 7\n" + PRETRAINING)
    found = []

    def recorded(spec, place, **options):
        found.append((spec.seed, place.name))
        raise RunError("enough seen")

    monkeypatch.setattr("kclr.transfer.pretraining.train_run", recorded)
    text = f"{SMALL}pretrained: {spec}\narms: [kclr frozen]\n"
    changes = ["repeats=2", f"pretrain_each_repeat={each}", "seed=5"]
    assert len(failures(experiment(text, tmp_path / "out", changes))) == 2
    assert found == trained


def test_mistakes_are_found_before_anything_is_trained(tmp_path):
    for override, words in (
        ("classifier.filter=[1, 2]", "zhao has no option 'filter'"),
        ("arms=[randm start]", "Did you mean 'random start'?"),
        ("arms=[kclr frozen]", "needs the key 'pretrained'"),
        ("data=photos", "photos"),
    ):
        with pytest.raises(SpecError, match=words.replace("?", r"\?")):
            experiment(STARTS, tmp_path / "out", [override])
    assert not (tmp_path / "out").exists()


def test_an_experiment_does_not_lie_among_its_labelled_pictures(tmp_path):
    random = np.random.default_rng(0)
    for part, count in (("train", 4), ("test", 2)):
        for name in ("cats", "dogs"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 255, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    data = f"data=folder:{tmp_path / 'pictures'}"
    inside = tmp_path / "pictures/train/out"
    with pytest.raises(RunError, match="is in the folder of training pictures"):
        experiment(STARTS, inside, [data, "limit=null", "test_limit=null"])
    assert not inside.exists()


def told(listener, unit, row):
    """A listener is told of an experiment with one finished and one failed unit."""
    place = {key: unit[key] for key in ("arm", "labels", "seed")}
    with listener:
        listener.heard(progress.preparing("reading labelled images"))
        listener.heard(progress.begun(2, 0, 2))
        listener.heard(progress.started(place))
        listener.heard(progress.epoch(place, row, 2, before=0))
        listener.heard(progress.ended(unit, 2))
        listener.heard(progress.ended(place | {"failed": "no reason"}, 4))


def test_json_lines_tell_every_epoch_and_unit(starts, capsys):
    unit = starts[0]["units"][0]
    told(JsonLines(), unit, unit["history"][0])
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events] == [
        "preparing", "begun", "started", "epoch", "unit", "failed",
    ]  # fmt: skip
    assert events[3]["test_accuracy"] == unit["history"][0]["test_accuracy"]
    assert events[4]["accuracy"] == unit["accuracy"]


def test_a_pipe_gets_a_line_for_each_unit_and_failures_go_to_standard_error(starts, capsys):
    unit = starts[0]["units"][0]
    told(Lines(), unit, unit["history"][0])
    printed = capsys.readouterr()
    _, begun, finished = printed.out.splitlines()
    assert begun == "2 units of 2 epochs"
    assert finished.startswith("random start, labels 0.2, seed 0: ")
    assert printed.err == "random start, labels 0.2, seed 0: failed: no reason\n"


def test_a_terminal_gets_a_bar_and_a_line_for_each_unit(starts, capfd):
    unit = starts[0]["units"][0]
    told(Bars(), unit, unit["history"][0])
    printed = capfd.readouterr().err
    assert "random start, labels 0.2, seed 0: " in printed
    assert "failed: no reason" in printed


SERIES = """
data: {data}
classifier: {{name: zhao, filters: [6, 4], kernel_sizes: [7, 3], dense_units: 8}}
repeats: 1
train: {{epochs: 2, batch_size: 20, min_steps: 0}}
pretrained: {spec}
supervised: {{data: {data}, limit: 20, epochs: 1}}
arms: [random start, LSUV, kclr frozen, k-means, supervised fine-tuned]
"""
SERIES_RUN = """
data: {data}
stack:
  - block: {{filters: 6, kernel_size: 7, whitening: none}}
    patches: {{max_shift: 3}}
    train: {{steps: 3, batch_size: 16, jit: false}}
"""


def test_classifiers_of_series_start_from_filters_of_series(tmp_path):
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    series = random.normal(0, 50, (60, 40, 2)).cumsum(axis=1) * (1 + labels[:, None, None])
    np.savez(tmp_path / "a.npz", x=series.astype(np.float32), y=labels)
    data, spec = f"series:{tmp_path / 'a.npz'}", tmp_path / "run.yaml"
    spec.write_text(SERIES_RUN.format(data=data))
    text = SERIES.format(data=data, spec=spec)
    results = experiment(text, tmp_path / "out")
    assert failures(results) == []
    started = {unit["arm"]: unit["start"] for unit in results["units"]}
    assert started["kclr frozen"][0]["model_layer"].endswith("conv1")
    assert "as learned" in started["kclr frozen"][0]["adaptation"]
    finished = tmp_path / "out" / "pretrained"
    assert load_run(finished).series
    # The same from the finished run, on labelled series with options; these are kept.
    own = f"{{source: '{data}', channels_first: false}}"
    changed = [f"data={own}", f"pretrained={finished}", "arms=[random start, kclr fine-tuned]"]
    again = experiment(text, tmp_path / "again", changed)
    assert failures(again) == []
    assert again["spec"]["data"] == {"source": data, "channels_first": False}
    assert f"test images of {data}" in again["title"]
    # What was learned with labels is a run of series, too.
    learned = load_run(tmp_path / "out" / "supervised" / "seed-0")
    assert (learned.series, learned.scaling) == (True, load_run(finished).scaling)
    assert probe_run(learned, data, classifiers=["ridge"])[0].label_count == 48
    first = {(unit["arm"], unit["seed"]): unit["accuracy"] for unit in results["units"]}
    assert again["units"][0]["accuracy"] == first["random start", 0]
    with pytest.raises(SpecError, match="applications:VGG16 is for images, not for series"):
        experiment(text, tmp_path / "out", ["classifier=applications:VGG16"])
    with pytest.raises(SpecError, match="'digits' is of images, but the filters were learned from"):
        experiment(text, tmp_path / "out", ["data=digits"])


def test_convolutions_of_a_conv1d_classifier_are_written_as_those_of_series(tmp_path):
    import keras

    from kclr.transfer.arms import first_convolutions
    from kclr.transfer.supervised import _block

    layers = [
        keras.Input((1, 40, 2)),
        keras.layers.Reshape((40, 2)),
        keras.layers.Conv1D(6, 7, strides=2),
        keras.layers.ReLU(),
        keras.layers.MaxPooling1D(3, 2),
        keras.layers.Conv1D(6, 1),
        keras.layers.Conv1D(8, 3),
    ]
    model = keras.Sequential(layers)
    first, second = first_convolutions(model, 5)
    assert (first.filters, second.filters) == (6, 8)
    block = _block(model, first)
    assert (block["kernel_size"], block["strides"]) == ([1, 7], [1, 2])
    assert (block["pool_size"], block["pool_strides"]) == ([1, 3], [1, 2])
    assert block["activation"] == "relu"


def test_limited_images_are_drawn_from_every_class(starts):
    from kclr.transfer.pretraining import labelled

    training, test = labelled("digits", 50, None, seed=0)
    assert np.bincount(training.labels).tolist() == [5] * 10
    assert len(test) == len(load_labelled("digits", "test"))


@pytest.mark.parametrize(
    ("name", "directory"),
    [("kclr fine-tuned", "kclr-fine-tuned"), ("whitening (ZCA)", "whitening-zca")],
)
def test_directories_are_called_as_the_arms_are(name, directory):
    assert slug(name) == directory


def test_arms_with_like_names_have_directories_of_their_own():
    names = ["a b", "a/b", "a.b", "../a b", "ä b", "a-b", "A b", "a  b", "a (b)", "a b "]
    names += ["k-means", "K means", "k means", "K-Means", "kclr fine-tuned", "kclr-fine tuned"]
    assert len({slug(name) for name in names}) == len(names)


def test_amounts_that_look_alike_have_files_of_their_own():
    amounts = [0.1, 0.1000001, 1.0, 10, 1_000_000, 1_000_001]
    paths = {Results("t").unit_path("a", amount, 0).as_posix() for amount in amounts}
    assert len(paths) == len(amounts)
    assert {"t/units/a/labels-0.1/seed-0.json", "t/units/a/labels-1/seed-0.json"} < paths


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_a_damaged_file_is_named_with_the_cure(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        RunError, match=r"a\.json: .* Remove it, and continue with resume=True \(--resume\)\."
    ):
        Results(tmp_path).read_json("a.json", Unit)


def test_an_experiment_leaves_what_is_global_to_its_caller(nothing_global_changes, tmp_path):
    experiment(SMALL + "arms: [random start]\nlabels: [0.2]\n", tmp_path / "out")


def test_an_experiment_goes_on_in_the_precision_in_which_it_was_begun(tmp_path, monkeypatch):
    text = "data: digits\nclassifier: zhao\narms: [random start]\n"
    spec = parse_transfer(text + "train: {precision: auto}")
    monkeypatch.setattr("kclr.transfer.experiment.bfloat16_units", lambda: True)
    begun = _settled(spec, None)
    assert begun.train.precision == "mixed_bfloat16"
    (tmp_path / "resolved.yaml").write_text(yaml.safe_dump(begun.model_dump(mode="json")))
    monkeypatch.setattr("kclr.transfer.experiment.bfloat16_units", lambda: False)
    assert _settled(spec, tmp_path) == begun
    assert _settled(spec, tmp_path / "nothing").train.precision == "float32"
    assert _settled(parse_transfer(text), tmp_path).train.precision == "float32"
