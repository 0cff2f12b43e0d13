"""One layer for paths: a run in an object store is written and read as one on disk."""

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import kclr
from kclr.learned import Listener
from kclr.paths import append, as_path, atomic, files, remove
from kclr.spec import parse_spec

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
        def stepped(self, step, metrics):
            if step == 3:
                raise KeyboardInterrupt

    here = kclr.train(parse_spec(SPEC), tmp_path / "run").layers[0]
    with pytest.raises(KeyboardInterrupt):
        kclr.train(parse_spec(SPEC), f"{bucket}/run", listener=Stop())
    assert as_path(f"{bucket}/run/checkpoints/01-conv1.npz").exists()
    with pytest.raises(kclr.RunError, match=r"s3://bucket/run holds an unfinished run"):
        kclr.train(parse_spec(SPEC), f"{bucket}/run")
    kclr.train(parse_spec(SPEC), f"{bucket}/run", resume=True)
    run = kclr.load_run(f"{bucket}/run")
    np.testing.assert_array_equal(run.layers[0].kernel, here.kernel)
    assert [row["step"] for row in run.layers[0].history()] == [2, 4]
    assert "layers/01-conv1/kernel.npy" in run.summary["sha256"]
    kernel = kclr.initializers.ContrastiveKernel(f"{bucket}/run")((6, 6, 3, 4))
    np.testing.assert_array_equal(kernel, here.kernel)
