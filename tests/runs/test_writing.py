"""What a resume does about files of the run that were damaged since they were written."""

import json
import shutil

import keras
import pytest

import kclr
from kclr.errors import RunError
from kclr.events import Listener
from kclr.runs.run import Run
from kclr.spec import parse_spec

FIRST, SECOND = "layers/01-conv1", "layers/02-conv2"
SHORT = """
data: {source: photos, limit: 2}
stack: [{block: {filters: 4, kernel_size: 3, whitening: none},
         train: {steps: 12, batch_size: 8, log_every: 4, checkpoint_seconds: 0, jit: false}}]
"""


class Heard(Listener):
    def __init__(self):
        self.warnings = []

    def heard(self, event):
        if event.kind == "warned":
            self.warnings.append(event.in_words())


class Stop(keras.callbacks.Callback):
    """Ctrl-C after ten steps."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 9:
            raise KeyboardInterrupt


@pytest.fixture
def path(two_layers, tmp_path, without_export):
    """A copy of a trained run, which is not exported again."""
    return shutil.copytree(two_layers.path, tmp_path / "run")


def resume(path, text=None, **options):
    heard, text = Heard(), text or (path / "spec.yaml").read_text()
    kclr.train(parse_spec(text), path, text=text, resume=True, listener=heard, **options)
    return heard.warnings


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_what_can_be_made_again_is_as_it_was_and_the_rest_is_named(path, two_layers):
    names = [f"{FIRST}/history.csv", f"{SECOND}/filters.png", "metrics.jsonl", "pictures.json"]
    flipped = bytearray((path / names[0]).read_bytes())
    flipped[-4] ^= 1
    (path / names[0]).write_bytes(flipped)
    (path / names[1]).write_bytes(b"")
    lines = (path / names[2]).read_bytes().splitlines(keepends=True)
    lost = [index for index, line in enumerate(lines) if b"conv2" in line]
    lines[lost[0]] = bytes(len(lines[lost[0]]))
    (path / names[2]).write_bytes(b"".join(lines))
    edit(path / names[3], more={"a": "b"})
    (path / "profile.json").write_text("{}")
    edit(path / "summary.json", sha256={"profile.json": "0" * 64})
    warnings = resume(path)
    for name in names:
        assert (path / name).read_bytes() == (two_layers.path / name).read_bytes(), name
    assert [words.partition(", but")[0] for words in warnings] == [
        "profile.json: damaged or changed: its sha256 is not the one that it was written with. "
        "Restore it, or remove it",
        f"{path / FIRST}: damaged, and written again: history.csv",
        f"{path / SECOND}: damaged, and written again: filters.png",
    ]
    assert resume(path) == warnings[:1]  # it is still not what it was
    (path / "profile.json").unlink()
    resume(path)
    assert "profile.json" not in Run(path).summary["sha256"]


def test_a_run_without_its_metrics_has_them_from_the_histories(path, two_layers):
    (path / "metrics.jsonl").unlink()
    (path / "summary.json").write_text("{")
    assert resume(path) == []
    written = (two_layers.path / "metrics.jsonl").read_text()
    assert (path / "metrics.jsonl").read_text() == written


def refusal(path):
    with pytest.raises(RunError) as error:
        resume(path)
    return str(error.value)


def test_a_layer_of_which_something_else_is_said_is_refused(path):
    edit(path / FIRST / "layer.json", dead_filters=3)
    (path / "summary.json").unlink()  # as in a run that was interrupted
    words = refusal(path)
    assert words.startswith(f"{path / FIRST}/layer.json: damaged or changed")
    assert f"remove {path / FIRST} and continue" in words


def test_damage_that_leaves_nothing_to_write_again_from_is_refused_and_removes_nothing(path):
    note = path / FIRST / "note.txt"
    note.write_text("mine")
    (path / FIRST / "filters.png").unlink()
    assert "note.txt, which kclr did not write" in refusal(path)
    assert note.read_text() == "mine"
    note.unlink()
    (path / FIRST / "history.csv").write_text("")
    (path / "metrics.jsonl").write_text("")
    assert f"{path / FIRST}/history.csv: damaged, and so are" in refusal(path)
    (path / "metrics.jsonl").unlink()
    (path / "metrics.jsonl").symlink_to("nowhere")
    assert "metrics.jsonl: cannot be read" in refusal(path)
    assert not (path / "nowhere").exists()


@pytest.mark.parametrize("name", ["02-conv2.npz", "02-conv2.previous.npz"])
def test_a_checkpoint_without_its_key_is_not_continued(path, name):
    shutil.rmtree(path / SECOND)
    checkpoint = path / "checkpoints" / name
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(b"")
    key = path / "checkpoints/02-conv2.key"
    words = refusal(path)
    assert words.startswith(f"{key}: missing, so it is not known what the checkpoint")
    assert f"remove {key.parent} and continue" in words


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"key": "x", "made_of": {"format": 3}}'])
def test_a_damaged_key_of_a_checkpoint_is_named(path, text):
    shutil.rmtree(path / SECOND)
    key = path / "checkpoints/02-conv2.key"
    key.parent.mkdir()
    key.write_text(text)
    (path / "checkpoints/01-conv1.key").write_text(text)  # of a finished layer, which is enough
    assert refusal(path).startswith(f"{key}: damaged")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run with a checkpoint after nine steps of its layer."""
    path = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.raises(KeyboardInterrupt):
        kclr.train(parse_spec(SHORT), path, bare=True, callbacks=lambda *arguments: [Stop()])
    return path


@pytest.mark.parametrize("damage", ["none", "zeros", "another value", "gone"])
def test_rows_that_an_interrupted_layer_has_lost_are_told_and_its_training_goes_on(
    damage, interrupted, tmp_path
):
    path = shutil.copytree(interrupted, tmp_path / "run")
    metrics = path / "metrics.jsonl"
    first, second = metrics.read_bytes().splitlines(keepends=True)
    if damage == "zeros":
        metrics.write_bytes(bytes(len(first) - 1) + b"\n" + second)
    elif damage == "another value":
        row = json.loads(first)
        metrics.write_bytes(first.replace(repr(row["loss"]).encode(), b"0.25") + second)
    elif damage == "gone":
        metrics.unlink()
    warnings = resume(path, SHORT, bare=True)
    said = f"{metrics}: rows of the first 9 steps are damaged or missing"
    assert [words.startswith(said) for words in warnings] == [True] * (damage != "none")
    steps = [row["step"] for row in Run(path).layers[0].history()]
    assert steps == {"none": [4, 8, 12], "gone": [12]}.get(damage, [8, 12])
