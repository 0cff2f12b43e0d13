"""Images are told apart by all of their content; files that did not change are not read again."""

import os
import time

import numpy as np
import pytest

from kclr.data import fingerprints
from kclr.data.fingerprints import array_digest, of_files
from kclr.data.sources import as_images


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache directory of its own, and as if every folder were worth remembering."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "_WORTH_FILES", 0)
    monkeypatch.setattr(fingerprints, "_known", {})
    return tmp_path / "cache" / "kclr" / "checksums"


@pytest.fixture
def files(tmp_path):
    """Two files that changed long ago, by name."""
    found = {name: tmp_path / name for name in ("a.png", "b.png")}
    for name, path in found.items():
        path.write_bytes(name.encode())
    return found


@pytest.fixture
def later(monkeypatch):
    """As if the files had been written an hour ago."""
    now = time.time_ns
    monkeypatch.setattr(fingerprints.time, "time_ns", lambda: now() + 3600 * 10**9)


def new_process(monkeypatch):
    monkeypatch.setattr(fingerprints, "_known", {})


def reads(monkeypatch):
    """The paths that are read from now on."""
    found, own = [], fingerprints._hash
    monkeypatch.setattr(fingerprints, "_hash", lambda path: found.append(path) or own(path))
    return found


def test_a_data_set_is_told_from_one_that_differs_late():
    import tensorflow as tf

    images = np.zeros((40, 4, 4, 3), np.uint8)
    changed = images.copy()
    changed[39, 3, 3, 2] = 1
    made = [tf.data.Dataset.from_tensor_slices(a).batch(8) for a in (images, images, changed)]
    first, same, other = (as_images(dataset).fingerprint for dataset in made)
    assert first == same != other


def test_an_array_larger_than_a_sample_is_told_from_one_that_differs_anywhere():
    images = np.zeros((300, 8, 8, 1), np.uint8)
    changed = images.copy()
    changed[151, 7, 7] = 1
    assert as_images(images).fingerprint != as_images(changed).fingerprint
    assert as_images(images, memory=1).fingerprint != as_images(images).fingerprint


@pytest.mark.parametrize("kind", [list, np.asarray])
def test_pictures_that_change_places_are_other_images(kind):
    images = np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4, 1)
    swapped = images[[1, 0, 2]]
    assert as_images(kind(images)).fingerprint != as_images(kind(swapped)).fingerprint


def test_images_in_chunks_have_the_content_of_those_in_memory():
    images = np.random.default_rng(0).integers(0, 255, (3, 700, 700, 1), np.uint8)
    contents = [as_images(images, memory=memory).identify() for memory in (1, 1024)]
    assert contents[0] == contents[1]


def test_plain_batches_hash_nothing(monkeypatch, photographs):
    from kclr import PatchTripletGenerator

    monkeypatch.setattr(fingerprints.hashlib, "blake2b", None)
    assert PatchTripletGenerator(photographs[:20], 7).image_count == 20


def test_types_and_shapes_of_arrays_count():
    zeros = [np.zeros(4, np.uint8), np.zeros((2, 2), np.uint8), np.zeros(1, np.float32)]
    assert len({array_digest(array) for array in [*zeros, np.zeros(0)]}) == 4
    strided = np.arange(12).reshape(3, 4).T
    assert array_digest(strided) == array_digest(np.ascontiguousarray(strided))


def test_known_files_are_not_read_again(home, files, later, monkeypatch, tmp_path):
    first = of_files(tmp_path, files)
    read = reads(monkeypatch)
    assert of_files(tmp_path, files) == first
    new_process(monkeypatch)
    assert of_files(tmp_path, files) == first
    assert read == []
    os.utime(files["a.png"], ns=(1, 1))
    assert of_files(tmp_path, files) == first
    assert read == [files["a.png"]]


def test_a_file_that_has_just_been_written_is_not_remembered(home, files, monkeypatch, tmp_path):
    first = of_files(tmp_path, files)
    state = files["a.png"].stat()
    files["a.png"].write_bytes(b"other")
    os.utime(files["a.png"], ns=(state.st_atime_ns, state.st_mtime_ns))
    # As a file system with coarse times would have it.
    monkeypatch.setattr(fingerprints, "_key", lambda path, found: str(path).encode())
    assert of_files(tmp_path, files).digest != first.digest


def test_a_change_that_puts_the_old_time_back_is_seen(home, files, later, tmp_path):
    first = of_files(tmp_path, files)
    state = files["a.png"].stat()
    files["a.png"].write_bytes(b"b.png")
    os.utime(files["a.png"], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert of_files(tmp_path, files).digest != first.digest


@pytest.mark.parametrize("damage", ["", "cut", "flipped", "grown"])
def test_a_damaged_memory_is_no_memory(home, files, later, monkeypatch, tmp_path, damage):
    first = of_files(tmp_path, files)
    (memory,) = home.iterdir()
    content = bytearray(memory.read_bytes())
    if damage == "flipped":
        content[40] ^= 1
    new = {"": b"", "cut": content[:-3], "grown": content + bytes(32)}.get(damage, content)
    memory.write_bytes(new)
    new_process(monkeypatch)
    read = reads(monkeypatch)
    assert of_files(tmp_path, files) == first
    assert len(read) == 2


def test_a_home_that_cannot_be_written_to_is_done_without(files, later, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(fingerprints, "_WORTH_FILES", 0)
    assert of_files(tmp_path, files).count == 2


def test_what_cannot_be_read_waits_for_nobody_and_is_told_from_what_can(files, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    pipe = of_files(tmp_path, {"a.png": tmp_path / "pipe.png"})
    gone = of_files(tmp_path, {"a.png": tmp_path / "gone.png"})
    there = of_files(tmp_path, {"a.png": files["a.png"]})
    assert len({found.digest for found in (pipe, gone, there)}) == 3


def test_small_folders_leave_nothing_in_the_users_home(home, files, later, monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprints, "_WORTH_FILES", 2000)
    of_files(tmp_path, files)
    assert not home.exists()


def test_it_is_told_how_many_of_many_files_are_read(files, monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprints, "_AT_ONCE", 1)
    told = []
    of_files(tmp_path, files, lambda *counts: told.append(counts))
    assert told == [(1, 2), (2, 2)]
