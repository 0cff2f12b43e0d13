"""One layer for paths: a run in an object store is written and read as one on disk."""

import contextlib
import errno
import os
import shutil

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import kclr
from kclr.events import Listener
from kclr.runs.paths import append, as_path, atomic, files, is_full, recover, remove, shown
from kclr.spec import parse_spec

pytestmark = pytest.mark.usefixtures("without_pictures")

SPEC = """
data: {source: photos, limit: 100}
stack:
  - block: {filters: 4}
    train: {steps: 4, batch_size: 8, log_every: 2, checkpoint_seconds: 0, jit: false}
"""


class Store(MemoryFileSystem):
    """An object store in memory, under `s3://`."""

    protocol = ("s3",)
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("s3://").strip("/")


@pytest.fixture
def bucket(monkeypatch):
    from etils.epath import backend

    monkeypatch.setattr("etils.epath.gpath._is_tf_installed", lambda: False)
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: Store())
    Store.store.clear()
    return "s3://bucket"


def test_a_directory_in_a_store_is_complete_when_its_last_file_is_there(bucket, monkeypatch):
    written = []
    put = Store.pipe_file

    def watched(self, path, *arguments, **options):
        written.append(path)
        return put(self, path, *arguments, **options)

    monkeypatch.setattr(Store, "pipe_file", watched)
    with atomic(f"{bucket}/layer") as temporary:
        temporary.mkdir()
        for name in ("layer.json", "a.npy", "z.npy"):
            (temporary / name).write_text(name)
        assert not Store.store
    names = sorted(path.name for path in files(f"{bucket}/layer"))
    assert names == ["a.npy", "layer.json", "z.npy"]
    assert list(Store.store)[-1].endswith("layer.json")
    with atomic(f"{bucket}/layer") as temporary:  # what is replaced is there until then
        temporary.mkdir()
        for name in ("layer.json", "b.npy", "z.npy"):
            (temporary / name).write_text(f"new {name}")
    assert {path.name: path.read_text() for path in files(f"{bucket}/layer")} == {
        name: f"new {name}" for name in ("layer.json", "b.npy", "z.npy")
    }
    remove(f"{bucket}/layer")
    assert not as_path(f"{bucket}/layer").exists()


def test_nothing_is_written_to_a_store_where_the_block_fails(bucket):
    def fails():
        with atomic(f"{bucket}/file.txt") as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not Store.store


def test_lines_are_added_to_a_file_in_a_store(bucket):
    path = as_path(f"{bucket}/lines")
    append(path, "one\n")
    append(path, "two\n")
    assert path.read_text() == "one\ntwo\n"


def test_a_run_in_a_store_is_that_on_disk_and_goes_on_from_its_checkpoint(bucket, tmp_path):
    class Stop(Listener):
        def heard(self, event):
            if event.kind == "step" and event.done == 3:
                raise KeyboardInterrupt

    here = kclr.train(parse_spec(SPEC), tmp_path / "run", bare=True).layers[0]
    with pytest.raises(KeyboardInterrupt):
        kclr.train(parse_spec(SPEC), f"{bucket}/run", listener=Stop())
    assert as_path(f"{bucket}/run/checkpoints/01-conv1.npz").exists()
    with pytest.raises(kclr.RunError, match=r"s3://bucket/run contains an unfinished run"):
        kclr.train(parse_spec(SPEC), f"{bucket}/run")
    kclr.train(parse_spec(SPEC), f"{bucket}/run", resume=True)
    run = kclr.load_run(f"{bucket}/run")
    np.testing.assert_array_equal(run.layers[0].kernel, here.kernel)
    assert [row["step"] for row in run.layers[0].history()] == [2, 4]
    assert "layers/01-conv1/kernel.npy" in run.summary["sha256"]
    kernel = kclr.initializers.ContrastiveKernel(f"{bucket}/run")((6, 6, 3, 4))
    np.testing.assert_array_equal(kernel, here.kernel)


def old_and_new(path):
    """A directory at `path`, and what writes another one in its place."""
    path.mkdir()
    (path / "a.txt").write_text("old")

    def write(fails=None):
        with atomic(path) as temporary:
            temporary.mkdir()
            (temporary / "b.txt").write_text("new")
            if fails:
                raise fails

    return write


def test_a_directory_is_there_whenever_another_takes_its_place(tmp_path, monkeypatch):
    path, seen = tmp_path / "d", []
    write = old_and_new(path)
    replace, remove_tree = os.replace, shutil.rmtree

    def watched(call):
        def seeing(*arguments, **options):
            seen.append(sorted(entry.name for entry in path.iterdir()))
            return call(*arguments, **options)

        return seeing

    monkeypatch.setattr("kclr.runs.paths.os.replace", watched(replace))
    monkeypatch.setattr("kclr.runs.paths.shutil.rmtree", watched(remove_tree))
    write()
    assert [names for names in seen if names not in (["a.txt"], ["b.txt"])] == []
    assert [entry.name for entry in path.iterdir()] == ["b.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_directory_that_is_replaced_is_never_lost(tmp_path, monkeypatch, swaps, step):
    """Whichever call a process is killed at, where directories can be swapped and where not."""
    path = tmp_path / "d"
    write = old_and_new(path)
    if not swaps:
        monkeypatch.setattr("kclr.runs.paths._exchange", lambda one, other: False)
    calls = []

    def killing(call):
        def killed(*arguments, **options):
            calls.append(call)
            if len(calls) >= step:
                raise SystemExit
            return call(*arguments, **options)

        return killed

    with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
        patch.setattr("kclr.runs.paths.os.replace", killing(os.replace))
        patch.setattr("kclr.runs.paths.shutil.rmtree", killing(shutil.rmtree))
        write()
    recover(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]
    assert [entry.name for entry in path.iterdir()] in (["a.txt"], ["b.txt"])
    write()
    assert [entry.name for entry in path.iterdir()] == ["b.txt"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]


def test_a_failure_leaves_the_old_directory_and_nothing_else(tmp_path):
    write = old_and_new(tmp_path / "d")
    with pytest.raises(KeyError):
        write(KeyError("x"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["d"]
    assert (tmp_path / "d/a.txt").read_text() == "old"


def retold(error):
    try:
        raise error
    except OSError:
        raise RuntimeError("cannot be written") from None


def test_a_full_disk_is_named_with_the_file_and_numpys_words_for_it_are_understood(tmp_path):
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("262144 requested and 122880 written"),
    ):
        with pytest.raises(OSError, match="No space left") as caught, atomic(tmp_path / "k.npy"):
            raise error
        assert caught.value.filename == str(tmp_path / "k.npy")
        assert is_full(caught.value)
    with pytest.raises(RuntimeError) as told:
        retold(OSError(errno.EDQUOT, "quota"))
    assert is_full(told.value)
    assert is_full(ValueError("saved_model: cannot be written: No space left on device"))
    assert not is_full(OSError(errno.EACCES, "no"))
    assert not [*tmp_path.iterdir()]


def test_a_line_that_does_not_fit_on_the_disk_leaves_no_part_of_itself(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "lines"
    append(path, "one\n")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            append(path, "two" * 100 + "\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.filename == str(path)
    assert path.read_text() == "one\n"


@pytest.mark.parametrize("name", ["a.txt", "01-a.b", "01-a.b.npz", "saved_model", ".kclr", "x.y"])
def test_hidden_names_are_told_from_those_of_others(tmp_path, name):
    with atomic(tmp_path / name) as temporary:
        temporary.write_text("")
        assert shown(temporary.name) == name
    assert shown(name) is None
