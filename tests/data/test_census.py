"""What is used of a folder, what is left out, and what is said of that."""

import os
import socket

import numpy as np
import pytest
from PIL import Image

from kclr.data import census
from kclr.data.sources import source
from kclr.errors import SpecError


def touch(folder, *names, content=b"x"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "a.png"
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(path)
    return path.read_bytes()


def taken(folder):
    found = census.Census()
    return sorted(os.path.relpath(p, folder) for p in census.files(str(folder), found)), found


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.tif", "TIFF"), ("a.TIFF", "TIFF"), ("a.jfif", "JPEG"), ("a.Jpe", "JPEG"),
        ("a", "PNG"), ("photo.jpg_large", "JPEG"), ("scan.0001", "TIFF"), ("b", "WEBP"),
        ("a.jp2", "JPEG2000"), ("a.ppm", "PPM"), ("a.tga", "TGA"), ("a.pcx", "PCX"),
        ("c", "BMP"), ("d", "GIF"), ("a.png", "TIFF"),
    ],
)  # fmt: skip
def test_picture_is_read_whatever_its_ending(tmp_path, name, format):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8).repeat(3, 0)
    Image.fromarray(pixels).save(tmp_path / name, format=format)
    images = source(str(tmp_path)).open()
    (image,) = images.read()
    assert image.shape == (60, 30, 3)
    assert np.abs(image[..., 0].astype(int) - pixels).mean() < 40
    assert images.census.used.total() == 1


def test_what_is_used_and_left_out_is_counted_by_ending(tmp_path, picture):
    touch(tmp_path, *(f"{n}.PNG" for n in range(5)), "tifs/one.tif", "noending", content=picture)
    touch(tmp_path, "a.txt", "b.txt", "Thumbs.db", ".hidden", ".git/x", "README", "x.heic")
    images = source(str(tmp_path)).open()
    assert images.census.as_dict() == {
        "used": {".png": 5, ".tif": 1, "without ending": 1},
        "left_out": {".txt": 2, "hidden": 2, ".db": 1, "without ending": 1, ".heic": 1},
        "closed": [],
    }
    assert images.census == source(str(tmp_path)).census()
    assert images.count == 7
    assert "7 pictures (5 .png, 1 without ending, 1 .tif); left out: 2 hidden, 2 .txt" in str(
        images.census
    )


def test_pictures_that_are_not_read_are_warned_of_and_lists_are_not(tmp_path, picture):
    touch(tmp_path, "a.png", content=picture)
    touch(tmp_path, *(f"{n}.txt" for n in range(30)), ".x", "Thumbs.db")
    assert taken(tmp_path)[1].warnings() == []
    touch(tmp_path, "a.heic", "b.heic", "c.NEF")
    (warning,) = taken(tmp_path)[1].warnings()
    assert warning.startswith("2 .heic, 1 .nef left out: image formats that are not supported")
    assert source(str(tmp_path)).open().warnings == [f"folder:{tmp_path}: {warning}"]


def test_more_unknown_files_than_pictures_are_warned_of(tmp_path, picture):
    touch(tmp_path, "a.png", "b.png", content=picture)
    touch(tmp_path, "a.xyz", "b.xyz")
    assert taken(tmp_path)[1].warnings() == []
    touch(tmp_path, "c.xyz")
    assert "3 .xyz left out, and only 2 used" in taken(tmp_path)[1].warnings()[0]


def test_raw_photograph_is_not_taken_for_its_thumbnail(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "a.dng", format="TIFF")
    assert taken(tmp_path)[0] == []


def test_pipes_devices_and_sockets_are_never_opened(tmp_path, picture):
    touch(tmp_path, "a.png", content=picture)
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path has to be short
        try:
            server.bind("s.png")
        finally:
            os.chdir(here)
    found, counted = taken(tmp_path)
    assert found == ["a.png"]
    assert counted.left_out["not a regular file"] == 3
    assert "3 left out that are named like pictures" in counted.warnings()[0]
    assert len(list(source(str(tmp_path)).open().read())) == 1


def test_picture_that_becomes_a_pipe_is_skipped(tmp_path, picture):
    touch(tmp_path, *(f"{n}.png" for n in range(12)), content=picture)
    images = source(str(tmp_path)).open()
    (tmp_path / "3.png").unlink()
    os.mkfifo(tmp_path / "3.png")
    assert len(list(images.read())) == 11
    assert dict(images.skipped) == {"3.png": "not a regular file"}


def test_folder_that_may_not_be_listed_is_named_and_the_walk_goes_on(
    tmp_path, picture, monkeypatch
):
    touch(tmp_path, "a.png", "closed/b.png", "open/c.png", content=picture)
    real = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)  # a test may run as root, who may list everything
    found, counted = taken(tmp_path)
    assert found == ["a.png", "open/c.png"]
    assert counted.closed == ["closed"]
    assert "closed cannot be listed" in counted.warnings()[0]
    with pytest.raises(SpecError, match="no permission to list this folder"):
        source(str(tmp_path / "closed")).open()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
def test_kernel_file_systems_are_not_entered(tmp_path, picture):
    touch(tmp_path, "a.png", content=picture)
    (tmp_path / "proc").symlink_to("/proc")
    assert taken(tmp_path)[0] == ["a.png"]


def test_name_that_is_not_utf_8_can_be_printed(tmp_path, picture):
    touch(tmp_path, *(f"{n}.png" for n in range(12)), content=picture)
    strange = os.fsencode(tmp_path) + b"/caf\xe9\x1b[31m.png"
    try:
        with open(strange, "wb") as file:
            file.write(b"broken")
    except OSError:
        pytest.skip("a file system of UTF-8 alone")
    touch(tmp_path, r"caf\xe9\x1b[31m.png", content=picture)
    images = source(str(tmp_path)).open()
    assert len(list(images.read())) == 13
    ((name, _),) = images.skipped
    assert name.rstrip("'") == r"caf\xe9\x1b[31m.png"
    name.encode("utf-8")
