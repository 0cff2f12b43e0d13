"""TIFF whose numbers PIL cannot give as they are: many bands, more bits, floats, many pages."""

import json
import logging
import math
import os
from dataclasses import replace

from kclr.data import headers
from kclr.data.headers import Header, Opened
from kclr.data.pixels import UnreadableError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
NODATA = 42113  # GDAL's tag
DESCRIPTION = 270
SHAPED = '{"shape": '  # how tifffile begins the description of an array
_BITS, _PHOTOMETRIC, _SAMPLES, _EXTRA, _FORMAT = 258, 262, 277, 338, 339
_ORIENTATION = 274
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}  # of the photometric interpretations; 1 of others
_MULTIPLIED, _OPACITY = 1, (1, 2)  # values of ExtraSamples
_MOST_PAGES = 1 << 16
_DEFLATE, _MOST_DEFLATED = (8, 32946, 50013), 1032  # times that it can shorten

# Its words about broken files would stand between those of kclr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


def suits_pil(image) -> bool:
    """Whether PIL gives the numbers of an opened TIFF as they are."""

    def tag(number, default):
        value = image.tag_v2.get(number, default)
        return value if isinstance(value, tuple) else (value,)

    samples, extra = tag(_SAMPLES, 1)[0], tag(_EXTRA, ())[:1]
    if samples == 1 and image.mode[0] in "IF":
        return True
    colours = _COLOURS.get(tag(_PHOTOMETRIC, 0)[0], 1)
    # 999 is what CorelDraw writes.
    alone = samples <= colours or (samples == colours + 1 and extra in ((1,), (2,), (999,)))
    return alone and max(tag(_BITS, 1)) <= 8 and {*tag(_FORMAT, 1)} <= {1, 4}


def pil_type(image) -> str:
    """The type of the numbers that PIL has, wider, in mode I."""
    bits, form = ((image.tag_v2.get(number) or (1,))[0] for number in (_BITS, _FORMAT))
    return f"{'int' if form == 2 else 'uint'}{16 if bits <= 16 else 32}"


def pages(file, path) -> list[int]:
    """Numbers of the pages of an open TIFF, without smaller copies and masks.

    Raises:
        UnreadableError: there are too many, or none.
    """
    tiff = _open(file, path)
    if len(tiff.pages) > _MOST_PAGES:
        raise UnreadableError(f"it has {len(tiff.pages):,} pages, more than {_MOST_PAGES:,}")
    found = [n for n, page in enumerate(tiff.pages) if not (page.is_reduced or page.is_mask)]
    if not found:
        raise UnreadableError("it has no pages")
    return found


def opened(file, path, number) -> Opened:
    """A page of an open TIFF.

    Raises:
        UnreadableError: it is cut off, or of a kind that is not read.
    """
    return _of_page(file, _open(file, path).pages[number])


def of_rows(file, path) -> Opened | None:
    """The picture in an open TIFF whose pages are its rows.

    So tifffile writes an array of (height, width, channels) if it is not told otherwise. Its
    description has the shape; it is taken for that of a picture if the last axis is the shortest.

    Raises:
        UnreadableError: rows are missing.
    """
    import numpy as np

    tiff = _open(file, path)
    try:
        height, width, channels = shape = json.loads(tiff.pages[0].description)["shape"]
        if channels >= min(height, width) or tiff.pages[0].shape != (width, channels):
            return None
    except (ValueError, TypeError, KeyError):
        return None
    if len(tiff.pages) != height:
        raise UnreadableError(f"cut off: it has {len(tiff.pages)} of {height} pages")
    first, last = (_of_page(file, tiff.pages[number]) for number in (0, height - 1))

    def decode():
        made = [first.decode()]
        made += [_of_page(file, tiff.pages[number]).decode() for number in range(1, height)]
        if {pixels.shape for pixels, _ in made} != {(width, channels, 1)}:
            raise UnreadableError("its pages differ in size")
        return np.stack([pixels[..., 0] for pixels, _ in made]), made[0][1]

    whole = math.prod(shape) * tiff.pages[0].dtype.itemsize
    header = replace(first.header, height=height, width=width, channels=channels)
    return Opened(header, decode, max(whole, first.needed, last.needed), 3 * whole)


def _of_page(file, page):
    import numpy as np

    if page.dtype is None or not math.prod(page.shaped):
        raise UnreadableError("a TIFF of a kind that is not supported; save it in another form")
    planes, depth, height, width, samples = page.shaped
    if depth > 1:
        raise UnreadableError("it holds a volume; save its planes as pages")
    size = os.fstat(file.fileno()).st_size
    ends = (
        start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)
    )
    if not page.dataoffsets or max(ends) > size:
        raise UnreadableError("cut off")
    channels = planes * samples
    opacity, multiplied = _opacity(page, channels)
    dtype = headers.kept_type(page.dtype)
    light = opacity is not None and not dtype.startswith("uint")
    dtype = "float32" if light else dtype
    tag = page.tags.get(NODATA)
    nodata = headers.nodata_number(tag.value) if tag else None
    turned = page.tags.get(_ORIENTATION)
    orientation = turned.value if turned else 1

    def decode():
        _check_bombs(page)
        try:
            raw = page.asarray(squeeze=False, maxworkers=1)[:, 0]
        except Exception as error:
            raise UnreadableError(_reason(page, error)) from None
        raw = np.moveaxis(raw[..., 0], 0, -1) if planes > 1 else raw[0]
        pixels = headers.kept(raw, nodata)
        if opacity is not None:
            pixels = _without_opacity(pixels, opacity, multiplied)
        notes = ("converted",) * headers.is_converted(raw.dtype)
        return headers.upright(pixels, orientation), notes

    whole = height * width * channels * page.dtype.itemsize
    piece = math.prod(page.chunks) * page.dtype.itemsize
    return Opened(
        Header(
            height,
            width,
            channels - (opacity is not None),
            dtype,
            headers.whole_nodata(nodata, dtype),
        ),
        decode,
        needed=max(whole, piece),
        taken=3 * whole,
        turned=lambda: orientation in headers.TURNED,
    )


def _open(file, path):
    import tifffile

    file.seek(0)
    try:
        return tifffile.TiffFile(file, name=os.path.basename(os.fspath(path)))
    except Exception as error:  # of every kind
        raise UnreadableError(f"broken ({headers.first_line(error)})") from None


def _opacity(page, channels):
    """Which of the samples is opacity, or None; whether the colours are multiplied with it."""
    extra = [int(kind) for kind in page.extrasamples]
    known = [n for n, kind in enumerate(extra) if kind in _OPACITY]
    if not known:
        return None, False
    return channels - len(extra) + known[0], extra[known[0]] == _MULTIPLIED


def _without_opacity(pixels, channel, multiplied):
    """Colours laid on white; of floats, what is transparent is NaN."""
    import numpy as np

    opacity, colours = pixels[..., channel], np.delete(pixels, channel, axis=-1)
    if pixels.dtype.kind == "u":
        return headers.on_white(np.dstack([colours, opacity]), multiplied)
    return np.where(opacity[..., None] == 0, np.float32(np.nan), colours.astype(np.float32))


def _check_bombs(page):
    """Refuse pieces that unpack to far more than they should."""
    if int(page.compression) not in _DEFLATE:
        return
    import zlib

    expected = math.prod(page.chunks) * page.dtype.itemsize
    file = page.parent.filehandle
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count * _MOST_DEFLATED <= max(64 << 20, 4 * expected):
            continue
        file.seek(start)
        unpacker = zlib.decompressobj()
        unpacker.decompress(file.read(count), expected + 1)
        if unpacker.unconsumed_tail:
            raise UnreadableError("one of its pieces unpacks to more than the picture has")


def _reason(page, error):
    words = headers.first_line(error)
    if "imagecodecs" in words or isinstance(error, ImportError):
        name = getattr(page.compression, "name", page.compression)
        return f"a TIFF compressed with {name} needs imagecodecs: pip install 'kclr[tiff]'"
    return f"broken or cut off ({words})"
