"""What `kclr verify` finds in a run that is whole, and in one that is not."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import yaml

import kclr
from kclr import verify_run
from kclr.cli import main
from kclr.errors import RunError
from kclr.spec import parse_spec

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def path(two_layers, tmp_path):
    """A copy of a trained run."""
    return shutil.copytree(two_layers.path, tmp_path / "run")


def wrong(path):
    return [check.place for check in verify_run(path).checks if check.state == "wrong"]


def notes(path):
    return [check.words for check in verify_run(path).checks if check.state == "note"]


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x10
    file.write_bytes(content)


def test_a_run_as_it_was_trained_is_right(two_layers, capsys):
    assert (wrong(two_layers.path), notes(two_layers.path)) == ([], [])
    assert main(["verify", str(two_layers.path)]) == 0
    assert capsys.readouterr().out.endswith(f"{two_layers.path}: all checks passed\n")
    assert main(["verify", str(two_layers.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["right"]
    assert {check["state"] for check in told["checks"]} == {"right"}


def edited(name, **changes):
    def edit(path):
        file = path / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return edit


def history(old, new):
    def edit(path):
        file = path / "layers/01-conv1/history.csv"
        file.write_text(file.read_text().replace(old, new))

    return edit


FIRST = "layers/01-conv1"


@pytest.mark.parametrize(
    ("damage", "places"),
    [
        (lambda path: flip_a_bit(path / FIRST / "kernel.npy"), {f"{FIRST}/kernel.npy"}),
        (lambda path: flip_a_bit(path / FIRST / "bias.npy"), {f"{FIRST}/bias.npy"}),
        (lambda path: flip_a_bit(path / "model.keras"), {"model.keras"}),
        (lambda path: (path / FIRST / "filters.png").unlink(), {f"{FIRST}/filters.png"}),
        (lambda path: (path / "resolved.yaml").write_text("stack: ["), {"resolved.yaml"}),
        (lambda path: (path / "spec.yaml").unlink(), {"spec.yaml"}),
        (lambda path: (path / FIRST / "layer.json").unlink(), {FIRST, f"{FIRST}/layer.json"}),
        (lambda path: (path / FIRST / "layer.json").write_text("{"), {f"{FIRST}/layer.json"}),
        (lambda path: (path / "summary.json").write_text("[]"), {"summary.json"}),
        (lambda path: shutil.rmtree(path / FIRST), {"layers", f"{FIRST}/kernel.npy"}),
        (edited(f"{FIRST}/layer.json", key="0" * 64), {"summary.json"}),
        (edited(f"{FIRST}/layer.json", steps=13), {f"{FIRST}/history.csv"}),
        (edited(f"{FIRST}/layer.json", block={"filters": 8, "strides": 2}), {FIRST}),
        (history("\r\n10,", "\r\n4,"), {f"{FIRST}/history.csv"}),
        (history("\r\n10,", "\r\n11,"), {f"{FIRST}/history.csv"}),
        (lambda path: shutil.copytree(path / FIRST, path / f"{FIRST}x"), {f"{FIRST}x/layer.json"}),
    ],
)
def test_what_is_damaged_is_named_and_hides_nothing_else(path, damage, places):
    damage(path)
    assert places <= {*wrong(path)}
    (path / "layers/02-conv2/bias.npy").write_bytes(b"")
    assert places | {"layers/02-conv2/bias.npy"} <= {*wrong(path)}
    assert main(["verify", str(path)]) == 1


def test_damage_is_named_in_a_run_that_is_not_finished_too(path):
    (path / "summary.json").unlink()
    assert wrong(path) == []
    edited(f"{FIRST}/layer.json", dead_filters=2)(path)
    flip_a_bit(path / FIRST / "filters.png")
    assert wrong(path) == [f"{FIRST}/layer.json", f"{FIRST}/filters.png"]


def test_exports_that_are_damaged_or_of_other_layers_are_named(path):
    about = path / "exports/02-conv2-grid2/saved_model/assets.extra/kclr.json"
    shutil.copytree(path / "saved_model", about.parents[1])
    shutil.copy(path / "model.keras", about.parents[2])
    assert wrong(path) == []
    for text in ('{"layers": ["conv1", "other"]}', "{", "[]", '{"layers": 3}'):
        about.write_text(text)
        assert wrong(path) == ["exports/02-conv2-grid2"]


def test_an_export_whose_weights_are_not_those_of_the_layers_is_named(path):
    export = path / "exports/02-conv2-grid2"
    shutil.copytree(path / "saved_model", export / "saved_model")
    shutil.copy(path / "model.keras", export)
    kernel = kclr.load_run(path).layers[1].kernel.tobytes()
    for name in ("model.keras", "saved_model/variables/variables.data-00000-of-00001"):
        whole = (export / name).read_bytes()
        place = whole.index(kernel) + 3
        flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        (export / name).write_bytes(flipped)
        assert wrong(path) == [f"exports/02-conv2-grid2/{name}"]
        (export / name).write_bytes(whole)
    with zipfile.ZipFile(export / "model.keras", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("model.weights.h5", bytes(1 << 26))
    assert wrong(path) == ["exports/02-conv2-grid2/model.keras"]
    (export / "model.keras").write_bytes(b"no archive")
    assert wrong(path) == ["exports/02-conv2-grid2/model.keras"]


def test_foreign_files_leftovers_and_an_unfinished_run_are_told_and_are_not_wrong(path):
    (path / "thesis.txt").write_text("mine")
    shutil.copytree(path / FIRST, path / "layers/.02-conv2.part")
    (path / "summary.json").unlink()
    assert wrong(path) == []
    unfinished, leftovers, foreign = notes(path)
    assert "the run is not finished" in unfinished
    assert "interrupted" in leftovers
    assert "not written by this run's training" in foreign


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_a_pipe_in_a_run_is_not_waited_for(path):
    (path / "model.keras").unlink()
    os.mkfifo(path / "model.keras")
    assert "model.keras" in wrong(path)


def test_names_in_a_run_do_not_steer_the_terminal(path, capsys):
    edited("summary.json", finished="\x1b[2J\x1b]0;owned\x07")(path)
    (path / "\x1b[31mred").write_text("")
    assert main(["show", str(path)]) == 0
    assert main(["verify", str(path)]) == 0
    assert main(["show", str(path / "\x1b[31mred")]) == 1
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    assert "\\x1b[2J" in told.out


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        verify_run(tmp_path)


def again(path, steps=500):
    return [check for check in verify_run(path, steps).checks if " again" in check.words]


def test_training_again_gives_the_recorded_numbers_and_tells_of_others(path):
    first, second = again(path)
    assert first.words == "its first 5 steps again: identical"
    assert (second.place, second.state) == ("layers/02-conv2", "right")
    file = path / FIRST / "history.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    at = rows[0].index("loss")
    rows[1][at] = str(1.5 * float(rows[1][at]))
    file.write_text("\n".join(map(",".join, rows)) + "\n")
    first, _ = again(path, 4)
    assert "starts at step 5; not trained again" in first.words
    (path / "layers/02-conv2/layer.json").unlink()
    (first,) = (check for check in verify_run(path, 500).checks if "first 5 steps" in check.words)
    assert first.state == "wrong"
    assert "loss differs by 0.33 of its size" in first.words


@pytest.mark.full
def test_filters_that_take_no_steps_are_learned_again_whole(tmp_path):
    text = "data: {source: photos, limit: 1}\nstack: [{learner: kmeans, block: {filters: 4}}]\n"
    run = kclr.train(parse_spec(text), tmp_path / "run", bare=True)
    (check,) = again(run.path)
    assert (check.place, check.state) == (FIRST, "right")
    assert check.words.startswith("learned again: identical")
    kernel = run.layers[0].kernel.copy()
    kernel[0, 0, 0, 0] += 0.5 * np.abs(kernel).max()
    np.save(run.path / FIRST / "kernel.npy", kernel)
    edited(f"{FIRST}/layer.json", sha256=None)(run.path)
    (check,) = again(run.path)
    assert check.state == "wrong"
    assert "kernel differs by" in check.words


def test_images_that_are_gone_are_said_to_be(path):
    spec = yaml.safe_load((path / "resolved.yaml").read_text())
    spec["data"] = {"source": "folder", "path": "nowhere"}
    (path / "resolved.yaml").write_text(yaml.safe_dump(spec))
    found = [check for check in verify_run(path, 500).checks if check.place == "--retrain"]
    assert "its images are missing" in found[0].words
