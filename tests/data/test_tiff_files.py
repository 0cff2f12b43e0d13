"""TIFF of many bands, types and pages, compared with what tifffile and PIL have written."""

import importlib.util
import struct
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from kclr.data import headers, image_files, tiff_files
from kclr.data.image_files import PictureFile, decode
from kclr.data.pixels import UnreadableError
from kclr.data.sources import source
from kclr.errors import RunError, SpecError


def numbers(shape, dtype, seed=0):
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(0, 1000, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def write(path, bands, **options):
    """Writes the bands of a picture pixel by pixel."""
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig", **options)


KEPT = {"int8": "int16", "uint32": "float32", "int32": "float32", "float64": "float32"}


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize(
    "dtype",
    ["uint8", "uint16", "int16", "float16", "float32", "int8", "uint32", "int32", "float64"],
)
def test_bands_of_every_type_are_those_that_were_written(tmp_path, dtype, planar, byteorder):
    bands = numbers((11, 7, 5), dtype)
    written = bands if planar == "contig" else np.moveaxis(bands, -1, 0)
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, written, planarconfig=planar, photometric="minisblack", byteorder=byteorder
    )
    picture = PictureFile(path)
    header, pixels = picture.header(), picture()
    kept = KEPT.get(dtype, dtype)
    assert (header.height, header.width, header.channels, header.dtype) == (11, 7, 5, kept)
    assert pixels.dtype == kept
    np.testing.assert_array_equal(pixels, bands.astype(kept))
    assert picture.notes == (("converted",) if kept == "float32" != dtype else ())


@pytest.mark.parametrize("compression", [None, "zlib", "tiff_lzw"])
@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32", "uint32", "int32"])
def test_one_band_of_every_type_is_what_was_written(tmp_path, dtype, compression):
    band = numbers((9, 6), dtype)
    path = tmp_path / "a.tif"
    if compression == "tiff_lzw":
        if dtype in ("int16", "uint32"):
            pytest.skip("PIL does not write it")
        Image.fromarray(band).save(path, compression=compression)  # which tifffile alone cannot
    else:
        tifffile.imwrite(path, band, compression=compression, photometric="minisblack")
    kept = KEPT.get(dtype, dtype)
    pixels = decode(path)
    assert pixels.dtype == PictureFile(path).header().dtype == kept
    np.testing.assert_array_equal(pixels[..., 0], band.astype(kept))


def test_sixteen_bit_color_is_not_cut(tmp_path):
    color = numbers((8, 9, 3), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", color, photometric="rgb")
    (image,) = source(str(tmp_path)).open().read()
    np.testing.assert_array_equal(image, color)


def test_fourth_band_is_opacity_only_where_the_file_says_so(tmp_path):
    four = numbers((6, 7, 4), "uint8")
    for name, kind in (("band", "unspecified"), ("alpha", "unassalpha")):
        tifffile.imwrite(tmp_path / f"{name}.tif", four, photometric="rgb", extrasamples=[kind])
    np.testing.assert_array_equal(decode(tmp_path / "band.tif"), four)
    opacity = four[..., 3:] / 255
    white = four[..., :3] * opacity + 255 * (1 - opacity)
    assert np.abs(decode(tmp_path / "alpha.tif") - white).max() <= 1


@pytest.mark.parametrize(("kind", "multiplied"), [("unassalpha", False), ("assocalpha", True)])
def test_opacity_behind_many_bands_lays_them_on_white(tmp_path, kind, multiplied):
    bands, opacity = numbers((6, 7, 5), "uint16"), numbers((6, 7, 1), "uint16", 1)
    share = opacity / 65535
    written = np.round(bands * share).astype(np.uint16) if multiplied else bands
    kinds = ["unspecified"] * 4 + [kind]
    path = tmp_path / "a.tif"
    write(path, np.dstack([written, opacity]), extrasamples=kinds)
    assert PictureFile(path).header().channels == 5
    assert np.abs(decode(path) - (bands * share + 65535 * (1 - share))).max() <= 1


def test_transparent_floats_are_missing(tmp_path):
    bands = numbers((6, 7, 3), "float32")
    bands[..., 2] = 1
    bands[2, 3, 2] = 0
    path = tmp_path / "a.tif"
    write(path, bands, extrasamples=[0, 2])
    pixels = decode(path)
    assert np.isnan(pixels[2, 3]).all()
    assert np.isnan(pixels).sum() == 2
    np.testing.assert_array_equal(pixels[0], bands[0, :, :2])


def nodata(value):
    return [(tiff_files.NODATA, 2, len(value) + 1, value, True)]


def test_no_data_of_whole_numbers_is_told_and_of_floats_is_nan(tmp_path):
    whole, real = numbers((6, 7), "int16"), numbers((6, 7, 2), "float64")
    whole[0, 0] = real[1, 2, 1] = -9999
    for name in ("whole", "real"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "whole" / "a.tif", whole, extratags=nodata("-9999"))
    write(tmp_path / "real" / "a.tif", real, extratags=nodata("-9999"))
    images = source(str(tmp_path / "whole")).open()
    assert (images.dtype, images.nodata) == ("int16", -9999)
    images = source(str(tmp_path / "real")).open()
    assert (images.dtype, images.nodata) == ("float32", None)
    (image,) = images.read()
    assert np.argwhere(np.isnan(image)).tolist() == [[1, 2, 1]]


def test_no_data_that_is_impossible_in_the_type_is_no_number(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", numbers((6, 7), "uint16"), extratags=nodata("-9999"))
    assert source(str(tmp_path)).open().nodata is None


@pytest.mark.parametrize(("other", "nodata_of_all"), [("uint16", 65535), ("float32", 255)])
def test_no_data_is_that_of_the_type_of_all_files(tmp_path, other, nodata_of_all):
    eight = numbers((6, 7, 5), "uint8")
    eight[0, 0] = 255
    write(tmp_path / "a.tif", eight, extratags=nodata("255"))
    write(tmp_path / "b.tif", numbers((6, 7, 5), other))
    images = source(str(tmp_path)).open()
    assert (images.dtype, images.nodata) == (other, nodata_of_all)
    assert any((image == images.nodata).all(-1).sum() for image in images.read())


def test_files_with_different_no_data_need_a_word(tmp_path):
    for value in (0, 255):
        write(tmp_path / f"{value}.tif", numbers((6, 7, 5), "uint8"), extratags=nodata(str(value)))
    with pytest.raises(SpecError, match=r"different numbers for no data \(0, 255\)"):
        source(str(tmp_path)).open()
    assert "(0, 255)" in source(str(tmp_path)).problem()
    assert source(str(tmp_path), nodata=0).open().nodata == 0


def test_pages_are_left_or_channels_or_pictures(tmp_path):
    stack = numbers((4, 9, 6), "uint16")
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    images = source(str(tmp_path)).open()
    (warning,) = images.warnings
    assert "several pages, of which only the first is used: 1. Use the option pages:" in warning
    assert source(str(tmp_path)).census() == images.census
    (image,) = images.read()
    np.testing.assert_array_equal(image[..., 0], stack[0])
    channels = source(str(tmp_path), pages="channels")
    assert channels.image_shape() == (9, 6, 4)
    (image,) = channels.open().read()
    np.testing.assert_array_equal(image, np.moveaxis(stack, 0, -1))
    pictures = source(str(tmp_path), pages="pictures").open()
    assert (pictures.count, pictures.warnings) == (4, [])
    np.testing.assert_array_equal(np.stack([*pictures.read()])[..., 0], stack)
    np.testing.assert_array_equal(next(pictures.read(2))[..., 0], stack[2])
    assert source(str(tmp_path), pages="pictures", limit=3).open().count == 3
    found = {source(str(tmp_path), pages=p).open().fingerprint for p in ("first", "channels")}
    assert len(found | {pictures.fingerprint}) == 3


def test_pages_of_ordinary_pictures_are_pictures(tmp_path):
    frames = [Image.fromarray(numbers((8, 9, 3), "uint8", seed)) for seed in range(3)]
    frames[0].save(
        tmp_path / "a.tif", save_all=True, append_images=frames[1:], compression="tiff_lzw"
    )
    images = source(str(tmp_path), pages="pictures").open()
    for image, frame in zip(images.read(), frames, strict=True):
        np.testing.assert_array_equal(image, np.asarray(frame))


def test_smaller_copies_of_a_page_are_not_pictures(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side, kind in ((16, 0), (8, 1)):
            file.write(numbers((side, side), "uint8"), photometric="minisblack", subfiletype=kind)
    assert source(str(tmp_path), pages="pictures").open().count == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32"])
def test_array_that_tifffile_wrote_row_by_row_is_one_picture(tmp_path, dtype):
    bands = numbers((20, 16, 13), dtype)
    tifffile.imwrite(tmp_path / "a.tif", bands)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 20  # of 16x13
    part = source(str(tmp_path))
    assert part.image_shape() == (20, 16, 13)
    images = part.open()
    assert (images.dtype, images.warnings) == (dtype, [])
    np.testing.assert_array_equal(next(images.read()), bands)
    assert source(str(tmp_path), pages="pictures").open().count == 20
    # The pages of a stack are no rows.
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(bands, -1, 0))
    assert source(str(tmp_path)).open().census.several == 1


def test_row_of_an_array_that_is_lost_is_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", numbers((20, 16, 13), "uint16"), compression="zlib")
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError, match="cut off"):
        decode(tmp_path / "a.tif")
    assert source(str(tmp_path)).image_shape() is None


def test_pages_of_different_sizes_are_no_channels(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (8, 9):
            file.write(numbers((side, 8), "uint16"), photometric="minisblack")
    with pytest.raises(RunError, match="its pages differ in size or type"):
        list(source(str(tmp_path), pages="channels").open().read())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_bands_stand_upright_as_pil_turns_them(tmp_path, orientation):
    bands = numbers((5, 8, 3), "uint8")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(bands).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(headers.upright(bands, orientation), decode(tmp_path / "a.png"))
    deep = tmp_path / "a.tif"
    tag = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(deep, bands.astype(np.uint16), photometric="rgb", extratags=tag)
    np.testing.assert_array_equal(decode(deep), headers.upright(bands, orientation))
    header = PictureFile(deep).header()
    assert (header.height, header.width) == decode(deep).shape[:2]


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_half_of_a_file_is_called_cut_off(tmp_path, compression):
    path = tmp_path / "a.tif"
    write(path, numbers((64, 64, 5), "uint16"), compression=compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableError, match="cut off"):
        decode(path)
    assert PictureFile(path).header() is None


@pytest.mark.skipif(bool(importlib.util.find_spec("imagecodecs")), reason="it is there")
@pytest.mark.parametrize(("number", "name"), [(5, "LZW"), (50000, "ZSTD")])
def test_compression_of_another_package_names_it(tmp_path, number, name):
    path = tmp_path / "a.tif"
    write(path, numbers((8, 8, 5), "uint16"), compression="zlib")
    data = bytearray(path.read_bytes())
    at = data.find(struct.pack("<HHI", 259, 3, 1))
    data[at + 8 : at + 10] = struct.pack("<H", number)
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match=rf"with {name} .* pip install 'kclr\[tiff\]'"):
        decode(path)
    assert PictureFile(path).header().channels == 5


def claims(path, width, height):
    """Makes a written TIFF say that it is larger."""
    data = bytearray(path.read_bytes())
    for tag, value in ((256, width), (257, height)):
        for form, size in (("<HHI", 4), ("<HHI", 3)):
            at = data.find(struct.pack(form, tag, size, 1))
            if at >= 0:
                data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
    path.write_bytes(data)


def test_claim_of_a_terabyte_takes_no_memory(tmp_path):
    path = tmp_path / "a.tif"
    write(path, numbers((8, 8, 5), "uint16"))
    claims(path, 1 << 20, 1 << 20)
    with pytest.raises(UnreadableError, match="too many pixels: 1048576x1048576"):
        decode(path)
    claims(path, 8000, 9000)
    with pytest.raises(UnreadableError, match="which need 687 MB, more than memory"):
        PictureFile(path, memory=600)()


def test_piece_that_unpacks_to_far_more_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_files, "_MOST_DEFLATED", 1 << 40)  # as if it were large enough
    path = tmp_path / "a.tif"
    write(path, np.zeros((512, 64, 5), np.uint16), compression="zlib")
    assert decode(path).shape == (512, 64, 5)
    claims(path, 64, 8)
    with pytest.raises(UnreadableError, match="unpacks to more than the picture has"):
        decode(path)


def test_header_is_read_without_tensorflow_and_tifffile_only_where_it_is_needed(tmp_path):
    write(tmp_path / "a.tif", numbers((8, 8, 5), "uint16"))
    Image.fromarray(numbers((8, 8, 3), "uint8")).save(tmp_path / "b.tif")
    code = (
        "import sys; from kclr.data.image_files import PictureFile\n"
        f"assert PictureFile({str(tmp_path / 'b.tif')!r}).header().plain\n"
        "assert not {'tensorflow', 'tifffile', 'h5py'} & set(sys.modules)\n"
        f"assert PictureFile({str(tmp_path / 'a.tif')!r}).header().channels == 5\n"
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_other_picture_does_not_change_what_all_are(tmp_path):
    for number in range(12):
        Image.fromarray(numbers((8, 8, 3), "uint8", number)).save(tmp_path / f"{number}.png")
    write(tmp_path / "stray.tif", numbers((8, 8, 5), "float32"))
    images = source(str(tmp_path)).open()
    assert (images.channels, images.dtype) == (3, "uint8")
    assert len(list(images.read())) == 12
    assert [name for name, _ in images.skipped] == ["stray.tif"]


def test_pictures_with_another_number_of_channels_are_named(tmp_path):
    for number in range(20):
        bands = 5 if number else 4
        write(tmp_path / f"{number}.tif", numbers((8, 8, bands), "uint16"))
    images = source(str(tmp_path)).open()
    assert images.channels == 5
    assert len(list(images.read())) == 19
    assert images.skipped == [("0.tif", "it has 4 channels instead of 5")]


def test_widest_type_of_the_first_pictures_is_that_of_all(tmp_path):
    write(tmp_path / "a.tif", numbers((8, 8, 5), "uint8"))
    write(tmp_path / "b.tif", numbers((8, 8, 5), "uint16"))
    assert source(str(tmp_path)).open().dtype == "uint16"
    write(tmp_path / "c.tif", numbers((8, 8, 5), "int16"))
    assert source(str(tmp_path)).open().dtype == "float32"
    assert image_files.is_picture(tmp_path / "c.tif")
