"""Picture files to pixels, with PIL: every mode, depth and rotation, and all kinds of damage."""

import contextlib
import importlib
import os
import stat
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from kclr.data.pixels import UnreadableError

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
    ".bw", ".ras", *_TARGA,
)  # fmt: skip
_SIGNATURES = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*",
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51\0", b"qoif", b"\x59\xa6\x6a\x95",
)  # fmt: skip
MOST_PIXELS = 89_478_485  # where PIL itself begins to warn
_TURNED = (5, 6, 7, 8)  # values of the EXIF orientation that swap height and width
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

    Attributes:
        notes: problems of the decoded picture: "faint" if it is nearly transparent, "dim" if little
            was left when 16 bits per color were cut to 8.
        before_decoding: is called with about the bytes that the decoding takes.
    """

    def __init__(self, path, max_pixels=None, memory=1024):
        self.path, self._max_pixels, self._memory = path, max_pixels, memory
        self.notes: tuple[str, ...] = ()
        self.before_decoding: Callable[[int], None] = lambda size: None

    def __call__(self):
        """Decode the first frame, upright, with transparency composited on white.

        Returns:
            (height, width, 1) for gray pictures, else uint8 (height, width, 3) in RGB. Gray of up
            to 8 bits is uint8, and of more uint16 or int32, with the values of the file.

        Raises:
            UnreadableError: the file is empty, truncated, not a picture, too large, ...
        """
        from PIL import ImageOps

        # PIL raises nearly every kind of exception on a broken file, struct.error to KeyError.
        try:
            with _open(self.path) as image:
                refusal = _too_many(image, self._max_pixels, self._memory)
                if refusal:
                    raise UnreadableError(refusal)
                cut = "16" in _raw_mode(image) and not image.mode.startswith("I")
                self.before_decoding(image.width * image.height * (_stored(image) + 3))
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
                pixels, faint = _pixels(image)
        except UnreadableError:
            raise
        except Exception as error:
            raise UnreadableError(_reason(self.path, error)) from None
        dim = cut and pixels.max() < _DIM
        self.notes = ("faint",) * faint + ("dim",) * bool(dim)
        return pixels


def decode(path, max_pixels=None):
    """Decode a picture: see `PictureFile`."""
    return PictureFile(path, max_pixels)()


def size(path, max_pixels=None, memory=1024) -> tuple[int, int] | None:
    """Height and width of an upright picture, from its header alone; None where unreadable."""
    try:
        with _open(path) as image:
            if _too_many(image, max_pixels, memory):
                return None
            width, height = image.size
            # PIL decodes all of a PNG to look for EXIF data behind the pixels.
            headed = image.format != "PNG" or "exif" in image.info
            turned = headed and image.getexif().get(_ORIENTATION) in _TURNED
    except Exception:  # as in PictureFile
        return None
    return (width, height) if turned else (height, width)


def is_picture(path) -> bool:
    """Whether a regular file begins as pictures do, whatever it is called."""
    try:
        with _open_regular(path) as file:
            head = file.read(32)
    except (OSError, UnreadableError):
        return False
    return (
        head.startswith(_SIGNATURES)
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
def _open(path):
    """A picture, not decoded yet: what `PIL.Image.open` does, but without PIL's bound on its size.

    That is one for the whole process, and its warning reaches nobody who could raise it.
    """
    from PIL import UnidentifiedImageError

    with _open_regular(path) as file:
        head = file.read(16)
        for accepts, opens in _readers(head, os.fspath(path).lower().endswith(_TARGA)):
            accepted = accepts(head) if accepts else True
            if not accepted or isinstance(accepted, str):  # a text says what PIL was built without
                continue
            file.seek(0)
            # A reader that finds something else than it expects says so in these ways.
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                image = opens(file, "")
                break
        else:
            raise UnidentifiedImageError
        yield image


def _open_regular(path):
    """A file opened for reading, if it is one: a pipe or a device may never come to an end."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError("not a regular file")
    return os.fdopen(descriptor, "rb")


def _too_many(image, max_pixels, memory):
    """Why a picture is too large to be decoded, or None."""
    width, height = image.size
    pixels = width * height
    most = MOST_PIXELS if max_pixels is None else max_pixels
    words = f"too many pixels: {width}x{height} are {pixels:,}"
    if pixels > most:
        return f"{words}, but max_pixels is {most:,}"
    needed = -(-pixels * _stored(image) >> 20)
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

    if image.mode == "F":
        raise UnreadableError("its values are floats; save it with whole numbers")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)[..., None]
        # PIL has 16 bits in one of two types; uint16 is in the order of this machine's bytes.
        fits = pixels.dtype.itemsize == 2 or (pixels.min() >= 0 and pixels.max() <= 65535)
        return (pixels.astype(np.uint16) if fits else pixels), False
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
    with contextlib.suppress(OSError, UnreadableError), _open_regular(path) as file:
        head = file.read(4)
        if not head:
            return "an empty file"
    if isinstance(error, UnidentifiedImageError):
        if head in (b"II*\0", b"MM\0*"):
            return (
                "a TIFF of a kind that is not supported, such as with more than 4 bands; save it "
                "as RGB"
            )
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
