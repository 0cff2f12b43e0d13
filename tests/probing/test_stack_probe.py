"""The probe of whole runs: what is learned stays the same, and the rows are those of the layers."""

import contextlib
import csv
import importlib.util
import io
import json

import numpy as np
import pytest

import kclr
from kclr.data.labels import load_labelled
from kclr.errors import RunError
from kclr.events import JsonLines, Listener
from kclr.keras_backend import dtype_policy
from kclr.layers import stacked
from kclr.pooling import Pooling
from kclr.probing.features import features
from kclr.probing.protocol import probe, validation_rows
from kclr.report.tables import print_run
from kclr.spec import parse_spec
from kclr.training.progress import describe

pytestmark = pytest.mark.usefixtures("without_pictures")

LAYERS = """
data: photos
stack:
  - block: {filters: 8, kernel_size: 6}
    patches: {max_shift: 2, augment: [RandomFlip]}
    train: {steps: 12, batch_size: 32, log_every: 5, jit: false}
  - block: {filters: 6, kernel_size: 3, padding: same, batch_norm: true}
    train: {steps: 6, batch_size: 16, log_every: 3, jit: false}
"""
ONE_LAYER = """
data: photos
stack:
  - block: {filters: 8, kernel_size: 6, whitening: none}
    train: {steps: 12, batch_size: 32, log_every: 5, checkpoint_seconds: 0, jit: false}
"""
PROBE = "probe: {data: digits, every: 4, limit: 150, grid: 1}\n"


def train(text, out, bare=True, **options):
    return kclr.train(parse_spec(text), out, text=text, bare=bare, **options)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(LAYERS, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kclr.stack._export", lambda *arguments: None)
        return train(PROBE + LAYERS, tmp_path_factory.mktemp("probed") / "run", bare=False)


def rows_of(run, layer="conv1"):
    rows = [row for row in run.rows(layer) if "probe_accuracy" in row]
    return [(row["step"], row["probe_accuracy"]) for row in rows]


def test_the_kernels_are_those_without_the_probe_bit_for_bit(plain, probed):
    for one, other in zip(plain.layers, probed.layers, strict=True):
        np.testing.assert_array_equal(one.kernel, other.kernel)
        np.testing.assert_array_equal(one.bias, other.bias)
        assert one.facts["key"] == other.facts["key"]


def test_rows_are_of_the_steps_asked_for_and_of_the_last(probed):
    assert [step for step, _ in rows_of(probed)] == [4, 8, 12]
    assert [row["step"] for row in probed.rows("conv1")] == [4, 5, 8, 10, 12]
    assert [step for step, _ in rows_of(probed, "conv2")] == [4, 6]


def test_the_other_columns_are_those_without_the_probe(plain, probed):
    def loss(run):
        return [row["loss"] for row in run.rows("conv1") if "loss" in row]

    assert loss(plain) == loss(probed)


@pytest.mark.parametrize("index", [0, 1])
def test_the_last_figure_is_that_of_the_plain_layers_on_disk(probed, index):
    """Whitening and batch normalisation folded, padding as in the spec, layers below frozen."""
    layers = probed.layers[: index + 1]
    images = load_labelled("digits", "train", 3, 150)
    made = features(stacked(layers, 3), images, Pooling(grid=1))
    judging = validation_rows(images.labels, 0)
    fitting = images.labels[~judging]
    accuracy, _, _ = probe(made[~judging], fitting, made[judging], images.labels[judging])
    assert layers[-1].facts["probe_accuracy"] == pytest.approx(accuracy, abs=1e-9)
    assert layers[-1].facts["probe_accuracy"] == rows_of(probed, layers[-1].name)[-1][1]


def test_what_the_probe_cost_is_in_the_summary(probed):
    for layer, summed in zip(probed.layers, probed.summary["layers"], strict=True):
        seconds = [row.get("probe_seconds", 0) for row in probed.rows(layer.name)]
        assert layer.facts["probe_seconds"] == pytest.approx(sum(seconds), abs=0.002)
        assert summed["probe_accuracy"] == layer.facts["probe_accuracy"]


def test_the_history_has_empty_places_where_it_did_not_run(probed):
    with (probed.layers[0].directory / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["probe_accuracy"]) for row in rows] == [True, False, True, False, True]
    assert [bool(row["loss"]) for row in rows] == [False, True, False, True, True]
    assert "probe_accuracy" not in probed.layers[0].history()[1]


class Killed(Listener):
    """Ends a training where a checkpoint of the step before is there."""

    def __init__(self, step):
        self.step_to_end = step

    def heard(self, event):
        if event.kind == "step" and event.done == self.step_to_end:
            raise RunError("ended")


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    """A run that TensorBoard, if there is one, and a machine follow; and what the machine read."""
    text = PROBE + ONE_LAYER
    if importlib.util.find_spec("tensorboard"):
        text = "tensorboard: true\n" + text
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        run = train(text, tmp_path_factory.mktemp("whole") / "run", listener=JsonLines())
    return run, said.getvalue()


@pytest.fixture
def whole(followed):
    return followed[0]


@pytest.mark.parametrize("step", [pytest.param(5, marks=pytest.mark.full), 10])
def test_after_an_interruption_the_rows_are_those_of_a_whole_run(whole, tmp_path, step):
    with pytest.raises(RunError, match="ended"):
        train(PROBE + ONE_LAYER, tmp_path / "run", listener=Killed(step))
    resumed = train(PROBE + ONE_LAYER, tmp_path / "run", resume=True)
    assert rows_of(resumed) == rows_of(whole)
    np.testing.assert_array_equal(resumed.layers[0].kernel, whole.layers[0].kernel)
    seconds = [row.get("probe_seconds", 0) for row in resumed.rows("conv1")]
    assert resumed.layers[0].facts["probe_seconds"] == pytest.approx(sum(seconds), abs=0.002)


def test_layers_stay_when_a_probe_is_added(plain):
    before = (plain.path / "layers/01-conv1/kernel.npy").stat().st_mtime_ns
    train(PROBE + LAYERS, plain.path, resume=True)
    assert (plain.path / "layers/01-conv1/kernel.npy").stat().st_mtime_ns == before


def test_layers_that_are_trained_at_once_are_probed_at_the_topmost(tmp_path):
    text = (
        ONE_LAYER + "  - {block: {filters: 6, whitening: none}, train: {batch_size: 32, steps: 4}}"
    )
    run = train(PROBE + "train: {end_to_end: true}\n" + text, tmp_path / "run")
    assert "probe_accuracy" not in run.layers[0].facts
    images = load_labelled("digits", "train", 3, 150)
    made = features(stacked(run.layers, 3), images, Pooling(grid=1))
    judging = validation_rows(images.labels, 0)
    accuracy, _, _ = probe(
        made[~judging], images.labels[~judging], made[judging], images.labels[judging]
    )
    assert run.layers[1].facts["probe_accuracy"] == pytest.approx(accuracy, abs=1e-9)


def test_a_layer_that_is_learned_without_steps_is_probed_once(tmp_path):
    text = "data: photos\nstack: [{block: {filters: 8, whitening: none}, learner: random}]\n"
    run = train("probe: {data: digits, limit: 150}\n" + text, tmp_path / "run")
    assert run.layers[0].facts["probe_accuracy"] > 0.2
    assert run.layers[0].facts["probe_seconds"] > 0


def test_tensorboard_has_it(whole):
    pytest.importorskip("tensorboard")
    import tensorflow as tf

    (events,) = (whole.path / "tensorboard" / "conv1").iterdir()
    steps = [event.step for event in tf.compat.v1.train.summary_iterator(str(events))
             for value in event.summary.value if value.tag == "probe_accuracy"]  # fmt: skip
    assert steps == [4, 8, 12]


def test_show_has_the_figure_and_its_cost(plain, probed, capsys):
    print_run(probed)
    words = capsys.readouterr().out
    assert "probing" in words
    assert f"{probed.layers[0].facts['probe_accuracy']:.1%}" in words
    print_run(plain)
    assert "prob" not in capsys.readouterr().out.split("\n", 1)[1].split("not finished")[0]


def test_a_finished_layer_says_it(probed):
    facts = probed.layers[0].facts
    assert f"probe {facts['probe_accuracy']:.1%} (" in describe(facts)


def test_machines_are_told_too(followed):
    lines = [json.loads(line) for line in followed[1].splitlines()]
    assert [line["step"] for line in lines if "probe_accuracy" in line and "step" in line] == [
        4, 8, 12,
    ]  # fmt: skip


def test_all_layers_are_judged_side_by_side_each_on_its_own_grid(plain, tmp_path):
    """In bfloat16 too, and in the first layer by the first number of the list."""
    options = (
        "limit: 150, grid: [1, 2], all_layers: true, precision: mixed_bfloat16, power: [0.5, 1]"
    )
    run = train(f"probe: {{data: digits, {options}}}\n" + LAYERS, tmp_path / "run")
    np.testing.assert_array_equal(run.layers[1].kernel, plain.layers[1].kernel)
    images = load_labelled("digits", "train", 3, 150)
    judging = validation_rows(images.labels, 0)
    for depth in (1, 2):
        pooling = Pooling([1, 2][:depth], [0.5, 1][:depth], all_layers=True)
        with dtype_policy("mixed_bfloat16"):
            model = pooling.maps(stacked(run.layers[:depth], 3))
        made = features(model, images, pooling)
        assert made.shape[1] == [8, 8 + 4 * 6][depth - 1]
        accuracy, _, _ = probe(
            made[~judging], images.labels[~judging], made[judging], images.labels[judging]
        )
        assert run.layers[depth - 1].facts["probe_accuracy"] == pytest.approx(accuracy, abs=1e-9)
