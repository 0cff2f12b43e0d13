"""Arrays in files: every form gives the numbers that were written, a few at a time."""

import json
import pickle
import struct
import zipfile

import h5py
import numpy as np
import pytest

from kclr.data import array_files
from kclr.data.sources import as_images, source, split_source
from kclr.errors import RunError, SpecError

X = np.random.default_rng(0).normal(0, 50, (37, 9, 7, 3)).astype(np.float32)


def save(path, array=X, key="x", **others):
    """Writes an array in the form that the ending says, and how a spec names it."""
    ending = path.suffix
    if ending == ".npy":
        np.save(path, array)
    elif ending == ".npz":
        np.savez_compressed(path, **{key: array}, **others)
    elif ending == ".h5":
        with h5py.File(path, "w") as file:
            for name, own in {key: array, **others}.items():
                file.create_dataset(name, data=own, chunks=(5, *own.shape[1:]), compression="gzip")
    else:
        zarr = pytest.importorskip("zarr")
        group = zarr.open_group(str(path), mode="w")
        for name, own in {key: array, **others}.items():
            sizes = {"shape": own.shape, "chunks": (5, *own.shape[1:]), "dtype": own.dtype}
            getattr(group, "create_array", group.create_dataset)(name, **sizes)[:] = own
    return f"array:{path}"


FORMS = [".npy", ".npz", ".h5", ".zarr"]


@pytest.mark.parametrize("ending", FORMS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float16", "float32", "float64"])
def test_every_form_gives_the_numbers_that_were_written(tmp_path, ending, dtype):
    written = np.abs(X).astype(dtype)
    part = source(save(tmp_path / f"a{ending}", written))
    assert part.image_shape() == (9, 7, 3)
    images = part.open()
    kept = "float32" if dtype == "float64" else dtype
    assert (images.count, images.channels, images.dtype) == (37, 3, kept)
    read = np.stack([*images.read()])
    assert read.dtype == kept
    np.testing.assert_array_equal(read, written.astype(kept))
    np.testing.assert_array_equal(np.stack([*images.read(31)]), written[31:].astype(kept))
    converted = [words for words in images.look() if "are read as float32" in words]
    assert len(converted) == (dtype == "float64")


@pytest.mark.parametrize("ending", FORMS)
def test_rows_are_read_in_blocks_and_never_as_a_whole(tmp_path, ending, monkeypatch):
    text = save(tmp_path / f"a{ending}")
    monkeypatch.setattr(array_files, "_BLOCK", 4 * X[0].nbytes)
    read = []
    streamed = array_files.Stored.blocks

    def watched(self, memory):
        real = self.read
        object.__setattr__(self, "read", lambda a, b: read.append(b - a) or real(a, b))
        return streamed(self, memory)

    monkeypatch.setattr(array_files.Stored, "blocks", watched)
    assert len(list(as_images(text).read())) == 37
    # Chunks are read whole, and each once.
    assert set(read[:-1]) == ({5} if ending in (".h5", ".zarr") else {4})
    assert sum(read) == 37


@pytest.mark.parametrize("ending", FORMS)
def test_gray_images_and_images_with_their_channels_first(tmp_path, ending):
    gray = source(save(tmp_path / f"gray{ending}", X[..., 0]))
    assert gray.image_shape() == (9, 7, 1)
    np.testing.assert_array_equal(next(gray.open().read())[..., 0], X[0, ..., 0])
    text = save(tmp_path / f"first{ending}", np.ascontiguousarray(np.moveaxis(X, -1, 1)))
    with pytest.raises(SpecError, match=r"channels_first: true for 3 channels, or .* false for 7"):
        as_images(text)
    first = as_images(text, channels_first=True)
    np.testing.assert_array_equal(np.stack([*first.read()]), X)
    assert as_images(text, channels_first=False).channels == 7


@pytest.mark.parametrize("ending", FORMS)
def test_series_are_images_of_height_one(tmp_path, ending):
    long = X.reshape(37, 63, 3)
    text = save(tmp_path / f"a{ending}", long).replace("array:", "series:")
    part = source(text)
    assert part.image_shape() == (1, 63, 3)
    images = part.open()
    assert images.series
    np.testing.assert_array_equal(np.stack([*images.read()])[:, 0], long)
    assert source(text, tile=20).image_shape() == (1, 20, 3)
    assert len(list(as_images(text, tile=20).read())) == 3 * 37
    first = save(tmp_path / f"first{ending}", np.ascontiguousarray(np.moveaxis(long, -1, 1)))
    images = as_images(first.replace("array:", "series:"), channels_first=True)
    np.testing.assert_array_equal(next(images.read())[0], long[0])
    plain = save(tmp_path / f"plain{ending}", long[..., 0])
    assert as_images(plain.replace("array:", "series:")).channels == 1


def test_text_that_names_a_file_and_a_key_is_split(tmp_path):
    assert split_source("array:a.npz:x_test") == ("array", {"file": "a.npz:x_test"})
    assert array_files.split_key("a/b.npz:x/y") == ("a/b.npz", "x/y")
    assert array_files.split_key("C:/b.npy") == ("C:/b.npy", None)
    assert array_files.split_key("b.h5") == ("b.h5", None)
    (tmp_path / "odd.npz:x").write_bytes(b"")
    assert array_files.split_key(str(tmp_path / "odd.npz:x"))[1] is None
    part = source("series:a.npz:x", limit=5)
    assert part.spec_name() == "series:a.npz:x"


@pytest.mark.parametrize("ending", [".npz", ".h5", ".zarr"])
def test_missing_key_is_told_with_those_that_are_there(tmp_path, ending):
    text = save(tmp_path / f"a{ending}", key="x_train", x_test=X[:5], y_train=np.arange(37))
    assert as_images(text).count == 37
    assert as_images(f"{text}:x_test").count == 5
    with pytest.raises(SpecError, match=r"has no array 'x_tset'\. Did you mean 'x_test'\?"):
        as_images(f"{text}:x_tset")
    with pytest.raises(SpecError, match=r"has no array 'q'\. Choose from x_test, x_train, y_train"):
        as_images(f"{text}:q")
    with pytest.raises(SpecError, match=r"of shape \(37,\) is not \(count, height, width\)"):
        as_images(f"{text}:y_train")
    text = save(tmp_path / f"b{ending}", key="first", second=X)
    with pytest.raises(SpecError, match=r"several arrays \(first, second\)\. Say which: .*:first"):
        as_images(text)


def test_key_of_a_group_within_hdf5(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("deep/within/x", data=X)
    assert as_images(f"array:{tmp_path / 'a.h5'}").count == 37
    assert as_images(f"array:{tmp_path / 'a.h5'}:/deep/within/x").count == 37


def test_pickled_objects_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    objects = np.array([Trap(), None], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", x=objects)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(SpecError, match="Python objects, which are not read"):
            as_images(f"array:{tmp_path / name}")
    (tmp_path / "b.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(SpecError, match=r"not that of a \.npy"):
        as_images(f"array:{tmp_path / 'b.npy'}")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((3, 4, 4), complex), "complex numbers, not real numbers"),
        (np.full((3, 4, 4), "a"), "texts, not real numbers"),
        (np.zeros((3, 4, 4), [("a", "f4")]), "records, not real numbers"),
        (np.zeros((0, 4, 4)), "is empty"),
        (np.zeros(3), "is not .count, height, width."),
        (np.zeros((3, 40)), "Write series:"),
        (np.float32(3), "a single number"),
    ],
)
@pytest.mark.parametrize("ending", [".npy", ".npz"])
def test_what_is_no_images_is_refused_in_words(tmp_path, values, words, ending):
    text = save(tmp_path / f"a{ending}", values)
    with pytest.raises(SpecError, match=words):
        as_images(text)
    assert source(text).image_shape() is None


def test_claim_of_a_terabyte_takes_no_memory(tmp_path):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 30, 16, 16)}
        )
        file.write(bytes(1 << 16))
    with pytest.raises(SpecError, match=r"cut off: its header tells of 1,099,511,627,904 bytes"):
        as_images(f"array:{path}")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (2, 1 << 18, 1 << 18), "f4", chunks=(1, 64, 64))
    with pytest.raises(SpecError, match=r"takes 262,144 MB, more than memory \(1,024 MB\)"):
        as_images(f"array:{tmp_path / 'a.h5'}")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("x", (1 << 20, 64, 64), "f4", chunks=(1 << 16, 64, 64))
    with pytest.raises(SpecError, match=r"one chunk .* takes 1,024 MB, more than memory \(999 MB"):
        as_images(f"array:{tmp_path / 'b.h5'}", memory=999)


@pytest.mark.parametrize("ending", [".npy", ".npz", ".h5"])
def test_half_of_a_file_is_refused(tmp_path, ending):
    text = save(tmp_path / f"a{ending}")
    path = tmp_path / f"a{ending}"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SpecError, match="cut off"):
        as_images(text)


def test_member_that_ends_early_names_the_images_that_are_lost(tmp_path):
    np.save(tmp_path / "x.npy", X)
    whole = (tmp_path / "x.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", whole[: -X[0].nbytes * 3])
    images = as_images(f"array:{tmp_path / 'a.npz'}", max_unreadable=0.0)
    with pytest.raises(RunError, match="cut off"):
        list(images.read())


def test_links_out_of_a_file_are_not_followed(tmp_path):
    save(tmp_path / "secret.h5")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = h5py.ExternalLink("secret.h5", "/x")
    with pytest.raises(SpecError, match="holds no arrays"):
        as_images(f"array:{tmp_path / 'a.h5'}:x")
    np.zeros((3, 4, 4), np.uint8).tofile(tmp_path / "raw")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset(
            "x", (3, 4, 4), "u1", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)]
        )
    with pytest.raises(SpecError, match="in other files"):
        as_images(f"array:{tmp_path / 'b.h5'}")


@pytest.mark.parametrize("place", ["compressor", "filters"])
def test_zarr_is_not_decoded_by_pickle(tmp_path, place):
    pytest.importorskip("zarr")

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    codec = {"id": "pickle", "protocol": 4}
    described = {
        "zarr_format": 2, "shape": [3, 4, 4], "chunks": [3, 4, 4], "dtype": "|u1", "order": "C",
        "fill_value": 0, "compressor": None, "filters": None,
    }  # fmt: skip
    described[place] = [codec] if place == "filters" else codec
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(described))
    (tmp_path / "a.zarr" / "0.0.0").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(SpecError, match="is not supported: pickle|broken"):
        as_images(f"array:{tmp_path / 'a.zarr'}")


def test_not_a_number_is_read_as_such(tmp_path):
    values = X.copy()
    values[3, 2, 1] = np.nan
    read = np.stack([*as_images(save(tmp_path / "a.npz", values)).read()])
    np.testing.assert_array_equal(np.isnan(read), np.isnan(values))


def test_file_that_is_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(SpecError, match=r"a\.npy: file not found\."):
        as_images(f"array:{tmp_path / 'a.npy'}")
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(SpecError, match=r"Use one of \.npy, \.npz, \.h5, \.hdf5, \.zarr\."):
        as_images(f"array:{tmp_path / 'a.csv'}")
    save(tmp_path / "a.npz")
    for text in (tmp_path / "a.npz", "windows.npy", "a.npz:x", "b.zarr"):
        with pytest.raises(SpecError, match=f"{text} is an array. Write array:{text}, or series:"):
            as_images(text)
    with pytest.raises(SpecError, match=r"1 \.npz\. For an array in a file write array:FILE"):
        as_images(tmp_path)


def test_fingerprint_follows_the_numbers_and_the_key_and_not_the_place(tmp_path):
    one = save(tmp_path / "a.npz", other=X)
    found = {as_images(f"{one}:{key}").fingerprint for key in ("x", "other")}
    assert as_images(one).fingerprint in found
    (tmp_path / "moved").mkdir()
    moved = save(tmp_path / "moved" / "a.npz", other=X)
    assert as_images(moved).fingerprint == as_images(one).fingerprint
    assert len(found | {as_images(save(tmp_path / "a.npz", X + 1, other=X)).fingerprint}) == 3


def test_arrays_in_a_folder_are_pictures(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", X[number].astype(np.float16))
    part = source(str(tmp_path))
    assert part.image_shape() == (9, 7, 3)
    images = part.open()
    assert images.dtype == "float16"
    read = {image.tobytes() for image in images.read()}
    assert read == {X[number].astype(np.float16).tobytes() for number in range(3)}


def test_array_beside_pictures_is_none(tmp_path):
    from PIL import Image

    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "labels.npy", np.arange(5))
    images = as_images(tmp_path)
    assert images.count == 1
    assert str(images.census) == "1 picture (1 .png); left out: 1 .npy"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (struct.pack("<6sBBH", b"\x93NUMPY", 1, 0, 8) + b"{broken}", "its header is not"),
        (b"\x93NUMPY", "its header is not"),
        (b"", "an empty file"),
    ],
)
def test_broken_array_in_a_folder_is_named(tmp_path, content, reason):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(RunError, match=f"a.npy: {reason}"):
        list(as_images(tmp_path).read())


def test_scaling_of_what_is_too_large_is_measured_in_one_go(tmp_path, monkeypatch):
    from kclr.data import images as module

    text = save(tmp_path / "a.npz", np.repeat(X, 40, axis=0))
    monkeypatch.setattr(module, "_MEASURED", 40 * 37 * X[0].nbytes // 7)
    opened = []
    real = array_files.opened
    monkeypatch.setattr(array_files, "opened", lambda *a: opened.append(a) or real(*a))
    images = as_images(text, memory=1)
    opened.clear()
    scaling = images.scaling()
    assert len(opened) <= 4
    chosen = np.repeat(X, 40, axis=0)[::7].astype(np.float64)
    np.testing.assert_allclose(scaling.shift, chosen.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(scaling.spread, chosen.std((0, 1, 2)), rtol=1e-5)
