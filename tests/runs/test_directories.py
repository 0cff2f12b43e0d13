"""Directories that kclr writes: only what kclr wrote is removed, and by one process at a time."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from kclr.errors import RunError
from kclr.runs.directories import (
    EXPORT,
    LAYER,
    RUN,
    SEARCH,
    TRANSFER,
    check_ours,
    discard,
    kind_of,
    locked,
    sharing,
    writing,
)

FILES = {
    RUN: (
        "spec.yaml",
        "resolved.yaml",
        "metrics.jsonl",
        "summary.json",
        "model.keras",
        "layers/01-conv1/kernel.npy",
        "layers/01-conv1/layer.json",
        "layers/02-a.b/filters.png",
        "checkpoints/02-a.b.npz",
        "saved_model/variables/variables.data-00000-of-00001",
        "saved_model/assets.extra/kclr.json",
        "exports/01-conv1-mean/saved_model/saved_model.pb",
        "tensorboard/conv1/events.out.tfevents.1.host",
    ),
    TRANSFER: (
        "spec.yaml",
        "resolved.yaml",
        "results.csv",
        "units/kclr-frozen/labels-0.1/seed-0.json",
        "units/kclr-frozen/labels-0.1/seed-1.error.txt",
        "pretrained/layers/01-conv1/kernel.npy",
        "supervised/seed-0/layers/01-supervised1/kernel.npy",
    ),
    SEARCH: (
        "spec.yaml",
        "search.key",
        "logs/chief.txt",
        "shared/0123456789ab.lock",
        "shared/best-01-conv1-abcdef/layers/01-conv1/bias.npy",
        "02-conv2-abcdef/oracle.json",
        "02-conv2-abcdef/trial_00/trial.json",
        "02-conv2-abcdef/trial_00/run/checkpoints/02-conv2.npz",
    ),
}


def fill(path, kind):
    """A directory as kclr leaves it."""
    with writing(path, kind):
        for place in FILES[kind]:
            file = path / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(place)
    return path


def tree(path):
    """Every file and directory below a path, with what it says."""
    return {
        found.relative_to(path).as_posix(): found.read_text() if found.is_file() else None
        for found in path.rglob("*")
    }


def enter(path, kind, **options):
    with writing(path, kind, **options):
        pass


def enter_shared(path, names, **options):
    with sharing(path, names, **options):
        pass


@contextlib.contextmanager
def refused(words):
    with pytest.raises(RunError, match=words):
        yield


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.name)
def test_overwriting_removes_all_that_kclr_wrote(tmp_path, kind):
    path = fill(tmp_path / "d", kind)
    with writing(path, kind, overwrite=True):
        # The spec may be the one that was given; it is replaced in one go.
        assert sorted(tree(path)) == [".kclr", ".lock", "spec.yaml"]


@pytest.mark.parametrize("kind", FILES, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    "place",
    [
        "thesis.tex",
        ".git/config",
        "layers/01-conv1/notes.txt",
        "layers/holiday.jpg",
        "checkpoints/mine/model.h5",
        "saved_model/assets/labels.txt",
        "exports/readme.md",
        "units/kclr-frozen/labels-0.1/plot.png",
        "pretrained/thesis.tex",
        "02-conv2-abcdef/trial_00/thesis.tex",
        "02-conv2-abcdef/trial_00/run/thesis.tex",
        ".thesis.part.tex",
        "empty/",
    ],
)
def test_a_file_of_somebody_else_stops_it_before_anything_is_removed(tmp_path, kind, place):
    path = fill(tmp_path / "d", kind)
    (path / place).parent.mkdir(parents=True, exist_ok=True)
    (path / place).mkdir() if place.endswith("/") else (path / place).write_text("years")
    before = tree(path)
    with refused(r"which kclr did not write. Nothing was removed"):
        enter(path, kind, overwrite=True)
    assert tree(path) == before
    with writing(path, kind, resume=True):
        assert tree(path) == before


def test_the_file_of_somebody_else_is_named(tmp_path):
    path = fill(tmp_path / "d", RUN)
    (path / "layers/01-conv1/a.txt").write_text("a")
    (path / "z.txt").write_text("z")
    with refused(r"d contains layers/01-conv1/a\.txt \(and 1 more\), which kclr did not write"):
        enter(path, RUN, overwrite=True)


def test_what_a_link_points_to_is_never_removed(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/cat.png").write_text("cat")
    path = fill(tmp_path / "d", RUN)
    for place in ("layers/03-conv3", "exports/mine", "summary.json.bak"):
        (path / place).symlink_to(tmp_path / "pictures")
        with refused(rf"d contains {place}, which kclr did not write"):
            enter(path, RUN, overwrite=True)
        discard(path, RUN)
        assert (tmp_path / "pictures/cat.png").exists()
        (path / place).unlink()
        fill_again = path.exists() and [*path.iterdir()]
        assert all(entry.is_dir() for entry in fill_again)
        discard(path, RUN)
        fill(path, RUN)


@pytest.mark.parametrize("name", ["spec.yaml", "model.keras", "layers", "photo.jpg"])
def test_a_directory_of_somebody_else_is_never_taken_for_one_of_kclr(tmp_path, name):
    if "." in name:
        (tmp_path / name).write_text("mine")
    else:
        (tmp_path / name).mkdir()
    before = tree(tmp_path)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with refused("is not empty, and kclr did not create it; nothing in it was changed"):
            enter(tmp_path, RUN, **options)
    assert tree(tmp_path) == before


def test_where_one_stands_and_lives_is_said(tmp_path, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years")
    monkeypatch.chdir(tmp_path)
    with refused(r"^\. is the current directory, and kclr did not create it"):
        enter(".", RUN, overwrite=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    with refused("is your home directory"), writing(tmp_path, RUN, overwrite=True):
        pass
    with refused("^/ is the root directory"), writing("/", RUN, overwrite=True):
        pass


def test_a_place_that_can_be_no_directory_is_named_with_the_reason(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    for place, words in (
        ("file", r"file is a file\. Choose another place"),
        ("file/run", r"file is a file, so .*run cannot be in it"),
        ("pipe", "pipe is a file"),
        ("link", "link is a link to .*gone, which does not exist"),
        ("loop", "loop"),
        ("a\0b", "cannot be written to: .*null"),
        ("x" * 300, "cannot be written to: File name too long"),
    ):
        with pytest.raises(RunError, match=words) as caught:
            enter(tmp_path / place, RUN)
        assert str(caught.value).count("--out") == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "link", "loop", "pipe"]


@pytest.mark.parametrize("place", ["pictures", "pictures/run", "link/run"])
def test_a_run_does_not_lie_among_the_pictures_that_it_learns_from(tmp_path, place):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pictures")
    with refused("the folder of training pictures"):
        enter(tmp_path / place, RUN, apart=[tmp_path / "pictures"])
    assert not [*(tmp_path / "pictures").iterdir()]
    with writing(tmp_path / "pictures/.runs/one", RUN, apart=[tmp_path / "pictures"]):
        pass  # which no source of pictures looks into


def test_two_kinds_never_share_a_directory(tmp_path):
    for kind in FILES:
        path = fill(tmp_path / kind.name, kind)
        before = tree(path)
        for other in FILES:
            for options in ({"resume": True}, {"overwrite": True}) if other != kind else ():
                with refused(f"contains an? (un)?finished {kind.name}, and `{other.command}` does"):
                    enter(path, other, **options)
        assert tree(path) == before


def test_what_is_there_needs_a_word_and_nothing_needs_none(tmp_path):
    path = fill(tmp_path / "d", RUN)
    with refused(
        "d contains a finished run. Continue it with resume=True .--resume.*overwrite=True .*--out"
    ):
        enter(path, RUN)
    (path / "summary.json").unlink()
    with refused("d contains an unfinished run"), writing(path, RUN):
        pass
    for _ in range(2):  # nothing but the marker of one that ended at once
        enter(tmp_path / "new", RUN)


@pytest.mark.parametrize(
    ("kind", "places"),
    [
        (RUN, ["spec.yaml", "resolved.yaml", "layers/01-conv1/kernel.npy"]),
        (TRANSFER, ["spec.yaml", "resolved.yaml", "units/lsuv/labels-1/seed-0.json"]),
        (SEARCH, ["spec.yaml", "search.key", "01-conv1-abcdef/oracle.json"]),
        (EXPORT, ["model.keras", "saved_model/assets.extra/kclr.json"]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_directories_of_a_kclr_without_markers_are_known_by_its_files(tmp_path, kind, places):
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("")
    assert kind_of(tmp_path) is kind
    with writing(tmp_path, kind, resume=True):
        assert json.loads((tmp_path / ".kclr").read_text()) == {"kclr": kind.name, "format": 1}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"kclr": "run"}', '{"kclr": 3, "format": 1}', "[" * 5000]
)
def test_another_programs_file_of_the_markers_name_marks_nothing(tmp_path, text):
    (tmp_path / ".kclr").write_text(text)
    (tmp_path / "thesis.tex").write_text("years")
    with refused("kclr did not create it"), writing(tmp_path, RUN, overwrite=True):
        pass


def test_a_directory_of_a_newer_kclr_is_left_alone(tmp_path):
    (tmp_path / ".kclr").write_text('{"kclr": "run", "format": 2}')
    (tmp_path / "spec.yaml").write_text("")
    with refused("was written by a newer kclr"), writing(tmp_path, RUN, overwrite=True):
        pass


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    path = fill(tmp_path / "d", RUN)
    words = (
        "import sys; from kclr.runs.directories import *\nwith writing(sys.argv[1], RUN, True):\n"
    )
    words += "    print('in', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", words, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"in\n"
    before = tree(path)
    for options in ({"resume": True}, {"overwrite": True}):
        with refused("d: another process is writing to this run. Wait"):
            enter(path, RUN, **options)
    assert tree(path) == before
    other.kill()
    other.communicate()
    enter(path, RUN, resume=True)


def test_what_a_killed_process_left_is_cleaned_by_the_next_that_may_write(tmp_path):
    path = fill(tmp_path / "d", RUN)
    before = tree(path)
    (path / "layers/.03-conv3.part").mkdir()
    (path / "layers/.03-conv3.part/kernel.npy").write_text("half")
    (path / "checkpoints/.02-a.b.part.npz").write_text("half")
    (path / ".saved_model.part/variables/variables_temp").mkdir(parents=True)
    (path / "saved_model").rename(path / ".saved_model.old")  # and not yet its successor
    with writing(path, RUN, resume=True):
        assert tree(path) == before
    enter(path, RUN, overwrite=True)


def test_a_layers_directory_with_something_else_in_it_is_not_replaced(tmp_path):
    (tmp_path / "01-conv1").mkdir()
    check_ours(tmp_path / "01-conv1", LAYER)
    (tmp_path / "01-conv1/kernel.npy").write_text("")
    check_ours(tmp_path / "01-conv1", LAYER)
    (tmp_path / "01-conv1/notes.txt").write_text("")
    with refused(r"01-conv1 contains notes\.txt"):
        check_ours(tmp_path / "01-conv1", LAYER)


def test_what_is_no_longer_needed_goes_and_what_is_somebody_elses_stays(tmp_path):
    path = fill(tmp_path / "d", RUN)
    (path / "layers/01-conv1/notes.txt").write_text("mine")
    discard(path, RUN)
    assert sorted(tree(path)) == ["layers", "layers/01-conv1", "layers/01-conv1/notes.txt"]
    discard(path, RUN)
    assert (path / "layers/01-conv1/notes.txt").exists()


def test_an_export_stands_beside_somebody_elses_files_and_replaces_only_its_own(tmp_path):
    names = ["model.keras", "saved_model"]
    (tmp_path / "thesis.tex").write_text("years")
    enter_shared(tmp_path, names)
    (tmp_path / "model.keras").write_text("of kclr")
    enter_shared(tmp_path, names)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.keras").write_text("mine")
    with refused(r"other contains model\.keras, which kclr did not write; it was not changed"):
        enter_shared(other, names)
    assert [*tree(other)] == ["model.keras"]
    with refused("contains a search, and `kclr export` does not write into one"):
        enter_shared(fill(tmp_path / "s", SEARCH), names)


def test_two_exports_to_one_place_do_not_write_into_each_other(tmp_path):
    with sharing(tmp_path, ["model.keras"]):
        with refused("another process is writing to this export. Wait until it has ended"):
            enter_shared(tmp_path, ["model.keras"])
        enter_shared(tmp_path, ["model.keras"], lock=False)  # as within a training
    enter_shared(tmp_path, ["model.keras"])


def test_a_directory_that_is_no_kclrs_is_locked_without_a_trace(tmp_path):
    with locked(tmp_path):
        with pytest.raises(BlockingIOError), locked(tmp_path, wait=False):
            pass
        assert not [*tmp_path.iterdir()]
    with locked(tmp_path, wait=False):
        pass


@pytest.mark.parametrize("kind", [SEARCH, TRANSFER], ids=lambda kind: kind.name)
def test_emptying_a_directory_in_the_midst_leaves_it_marked_and_unfinished(
    tmp_path, monkeypatch, kind
):
    path = fill(tmp_path / "d", kind)
    (path / kind.finished).write_text("{}")
    unlink, gone = type(path).unlink, []

    def killed(self, **options):
        gone.append(self.name)
        if len(gone) == 3:
            raise KeyboardInterrupt
        unlink(self, **options)

    monkeypatch.setattr(type(path), "unlink", killed)
    with pytest.raises(KeyboardInterrupt), writing(path, kind, overwrite=True):
        pass
    monkeypatch.undo()
    assert not (path / kind.finished).exists()
    assert kind_of(path) is kind
    with writing(path, kind, overwrite=True):
        assert sorted(tree(path)) == [".kclr", ".lock", "spec.yaml"]
