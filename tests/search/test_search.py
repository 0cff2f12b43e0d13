"""Whole searches of small specs: each tuner, what is shared, what fails, what stays on disk."""

import errno
import json
import math
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image

import kclr
from kclr.data import pool
from kclr.errors import RunError, SpecError
from kclr.events import Lines
from kclr.search import trials as trials_module
from kclr.search.running import run_search
from kclr.spec import load_spec, parse_spec
from kclr.training.progress import LayerProgress
from tests.search.conftest import QUICK

pytestmark = pytest.mark.usefixtures("without_pictures")


def search(plain, out, **options):
    text = yaml.safe_dump(plain)
    return run_search(parse_spec(text), plain, out, text, **options)


def runs(out):
    return sorted(path.parent.name for path in out.glob("*/trial_*/run"))


@pytest.mark.parametrize(
    "tuner",
    [
        "random",
        pytest.param({"name": "bayesian", "initial": 2}, marks=pytest.mark.full),
        pytest.param("grid", marks=pytest.mark.full),  # also below
    ],
)
def test_each_tuner_searches_and_its_best_spec_makes_the_same_figure(quick, tuner, tmp_path):
    quick["search"] |= {"tuner": tuner, "keep": 1}
    quick["search"]["space"]["stack.1.block.filters"]["step"] = 7
    found = search(quick, tmp_path / "s")
    assert [row["status"] for row in found["rows"]] == ["COMPLETED"] * 3
    assert len({json.dumps(row["values"]) for row in found["rows"]}) == 3
    best = max(row["score"] for row in found["rows"])
    run = kclr.train(load_spec(tmp_path / "s/best.yaml"), tmp_path / "again", bare=True)
    assert run.layers[-1].facts["probe_accuracy"] == best == found["best"][0]["score"]
    # The layer below is one file for all, and only the best trial's are still there.
    assert runs(tmp_path / "s") == [f"trial_{found['best'][0]['trial']}"]
    kernel = next((tmp_path / "s").glob("*/trial_*/run/layers/01-conv1/kernel.npy"))
    shared = next((tmp_path / "s/shared").glob("*/layers/01-conv1/kernel.npy"))
    assert kernel.samefile(shared)
    for name in ("trials.csv", "trials.png", "search.json", "spec.yaml"):
        assert (tmp_path / "s" / name).exists()


def test_pictures_are_decoded_once_for_all_trials(quick, tmp_path, monkeypatch):
    packed, packer = [], pool._Packer
    monkeypatch.setattr(pool, "_Packer", lambda *of: packed.append(of) or packer(*of))
    found = search(quick, tmp_path / "s")
    assert [row["status"] for row in found["rows"]] == ["COMPLETED"] * 3
    assert len(packed) == 1


def test_layer_after_layer_is_searched_on_the_best_of_those_below(quick, tmp_path):
    quick["search"]["space"]["stack.0.block.filters"] = {"choice": [3, 5]}
    quick["search"] |= {"trials": 2, "keep": 1}
    found = search(quick, tmp_path / "s")
    first, second = found["best"]
    assert [first["layer"], second["layer"]] == ["conv1", "conv2"]
    filters = int(first["values"]["stack.0.block.filters"])
    run = kclr.load_run(next((tmp_path / "s").glob("02-*/trial_*/run")))
    assert run.layers[0].kernel.shape[-1] == run.layers[1].kernel.shape[2] == filters
    best = load_spec(tmp_path / "s/best.yaml")
    assert best.stack[0].block.filters == filters
    assert best.search is None
    # The seconds of a trial are those of its own layer.
    row = found["rows"][-1]
    assert row["layer"] == "conv2"
    assert row["seconds"] < 2 * run.layers[1].facts["seconds"] + 1


def test_the_whole_stack_at_once_is_one_stage(quick, tmp_path):
    quick["search"]["space"]["stack.0.block.filters"] = {"choice": [3, 5]}
    quick["search"] |= {"trials": 2, "layers": "together"}
    found = search(quick, tmp_path / "s")
    assert [best["layer"] for best in found["best"]] == ["conv2"]
    assert set(found["rows"][0]["values"]) == set(quick["search"]["space"])


def test_failures_have_their_reason_and_the_search_goes_on(quick, tmp_path, monkeypatch):
    quick["search"]["space"] = {"stack.1.block.kernel_size": {"choice": [3, 20, 2]}}
    quick["search"] |= {"tuner": "grid"}
    whole, calls = trials_module.train, []

    def train(spec, out, **options):
        calls.append(out)
        if spec.stack[-1].block.kernel_size == 2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return whole(spec, out, **options)

    monkeypatch.setattr(trials_module, "train", train)
    found = search(quick, tmp_path / "s")
    assert [row["status"] for row in found["rows"]] == ["COMPLETED", "FAILED", "FAILED"]
    assert "stack.1.block: its filters see" in found["rows"][1]["failed"]
    assert found["rows"][2]["failed"] == "out of memory"


def test_a_loss_that_is_no_number_is_a_failure_and_any_metric_may_be_the_objective(
    steps, tmp_path, capfd
):
    steps["probe"] = None
    steps["search"] = {
        "space": {"stack.0.train.optimizer.config.weight_decay": {"choice": [0.0, 1e30]}},
        "objective": "loss",
        "tuner": "grid",
    }
    found = search(steps, tmp_path / "s")
    assert [row["status"] for row in found["rows"]] == ["COMPLETED", "FAILED"]
    assert found["best"][0]["score"] == found["rows"][0]["loss"]
    assert "nan after 3 steps" in found["rows"][1]["failed"]
    assert "Traceback" not in "".join(capfd.readouterr())


def test_where_all_fail_the_search_stops_with_the_reason(quick, tmp_path):
    quick["search"]["space"] = {"stack.1.block.kernel_size": {"int": [20, 60]}}
    quick["search"]["trials"] = 40
    with pytest.raises(RunError, match="no trial of layer conv2 succeeded"):
        search(quick, tmp_path / "s")
    assert len([*(tmp_path / "s").glob("*/trial_*/result.json")]) == 10


def test_a_mistake_of_the_user_ends_the_search(quick, tmp_path, monkeypatch):
    def train(*arguments, **options):
        raise RunError("the disk is full")

    monkeypatch.setattr(trials_module, "train", train)
    with pytest.raises(RunError, match="the disk is full"):
        search(quick, tmp_path / "s")


def test_a_mistake_in_a_users_code_is_a_line_and_a_trace_beside_the_trial(
    quick, tmp_path, monkeypatch
):
    def train(*arguments, **options):
        raise KeyError("mine")

    monkeypatch.setattr(trials_module, "train", train)
    monkeypatch.setattr(trials_module.Trials, "_below_of", lambda self, spec, listener: None)
    with pytest.raises(
        RunError, match=r"trial 0 failed: KeyError: 'mine'\. The traceback is"
    ) as caught:
        search(quick, tmp_path / "s")
    assert isinstance(caught.value.__cause__, KeyError)
    (trace,) = (tmp_path / "s").glob("*/trial_0/error.txt")
    assert 'raise KeyError("mine")' in trace.read_text()
    monkeypatch.undo()
    quick["search"]["trials"] = 1
    assert search(quick, tmp_path / "s", resume=True)["rows"][0]["status"] == "COMPLETED"
    assert not trace.exists()


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), pytest.param(OSError(errno.ENOSPC, "No space"), marks=pytest.mark.full)],
)
def test_a_full_disk_or_ctrl_c_ends_a_search_and_what_is_finished_stays(
    quick, tmp_path, monkeypatch, error
):
    whole, outs = trials_module.train, []

    def train(spec, out, **options):
        outs.append(out)
        if len(outs) == 3:  # what is shared, a trial, another one
            raise error
        return whole(spec, out, **options)

    monkeypatch.setattr(trials_module, "train", train)
    with pytest.raises(type(error)):
        search(quick, tmp_path / "s")
    search(quick, tmp_path / "s", resume=True)
    # The trial that was begun goes on, and the one before is not trained again.
    assert outs[4] == outs[2]
    assert outs.count(outs[1]) == 1


def test_warnings_of_trainings_are_told_and_stay_in_the_trials_row(
    quick, tmp_path, monkeypatch, capsys
):
    whole = trials_module.train

    def train(spec, out, listener, **options):
        LayerProgress(listener, "conv1").warned("3 pictures were skipped")
        return whole(spec, out, listener=listener, **options)

    monkeypatch.setattr(trials_module, "train", train)
    quick["search"]["trials"] = 1
    rows = search(quick, tmp_path / "s", listener=Lines())["rows"]
    # What the trials share is trained in the first one.
    assert rows[0]["warnings"] == ["3 pictures were skipped"] * 2
    assert "trial 0: 3 pictures were skipped" in capsys.readouterr().err
    assert "3 pictures were skipped" in (tmp_path / "s/trials.csv").read_text()


def test_no_trial_begins_after_the_minutes(quick, tmp_path):
    quick["search"] |= {"minutes": 1e-9, "trials": 2}
    with pytest.raises(RunError, match="there was no time"):
        search(quick, tmp_path / "s")
    quick["search"]["minutes"] = 10
    assert len(search(quick, tmp_path / "s", resume=True)["rows"]) == 2


def test_a_search_goes_on_with_more_trials_and_not_with_another_spec(quick, tmp_path):
    quick["search"]["trials"] = 2
    found = search(quick, tmp_path / "s")
    quick["search"]["trials"] = 3
    more = search(quick, tmp_path / "s", resume=True)
    assert [row["values"] for row in more["rows"][:2]] == [row["values"] for row in found["rows"]]
    assert len(more["rows"]) == 3
    quick["seed"] = 1
    with pytest.raises(SpecError, match="other settings"):
        search(quick, tmp_path / "s", resume=True)


@pytest.fixture(scope="module")
def halted(tmp_path_factory):
    """A search of two trials that can go on, and its plain value."""
    plain = yaml.safe_load(QUICK)
    plain["search"]["trials"] = 2
    plain["stack"] = plain["stack"][:1]
    plain["search"]["space"] = {"stack.0.learner.threshold": {"float": [0.1, 1.0]}}
    out = tmp_path_factory.mktemp("halted") / "s"
    search(plain, out)
    plain["search"]["trials"] = 3
    return plain, out


def changed(**values):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))


def cut(path):
    path.write_bytes(path.read_bytes()[:100])


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def link_out(path):
    path.rename(other := path.parents[3] / "other.json")
    path.symlink_to(other)


ANY_FILE = [
    cut,
    pipe,
    link_out,
    lambda path: path.write_text(""),
    lambda path: path.write_text("[]"),
]
ANY_FILE.append(lambda path: path.write_text("[" * 100_000))
OF_ORACLE = [
    changed(seed=7),
    changed(run_times=[]),
    changed(seconds=math.nan),
    changed(hyperparameters={"space": [{"class_name": "os"}], "values": {}}),
    changed(ongoing_trials={"tuner0": "../../else"}),
    changed(display={}),
]
OF_TRIAL = [
    changed(trial_id="../../else"),
    changed(score=math.nan),
    changed(score=None),
    changed(status="LOST"),
    changed(metrics=3),
    changed(hyperparameters={"space": [], "values": {"stack.0.learner.threshold": "much"}}),
    changed(hyperparameters={"space": [], "values": {"tuner/trial_id": "../../else"}}),
    changed(hyperparameters={"space": [], "values": {"tuner/epochs": 0.5}}),
]
DAMAGE = [("oracle.json", each) for each in [*ANY_FILE, *OF_ORACLE]]
DAMAGE += [("trial_0/trial.json", each) for each in [*ANY_FILE, *OF_TRIAL]]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="has no pipes with names")
def test_a_damaged_file_of_keras_tuners_is_one_line_with_the_cure(halted, tmp_path):
    plain, whole = halted
    for number, (name, damage) in enumerate(DAMAGE):
        out = tmp_path / f"{number}"
        shutil.copytree(whole, out)
        (path,) = out.glob(f"*/{name}")
        damage(path)
        with pytest.raises(RunError, match=r"\.json: .*restart the search with overwrite=True"):
            search(plain, out, resume=True)
        shutil.rmtree(out)
    assert len(search(plain, whole, resume=True)["rows"]) == 3


def test_a_search_does_not_lie_among_its_pictures(quick, tmp_path):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(tmp_path / "one.png")
    quick["data"] = str(tmp_path)
    with pytest.raises(RunError, match="is in the folder of training pictures"):
        search(quick, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_grid_search_goes_on_where_it_was(quick, tmp_path, capsys):
    quick["search"]["space"] = {"stack.1.block.filters": {"choice": [2, 3, 4]}}
    quick["search"] |= {"tuner": "grid", "trials": 1}
    search(quick, tmp_path / "s")
    quick["search"]["trials"] = 9
    assert "up to" not in capsys.readouterr().out
    rows = search(quick, tmp_path / "s", resume=True, verbose=True)["rows"]
    assert "up to 9 trials, 1 already ended" in capsys.readouterr().out
    assert [row["values"]["stack.1.block.filters"] for row in rows] == ["2", "3", "4"]


@pytest.mark.slow
def test_hyperband_goes_on_from_checkpoints_to_the_kernels_of_an_uninterrupted_training(
    steps, tmp_path
):
    found = search(steps, tmp_path / "s")
    rounds = [(row["steps"], row["complete"]) for row in found["rows"]]
    assert rounds == [(4, False), (4, False), (8, True)]
    best = found["best"][0]
    assert found["rows"][int(best["trial"])]["complete"]
    run = kclr.train(load_spec(tmp_path / "s/best.yaml"), tmp_path / "again", bare=True)
    assert run.layers[0].facts["probe_accuracy"] == best["score"]
    ended = kclr.load_run(next((tmp_path / "s").glob(f"*/trial_{best['trial']}/run")))
    np.testing.assert_array_equal(run.layers[0].kernel, ended.layers[0].kernel)


def test_a_search_leaves_what_is_global_to_its_caller(nothing_global_changes, quick, tmp_path):
    quick["search"]["trials"] = 1
    search(quick, tmp_path / "s")
