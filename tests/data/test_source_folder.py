"""Folders of whatever pictures people have."""

import os
import re
import struct
import zlib

import numpy as np
import PIL
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

import kclr
from kclr.data import image_files
from kclr.data.pixels import UnreadableError
from kclr.data.sources import as_images, as_source, source
from kclr.errors import RunError, SpecError
from kclr.spec import load_spec


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(load_sample_image("flower.jpg")[100:180, 200:320])


def read(folder, **options):
    return list(source(str(folder), **options).open().read())


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.jpg", "a.JPEG", "a.webp", "a.gif", "a.bmp"])
def test_every_format_is_read(tmp_path, photo, name):
    photo.save(tmp_path / name)
    (image,) = read(tmp_path)
    assert image.shape == (80, 120, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - np.asarray(photo)).mean() < 16


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, photo, mode):
    name = "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png"
    photo.convert("RGB" if mode == "YCbCr" else mode).save(tmp_path / name, quality=95)
    (image,) = read(tmp_path)
    # PIL takes every mode but those with alpha to RGB by itself.
    plain = {"RGBA": "RGB", "LA": "L", "YCbCr": "RGB", "CMYK": "RGB"}.get(mode, mode)
    exact = np.asarray(photo.convert(plain).convert("RGB")).astype(int)
    assert image.shape == (80, 120, 3)
    assert np.abs(image - exact).mean() < (4 if name == "a.jpg" else 1e-9)


def test_transparent_pixels_are_white(tmp_path):
    pixels = np.zeros((2, 8, 4), np.uint8)
    pixels[0, :, 3] = 255
    pixels[1, :4, 3] = 51
    Image.fromarray(pixels).save(tmp_path / "alpha.png")
    (image,) = read(tmp_path)
    np.testing.assert_array_equal(image[:, [0, 7], 0], [[0, 0], [204, 255]])


def test_transparent_palette_color_is_white(tmp_path):
    picture = Image.new("P", (8, 8), 1)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((0, 0), 0)
    picture.save(tmp_path / "palette.png", transparency=0)
    (image,) = read(tmp_path)
    np.testing.assert_array_equal(image[0, :2], [[255, 255, 255], [0, 0, 255]])


def test_sixteen_bits_stay_what_they_are(tmp_path):
    deep = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    (image,) = read(tmp_path)
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image[..., 0], deep)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_pictures_stand_upright(tmp_path, photo, orientation):
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # PIL's transposition that undoes each
    inverse = {0: 0, 1: 1, 2: 4, 3: 3, 4: 2, 5: 5, 6: 6}
    stored = photo
    if orientation > 1:
        stored = photo.transpose(Image.Transpose(inverse[turns[orientation]]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    (image,) = read(tmp_path)
    np.testing.assert_array_equal(image, np.asarray(photo))
    assert source(str(tmp_path)).image_shape() == (80, 120, 3)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    (image,) = read(tmp_path)
    np.testing.assert_array_equal(image[3, 3], [255, 0, 0])


def test_phone_picture_that_holds_a_second_one(tmp_path, photo):
    photo.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[photo.rotate(180)])
    (image,) = read(tmp_path)
    assert np.abs(image.astype(int) - np.asarray(photo)).mean() < 8


def deep_png(pixels, kind):
    """A PNG of 16 bits per color, which PIL does not write."""

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.tobytes() for row in pixels.astype(">u2"))
    height, width = pixels.shape[:2]
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_color_is_not_cut(tmp_path):
    deep = np.linspace(0, 65535, 4 * 5 * 3).astype(np.uint16).reshape(4, 5, 3)
    (tmp_path / "a.png").write_bytes(deep_png(deep, 2))
    (image,) = read(tmp_path)
    np.testing.assert_array_equal(image, deep)
    assert source(str(tmp_path)).image_shape() == (4, 5, 3)


@pytest.mark.parametrize(("kind", "channels"), [(4, 2), (6, 4)])
def test_sixteen_bit_transparency_is_white(tmp_path, kind, channels):
    deep = np.random.default_rng(0).integers(0, 65536, (6, 7, channels), np.uint16)
    deep[0, 0, -1], deep[0, 1, -1] = 0, 65535
    (tmp_path / "a.png").write_bytes(deep_png(deep, kind))
    (image,) = read(tmp_path)
    opacity = deep[..., -1:] / 65535
    exact = deep[..., :-1] * opacity + 65535 * (1 - opacity)
    assert image.dtype == np.uint16
    assert np.abs(image - exact).max() <= 0.5
    np.testing.assert_array_equal(image[0, 0], 65535)


def test_half_of_a_sixteen_bit_picture_is_called_cut_off(tmp_path):
    whole = deep_png(np.random.default_rng(0).integers(0, 65536, (40, 50, 3), np.uint16), 2)
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError, match="cut off"):
        image_files.decode(tmp_path / "a.png")


def spoil(folder, photo):
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not in a known image format")
    photo.save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "half.jpg").write_bytes(whole[: len(whole) // 2])
    photo.save(folder / "whole.png")
    whole = (folder / "whole.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.bmp").write_bytes(b"BM" + bytes(range(256)))
    os.symlink(folder / "nowhere", folder / "dangling.gif")


def test_broken_files_are_named_and_skipped(tmp_path, photo):
    spoil(tmp_path, photo)
    images = source(str(tmp_path), max_unreadable=0.8).open()
    assert len(list(images.read())) == 2
    reasons = dict(images.skipped)
    assert reasons.keys() == {
        "empty.png", "text.jpg", "half.jpg", "half.png", "noise.bmp", "dangling.gif",
    }  # fmt: skip
    assert reasons["empty.png"] == "an empty file"
    assert reasons["text.jpg"] == "not in a known image format"
    assert reasons["half.jpg"] == "cut off"
    list(images.read())
    assert len(images.skipped) == 6


def test_too_many_broken_files_stop_the_run(tmp_path, photo):
    spoil(tmp_path, photo)
    with pytest.raises(RunError) as error:
        read(tmp_path)
    text = str(error.value)
    assert "of 8 pictures cannot be used, more than max_unreadable allows (0.1 of them)" in text
    assert "Fix or remove them, or allow more: data: {source: folder:" in text
    assert any(name in text for name in ("empty.png", "text.jpg", "half.jpg", "half.png"))


def test_picture_of_too_many_pixels_is_skipped_with_the_bound_and_the_cure(tmp_path, photo):
    photo.save(tmp_path / "bomb.png")
    with pytest.raises(RunError) as error:
        read(tmp_path, max_pixels=9000)
    assert "bomb.png: too many pixels: 120x80 are 9,600, but max_pixels is 9,000" in str(
        error.value
    )
    assert f"{{source: folder:{tmp_path}, max_pixels: 400000000}}" in str(error.value)
    assert read(tmp_path, max_pixels=9600)[0].shape == (80, 120, 3)


def test_picture_larger_than_the_memory_is_not_decoded(tmp_path):
    # A header alone: decoding it would fail in another way.
    Image.new("RGB", (600, 500)).save(tmp_path / "a.png")
    with pytest.raises(
        RunError, match=r"600x500 are 300,000, which need 2 MB, more than memory \(1 MB\)"
    ):
        read(tmp_path, memory=1)
    assert read(tmp_path, memory=1, max_pixels=300_000)[0].shape == (500, 600, 3)


@pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13,
    reason="its crop minds the bound too, which the strips of large pictures are far below",
)
def test_pil_does_not_warn_of_bombs(tmp_path, photo, monkeypatch, recwarn):
    photo.save(tmp_path / "bomb.png")
    for bound in (5000, 1000):  # PIL warns of one, and refuses the other
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", bound)
        assert len(read(tmp_path)) == 1
    assert not recwarn


def test_program_in_disguise_is_not_run(tmp_path):
    (tmp_path / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(UnreadableError, match="known image format"):
        image_files.decode(tmp_path / "a.png")


def make(folder, count=12):
    for number in range(count):
        place = folder / f"class {number % 3}"
        place.mkdir(exist_ok=True)
        Image.new("L", (10 + number, 20), number).save(place / f"{number}.png")


def test_order_is_fixed_and_mixes_the_subfolders(tmp_path):
    make(tmp_path, 30)
    first = [image[0, 0, 0] for image in read(tmp_path)]
    assert first == [image[0, 0, 0] for image in read(tmp_path)]
    assert sorted(first) == list(range(30))
    assert first != sorted(first)
    assert len({number % 3 for number in first[:8]}) > 1
    images = source(str(tmp_path)).open()
    assert [image[0, 0, 0] for image in images.read(7)] == first[7:]
    limited = source(str(tmp_path), limit=5).open()
    assert limited.count == 5
    assert [image[0, 0, 0] for image in limited.read()] == first[:5]


def test_hidden_files_and_loops_of_links_are_left_alone(tmp_path):
    make(tmp_path, 3)
    (tmp_path / ".hidden").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / ".hidden" / "a.png")
    Image.new("L", (9, 9)).save(tmp_path / "._b.png")
    (tmp_path / "class 0" / "up").symlink_to(tmp_path, target_is_directory=True)
    assert source(str(tmp_path)).open().count == 3


def test_linked_folders_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    make(tmp_path / "elsewhere", 3)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert source(str(tmp_path / "pictures")).open().count == 3


def test_fingerprint_follows_the_bytes_of_the_files_and_not_their_times(tmp_path):
    make(tmp_path)
    before = source(str(tmp_path)).open().fingerprint
    assert before == as_images(tmp_path).fingerprint
    picture = tmp_path / "class 0" / "0.png"
    os.utime(picture, ns=(1, 1))
    assert source(str(tmp_path)).open().fingerprint == before
    content = picture.read_bytes()
    picture.write_bytes(content[:-1] + b"x")
    os.utime(picture, ns=(1, 1))
    changed = source(str(tmp_path)).open().fingerprint
    picture.unlink()
    removed = source(str(tmp_path)).open().fingerprint
    picture.write_bytes(content)
    assert len({before, changed, removed}) == 3
    assert source(str(tmp_path)).open().fingerprint == before


def test_fingerprint_survives_a_move(tmp_path):
    (tmp_path / "here").mkdir()
    make(tmp_path / "here")
    before = source(str(tmp_path / "here")).open().fingerprint
    (tmp_path / "here").rename(tmp_path / "there")
    assert source(str(tmp_path / "there")).open().fingerprint == before


def test_size_of_the_smallest_picture_is_known_beforehand(tmp_path):
    make(tmp_path)
    assert source(str(tmp_path), max_unreadable=0.0).image_shape() == (20, 10, 3)
    assert source(str(tmp_path), max_unreadable=0.1).image_shape() == (20, 11, 3)
    assert source(str(tmp_path), tile=8, channels=1).image_shape() == (8, 8, 1)


def test_tiles_are_images_of_their_own(tmp_path, photo):
    photo.save(tmp_path / "a.png")
    tiles = read(tmp_path, tile=32)
    assert len(tiles) == 2 * 3
    np.testing.assert_array_equal(tiles[4], np.asarray(photo)[32:64, 32:64])


def test_missing_folder_names_the_nearest(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(SpecError, match=r"picturs: folder not found\. Did you mean .*/pictures\?"):
        read(tmp_path / "picturs")
    with pytest.raises(SpecError, match=r"folder not found\. Check its spelling"):
        read(tmp_path / "something else")


def test_folder_without_pictures_and_file_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SpecError, match="no pictures in this folder or below it"):
        read(tmp_path)
    with pytest.raises(SpecError, match=r"is a file\. Use its folder"):
        read(tmp_path / "notes.txt")
    assert source(str(tmp_path)).image_shape() is None


def test_twelve_bit_files_are_warned_of_with_the_range_that_fits(tmp_path):
    deep = np.linspace(0, 4095, 256).round().astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "b.tif"):
        Image.fromarray(deep).save(tmp_path / name)
    images = source(str(tmp_path)).open()
    (warning,) = images.look()
    assert "scale: [0, 4095]" in warning
    images = source(str(tmp_path), scale=[0, 4095]).open()
    assert images.look() == []
    for image in images.read():
        np.testing.assert_array_equal(image[..., 0], deep)


def test_range_that_does_not_rise_is_refused(tmp_path):
    with pytest.raises(SpecError, match="its first value must be less than its second"):
        source(str(tmp_path), range=(5, 5))


def test_fourth_band_that_leaves_almost_nothing_is_warned_of(tmp_path, photo):
    for name, value in (("a.png", 9), ("b.png", 9), ("c.png", 200)):
        banded = photo.convert("RGBA")
        banded.putalpha(value)
        banded.save(tmp_path / name)
    (warning,) = source(str(tmp_path)).open().look()
    assert "2 of the first 3 pictures are nearly transparent" in warning
    photo.save(tmp_path / "opaque.png")
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").unlink()
    assert source(str(tmp_path)).open().look() == []


def test_text_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path, photo):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    photo.save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20)))
    (tmp_path / "a.png").write_bytes(whole[:33] + bomb + whole[33:])
    with pytest.raises(UnreadableError, match="(?i)too large"):
        image_files.decode(tmp_path / "a.png")


def test_few_small_pictures_are_told_with_the_share_that_would_skip_them(tmp_path):
    for number in range(20):
        size = (5, 5) if number < 6 else (32, 32)
        Image.new("L", size, number).save(tmp_path / f"{number}.png")
    folder = source(str(tmp_path))
    assert folder.too_small(8) == (
        " 6 of the 20 pictures are smaller than 8 px, but max_unreadable (0.1) allows 2: with 0.3 "
        "they would be skipped."
    )
    assert source(str(tmp_path), max_unreadable=0.3).image_shape() == (32, 32, 3)
    assert folder.too_small(64) == ""


def test_missing_folder_above_names_the_nearest(tmp_path):
    (tmp_path / "Pictures" / "cats").mkdir(parents=True)
    with pytest.raises(SpecError, match=r"Did you mean .*/Pictures/cats\?"):
        read(tmp_path / "picture" / "cats")
    with pytest.raises(SpecError, match="Check its spelling"):
        read(tmp_path / "nowhere" / "cats")


def test_several_folders_are_one_source(tmp_path):
    for name, values in (("a", range(3)), ("b", range(3, 8))):
        (tmp_path / name).mkdir()
        for value in values:
            Image.new("L", (9, 9), value).save(tmp_path / name / f"{value % 3}.png")
    several = source("folder", path=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert several == source(str(tmp_path / "a"), also=[str(tmp_path / "b")])
    spec = {"data": {"source": str(tmp_path / "a"), "also": [str(tmp_path / "b")]}, "stack": [{}]}
    with pytest.raises(RunError, match="run is in the folder of training pictures, .*/b:"):
        kclr.train(spec, tmp_path / "b" / "run")
    listed = [f"folder:{tmp_path / 'a'}", f"folder:{tmp_path / 'b'}"]
    for data in (listed, {"source": listed}):
        assert load_spec({"data": data, "stack": [{}]}).data == as_source(data) == several
    images = several.open()
    assert images.count == len({name for name, _ in images.pictures()}) == 6
    assert {image[0, 0, 0] for image in images.read()} == {0, 1, 2, 6, 7, 5}
    assert images.census.used.total() == 6
    assert images.fingerprint != as_images(tmp_path / "a").fingerprint
    (tmp_path / "c").mkdir()
    with pytest.raises(SpecError, match=r"/c: no pictures in this folder"):
        as_images(tmp_path / "a", also=[str(tmp_path / "c")])


def test_labels_may_be_those_of_one_of_several_folders(tmp_path):
    for place in ("many", "few/cats", "few/dogs"):
        (tmp_path / place).mkdir(parents=True)
        for value in range(5):
            Image.new("L", (9, 9), value).save(tmp_path / place / f"{value}.png")
    listed = [f"folder:{tmp_path / 'many'}", f"folder:{tmp_path / 'few'}"]
    several = load_spec({"data": {"source": listed, "labels": 1.0}, "stack": [{}]}).data
    numbers, classes = several.picture_labels()
    names = [name for name, _ in several.open().pictures()]
    used = {name: classes[own] for name, own in zip(names, numbers, strict=True) if own >= 0}
    # A fifth of each class is kept for testing.
    assert sorted(used.values()) == ["cats"] * 4 + ["dogs"] * 4
    assert all(name.startswith(f"few/{label}/") for name, label in used.items())
    assert several.labels_problem() is None
    assert len(several.labelled("train").labels) == 8
    again = several.model_copy(update={"also": (*several.also, *several.also)})
    with pytest.raises(SpecError, match="few and .*few both have labels. Use one of them"):
        again.labelled("train")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (
            ["folder:a", "array:b.npy"],
            "data: ['folder:a', 'array:b.npy'] cannot be used together. ",
        ),
        (["digits", "digits"], "Use several of one kind, "),
        (["folder:a", 3], "data: ['folder:a', 3] is not a valid source. Use array:FILE, "),
        ([], "data: [] is not a valid source."),
    ],
)
def test_several_sources_of_different_kinds_are_refused(data, words):
    with pytest.raises(SpecError, match=re.escape(words)):
        load_spec({"data": data, "stack": [{}]})


def test_several_folders_of_different_channels_are_refused(tmp_path):
    for name, shape in (("a", (9, 9, 5)), ("b", (9, 9, 3))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "1.npy", np.zeros(shape, np.float32))
    several = [f"folder:{tmp_path / name}" for name in "ab"]
    words = r"different numbers of channels: 5 in .*/a, 3 in .*/b\. Use directories whose pictures"
    with pytest.raises(SpecError, match=words):
        as_source(several).open()
    assert as_source({"source": several, "channels": 3}).problem() is None


def test_options_at_their_defaults_leave_the_fingerprint(tmp_path):
    make(tmp_path, 3)
    before = source(str(tmp_path)).open().fingerprint
    assert source(str(tmp_path), pages="first", also=[]).open().fingerprint == before
