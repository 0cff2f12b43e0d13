"""Picture files to pixels: every format, mode, depth and rotation, and all kinds of damage."""

import contextlib
import importlib
import logging
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

from kclr.data import array_files, headers, medical_files, tiff_files
from kclr.data.headers import Header, Opened, open_regular
from kclr.data.pixels import UnreadableError

# What PIL logs about a TIFF that it cannot read, tifffile reads; whoever wants to see it configures
# logging.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Only these are tried, whatever a file is called: some of PIL's other readers start programs,
# and others tell a size in the header that is not that of the pixels.
_FORMATS = (
    "PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "AVIF", "QOI", "PCX", "SGI",
    "SUN",
)  # fmt: skip
_COMMON = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
_TARGA = (".tga", ".vda", ".vst", ".icb")  # nothing in these files says what they are
EXTENSIONS = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo", ".webp", ".gif",
    ".bmp", ".dib", ".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".avifs", ".qoi", ".pcx", ".sgi", ".rgb", ".rgba",
    ".bw", ".ras", ".npy", *medical_files.DICOM_ENDINGS, *medical_files.NIFTI_ENDINGS, *_TARGA,
)  # fmt: skip
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", *tiff_files.SIGNATURES,
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0", b"qoif", b"\x59\xa6\x6a\x95",
)  # fmt: skip
FIRST = -1  # the page of a file where nothing is said of pages
_HEAD = 132  # bytes at the beginning that say what a file is
MOST_PIXELS = 89_478_485  # where PIL itself begins to warn
_ORIENTATION = 0x0112
_STORED = {"1": 1, "L": 1, "P": 1, "LA": 2, "I;16": 2, "I;16B": 2}  # bytes a pixel; 4 with others
_FAINT = 0.1  # mean opacity below which a picture is as good as invisible
_AT_ONCE = 1 << 20  # pixels
_DIM = 64  # of 256: the upper halves of numbers that use 14 of their 16 bits, or fewer


class PictureFile:
    """A picture file that is decoded when it is called.

    Args:
        path: the file.
        max_pixels: largest number that is decoded; None for what fits in `memory`, at most
            `MOST_PIXELS`.
        memory: megabytes.
        page: which of `pages_of` the file; None for all of a TIFF or DICOM file as channels. By
            default the first one, or all where a TIFF says that they are the rows of one picture.
        volume: a NIfTI file that is shared by its slices.

    Attributes:
        notes: problems of the decoded picture: "faint" if it is nearly transparent, "dim" if little
            was left when 16 bits per color were cut to 8, "converted" if its numbers are kept in
            another type.
        before_decoding: is called with about the bytes that the decoding takes.
    """

    def __init__(self, path, max_pixels=None, memory=1024, page=FIRST, volume=None):
        self.path, self._max_pixels, self._memory = path, max_pixels, memory
        self._page, self._volume = page, volume
        self.notes: tuple[str, ...] = ()
        self.before_decoding: Callable[[int], None] = lambda size: None

    def __call__(self):
        """Decode the picture, upright, with transparency composited on white.

        Returns:
            (height, width, channels) with the numbers of the file, in one of the types
            `kclr.scaling.DTYPES`. Palettes and CMYK become RGB.

        Raises:
            UnreadableError: the file is empty, truncated, not a picture, too large, ...
        """
        # PIL raises nearly every kind of exception on a broken file, struct.error to KeyError.
        try:
            with _opened(self.path, self._page, self._memory, self._volume) as picture:
                refusal = _too_many(picture, self._max_pixels, self._memory)
                if refusal:
                    raise UnreadableError(refusal)
                self.before_decoding(picture.taken)
                pixels, notes = picture.decode()
        except UnreadableError:
            raise
        except Exception as error:
            raise UnreadableError(_reason(self.path, error)) from None
        self.notes = notes
        return pixels

    def header(self) -> Header | None:
        """What the file says of the picture, without decoding it; None where unreadable."""
        try:
            with _opened(self.path, self._page, self._memory, self._volume) as picture:
                if _too_many(picture, self._max_pixels, self._memory):
                    return None
                found = replace(picture.header, more=picture.more())
                if picture.turned():
                    return replace(found, height=found.width, width=found.height)
                return found
        except Exception:  # as in __call__
            return None


def decode(path, max_pixels=None):
    """Decode a picture: see `PictureFile`."""
    return PictureFile(path, max_pixels)()


def pages_of(path, memory=1024) -> list[int]:
    """Numbers of the pictures in a file: TIFF, DICOM and NIfTI may have several.

    Raises:
        UnreadableError: it cannot be read.
        OSError: it cannot be opened.
    """
    if is_volume(path):
        return [*range(medical_files.Volume(path, memory).count)]
    with open_regular(path) as file:
        head = file.read(_HEAD)
        if head.startswith(tiff_files.SIGNATURES):
            return tiff_files.pages(file, path)
        return [*range(medical_files.frames(file))] if _is_dicom(head) else [0]


def is_volume(path) -> bool:
    """Whether a file is called like one of NIfTI, whose slices are always pictures."""
    return os.fspath(path).lower().endswith(medical_files.NIFTI_ENDINGS)


def is_picture(path) -> bool:
    """Whether a regular file begins as pictures do, whatever it is called."""
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except (OSError, UnreadableError):
        return False
    return (
        head.startswith(_SIGNATURES)
        or (_is_dicom(head) and medical_files.lacks(".dcm") is None)
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))
        # The two letters of a BMP alone are too little: a text may begin with them.
        or (head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and head[15:18] == b"\0\0\0")
    )


def _readers(head, targa) -> Iterator[tuple[Any, Any]]:
    """PIL's readers to try for a file that begins so: (accepts, opens) each."""
    for signature, name in _COMMON.items():
        if head.startswith(signature):
            from PIL import Image

            # PIL has more than forty readers, and loading them takes longer than all of a check.
            importlib.import_module(f"PIL.{name.capitalize()}ImagePlugin")
            opens, accepts = Image.OPEN[name]
            yield accepts, opens
    yield from _openers(targa)


@cache
def _openers(targa) -> tuple[Any, ...]:
    """PIL's readers of what is read: (accepts, opens) each."""
    from PIL import Image

    Image.init()
    formats = (*_FORMATS, "TGA") if targa else _FORMATS
    found = (Image.OPEN.get(name) for name in formats)
    return tuple((accepts, opens) for opens, accepts in filter(None, found))


@contextlib.contextmanager
def _opened(path, page, memory, volume) -> Iterator[Opened]:
    """A picture, not decoded yet."""
    if is_volume(path):
        yield (volume or medical_files.Volume(path, memory)).slice(max(page or 0, 0))
        return
    with open_regular(path) as file:
        head = file.read(_HEAD)
        file.seek(0)
        if head.startswith(array_files.NPY):
            yield _array(file)
        elif _is_dicom(head):
            yield medical_files.dicom(file, page)
        elif not head.startswith(tiff_files.SIGNATURES):
            yield _of_pil(_open(file, path))
        elif page == FIRST:
            yield _first_of_tiff(file, path)
        elif page is None:
            yield _side_by_side([_tiff(file, path, own) for own in tiff_files.pages(file, path)])
        else:
            yield _tiff(file, path, page)


def _open(file, path):
    """A picture of PIL, not decoded: what `PIL.Image.open` does, but without its bound on the size.

    That is one for the whole process, and its warning reaches nobody who could raise it.
    """
    from PIL import UnidentifiedImageError

    file.seek(0)
    head = file.read(16)
    for accepts, opens in _readers(head, os.fspath(path).lower().endswith(_TARGA)):
        accepted = accepts(head) if accepts else True
        if not accepted or isinstance(accepted, str):  # a text says what PIL was built without
            continue
        file.seek(0)
        # A reader that finds something else than it expects says so in these ways.
        with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
            return opens(file, "")
    raise UnidentifiedImageError


def _is_dicom(head):
    return head[128:132] == medical_files.DICOM


def _first_of_tiff(file, path):
    """The picture that is meant where nothing is said of pages."""
    from PIL import UnidentifiedImageError

    image, described = None, tiff_files.SHAPED
    with contextlib.suppress(UnidentifiedImageError):
        image = _open(file, path)
        described = str(image.tag_v2.get(tiff_files.DESCRIPTION))
    rows = tiff_files.of_rows(file, path) if described.startswith(tiff_files.SHAPED) else None

    def more():
        with contextlib.suppress(Exception):  # as in PictureFile
            return (image is None or image.n_frames > 1) and len(tiff_files.pages(file, path)) > 1
        return False

    return rows or replace(_tiff(file, path, 0), more=more)


def _tiff(file, path, page):
    from PIL import UnidentifiedImageError

    with contextlib.suppress(UnidentifiedImageError):
        image = _open(file, path)
        image.seek(page)
        if tiff_files.suits_pil(image):
            return _of_pil(image)
    return tiff_files.opened(file, path, page)


def _array(file):
    """The picture in an open .npy."""
    array = array_files.memory_mapped(file)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise UnreadableError(f"its shape {array.shape} is not (height, width, channels)")
    array = array if array.ndim == 3 else array[..., None]
    height, width, channels = map(int, array.shape)
    header = Header(height, width, channels, headers.kept_type(array.dtype))

    def decode():
        notes = ("converted",) * headers.is_converted(array.dtype)
        return headers.kept(array).copy(), notes

    return Opened(header, decode, array.nbytes, 2 * array.nbytes)


def _side_by_side(pictures):
    """Several pictures as one with the channels of all."""
    import numpy as np

    first = pictures[0].header
    for picture in pictures:
        own = picture.header
        if (own.height, own.width, own.dtype) != (first.height, first.width, first.dtype):
            raise UnreadableError("its pages differ in size or type")

    def decode():
        made = [picture.decode() for picture in pictures]
        pixels = np.concatenate([own for own, _ in made], axis=-1)
        return pixels, tuple({note for _, notes in made for note in notes})

    return Opened(
        replace(first, channels=sum(each.header.channels for each in pictures), plain=False),
        decode,
        needed=sum(picture.needed for picture in pictures),
        taken=2 * sum(picture.taken for picture in pictures),
        turned=pictures[0].turned,
    )


def _of_pil(image):
    """A picture that PIL has opened."""
    width, height = image.size
    channels, dtype, nodata = 1 if image.mode in ("1", "L") else 3, "uint8", None
    deep = "16" in _raw_mode(image) and image.mode[0] not in "IF"
    sixteen = deep and image.format == "PNG"
    if image.mode[0] in "IF":
        own = tiff_files.pil_type(image) if image.format == "TIFF" else "uint16"
        channels, dtype = 1, "float32" if image.mode == "F" else headers.kept_type(own)
    elif sixteen:
        channels, dtype = 1 if image.mode == "LA" else 3, "uint16"
    if image.format == "TIFF":
        number = headers.nodata_number(image.tag_v2.get(tiff_files.NODATA))
        nodata = headers.whole_nodata(number, dtype)

    def turned():
        # PIL decodes all of a PNG to look for EXIF data behind the pixels.
        headed = image.format != "PNG" or "exif" in image.info
        return headed and image.getexif().get(_ORIENTATION) in headers.TURNED

    def decode():
        from PIL import ImageOps

        if sixteen:
            return _deep_png(image), ()
        if image.format == "TIFF":
            image.getexif()  # Pillow 10 has closed the file when its pixels are loaded
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode[0] in "IF":
            return _deep(image)
        pixels, faint = _pixels(image)
        dim = deep and pixels.max() < _DIM
        return pixels, ("faint",) * faint + ("dim",) * bool(dim)

    stored = 8 if sixteen else _stored(image)
    header = Header(height, width, channels, dtype, nodata, plain=dtype == "uint8")
    return Opened(header, decode, width * height * stored, width * height * (stored + 3), turned)


def _too_many(picture, max_pixels, memory):
    """Why a picture is too large to be decoded, or None."""
    width, height = picture.header.width, picture.header.height
    pixels = width * height
    most = MOST_PIXELS if max_pixels is None else max_pixels
    words = f"too many pixels: {width}x{height} are {pixels:,}"
    if pixels > most:
        return f"{words}, but max_pixels is {most:,}"
    needed = -(-picture.needed >> 20)
    if max_pixels is None and needed > memory:
        return f"{words}, which need {needed:,} MB, more than memory ({memory:,} MB)"
    return None


def _stored(image):
    """Bytes that PIL takes for a pixel."""
    return _STORED.get(image.mode, 4)


def _raw_mode(image):
    """How the numbers lie in the file, in PIL's words."""
    mode = image.tile[0][3] if image.tile else ""
    return str(mode[0] if isinstance(mode, tuple) and mode else mode)


def _has_alpha(image):
    return "A" in image.mode.upper().replace("LAB", "") or "transparency" in image.info


def _pixels(image):
    """A decoded picture as an array, and whether it is all but transparent.

    It is turned a few rows at a time: PIL and numpy would make several copies of the whole.
    """
    import numpy as np

    mode, opacity = "L" if image.mode in ("1", "L") else "RGB", 0
    pixels = np.empty((image.height, image.width, len(mode)), np.uint8)
    rows = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = image.crop((0, top, image.width, bottom))
        if _has_alpha(image):
            strip, own = _on_white(strip)
            opacity += own
        pixels[top:bottom] = np.asarray(strip.convert(mode)).reshape(bottom - top, -1, len(mode))
    faint = _has_alpha(image) and opacity / 255 < _FAINT * image.width * image.height
    return pixels, faint


def _deep(image):
    """A decoded picture of more than 8 bits or floats, in one channel, and notes about it."""
    import numpy as np

    pixels = np.asarray(image)[..., None]
    number = None
    if image.format == "TIFF":
        number = headers.nodata_number(image.tag_v2.get(tiff_files.NODATA))
        if image.mode != "F":
            own = tiff_files.pil_type(image)
            # PIL keeps the bits of 32 in a signed type, and has 16 in one of several.
            pixels = pixels.view(own) if own == "uint32" else pixels.astype(own)
    elif image.mode != "F":
        # uint16 is in the order of this machine's bytes.
        fits = pixels.dtype.itemsize == 2 or (pixels.min() >= 0 and pixels.max() <= 65535)
        pixels = pixels.astype(np.uint16) if fits else pixels
    return headers.kept(pixels, number), ("converted",) * headers.is_converted(pixels.dtype)


def _deep_png(image):
    """A PNG of 16 bits per color, which PIL would cut to 8."""
    import numpy as np
    import tensorflow as tf

    image.fp.seek(0)
    data = image.fp.read()
    try:
        with tf.device("CPU:0"):
            pixels = tf.io.decode_png(data, dtype=tf.uint16).numpy()
    except tf.errors.InvalidArgumentError:
        whole = b"IEND" in data[-1024:]
        raise UnreadableError("broken" if whole else "cut off") from None
    pixels = headers.on_white(pixels) if pixels.shape[-1] in (2, 4) else pixels
    turned = image.getexif().get(_ORIENTATION, 1) if "exif" in image.info else 1
    return np.ascontiguousarray(headers.upright(pixels, turned))


def _on_white(image):
    """A picture laid on white, and the sum of its opacity."""
    from PIL import Image

    image = image.convert("RGBA")
    counts = image.getchannel("A").histogram()
    white = Image.new("RGBA", image.size, "white")
    opacity = sum(value * count for value, count in enumerate(counts))
    return Image.alpha_composite(white, image), opacity


def _reason(path, error):
    from PIL import Image, UnidentifiedImageError

    head = b""
    with contextlib.suppress(OSError, UnreadableError), open_regular(path) as file:
        head = file.read(4)
        if not head:
            return "an empty file"
    if isinstance(error, UnidentifiedImageError):
        return "not in a known image format"
    if isinstance(error, Image.DecompressionBombError):
        return f"too many pixels for PIL ({str(error).splitlines()[0]})"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "file not found, or a broken link"
    if "truncated" in str(error):
        return "cut off"
    return f"broken ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
