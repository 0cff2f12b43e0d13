"""What files say of their pictures before these are decoded, and in which numbers they are kept."""

import importlib.util
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kclr.data.pixels import UnreadableError, kept_dtype

TURNED = (5, 6, 7, 8)  # values of the EXIF orientation that swap height and width
_AT_ONCE = 1 << 20  # numbers that are laid on white at once, for they are wider in between


@dataclass(frozen=True)
class Header:
    """A picture that is not decoded yet.

    Attributes:
        height, width: px, of the upright picture.
        channels: without transparency.
        dtype: one of `kclr.scaling.DTYPES`, in which it is decoded.
        nodata: the whole number that means no measurement, if the file names one. Among floats it
            is decoded as NaN.
        plain: whether it is an ordinary picture, gray or RGB of 8 bits.
        more: whether its file has other pages that are not read.
    """

    height: int
    width: int
    channels: int
    dtype: str
    nodata: int | None = None
    plain: bool = False
    more: bool = False


@dataclass(frozen=True)
class Opened:
    """A picture in an open file.

    Attributes:
        header: of the picture, as it lies in the file.
        decode: returns the upright pixels (height, width, channels), and notes about them.
        needed: bytes of it in memory.
        taken: about the bytes that decoding it takes.
        turned: whether height and width are swapped when it is made upright.
        more: whether the file has other pages.
    """

    header: Header
    decode: Callable[[], tuple[Any, tuple[str, ...]]]
    needed: int
    taken: int
    turned: Callable[[], bool] = lambda: False
    more: Callable[[], bool] = lambda: False


def kept_type(dtype) -> str:
    """The one of `kclr.scaling.DTYPES` in which numbers of a type are kept.

    Raises:
        UnreadableError: they are no numbers, or complex ones.
    """
    import numpy as np

    dtype = np.dtype(dtype)
    if dtype.kind == "O":
        raise UnreadableError("it holds Python objects, which are not read; save it as numbers")
    if dtype.kind not in "biuf":
        kinds = {"S": "texts", "U": "texts", "c": "complex numbers", "V": "records"}
        raise UnreadableError(f"it holds {kinds.get(dtype.kind, str(dtype))}, not real numbers")
    return kept_dtype(dtype)


def is_converted(dtype) -> bool:
    """Whether numbers of a type may lose digits in the type in which they are kept."""
    import numpy as np

    return kept_type(dtype) == "float32" and np.dtype(dtype).name != "float32"


def kept(array, nodata=None):
    """An array of numbers in the type in which they are kept (`kept_type`).

    Args:
        array: of any numbers; bool becomes 0 and 255.
        nodata: the number that means no measurement; among floats it becomes NaN.
    """
    import numpy as np

    name = kept_type(array.dtype)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    with np.errstate(over="ignore"):
        made = array.astype(name, copy=False)
        if nodata is not None and name.startswith("float"):
            made = np.where(array == nodata, made.dtype.type(np.nan), made)
    return made


def nodata_number(text) -> float | None:
    """The number in a GeoTIFF's tag for no measurement; None where it is none, or NaN."""
    try:
        number = float(str(text).strip("\0 "))
    except ValueError:
        return None
    return None if number != number else number


def whole_nodata(number, dtype) -> int | None:
    """A number for no measurement, if it is one of a type of whole numbers."""
    import numpy as np

    if number is None or dtype.startswith("float"):
        return None
    limits = np.iinfo(dtype)
    return int(number) if limits.min <= number <= limits.max and number % 1 == 0 else None


def on_white(pixels, multiplied=False):
    """Colours laid on white, for uint8 or uint16 (height, width, channels and opacity).

    Args:
        pixels: the last channel is the opacity.
        multiplied: whether the colours have been multiplied with it.
    """
    import numpy as np

    top = np.iinfo(pixels.dtype).max
    made = np.empty((*pixels.shape[:2], pixels.shape[2] - 1), pixels.dtype)
    rows = max(1, _AT_ONCE // (pixels.shape[1] * pixels.shape[2]))
    for first in range(0, len(pixels), rows):
        strip = pixels[first : first + rows].astype(np.uint32)
        colours, opacity = strip[..., :-1], strip[..., -1:]
        if multiplied:
            strip = np.minimum(colours + (top - opacity), top)
        else:
            strip = (colours * opacity + top * (top - opacity) + top // 2) // top
        made[first : first + rows] = strip
    return made


def upright(pixels, orientation):
    """(height, width, channels) turned as an EXIF orientation, 1 to 8, says."""
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels


def open_regular(path):
    """A file opened for reading, if it is one: a pipe or a device may never come to an end.

    Raises:
        UnreadableError: it is another kind of file.
        OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnreadableError("not a regular file")
    return os.fdopen(descriptor, "rb")


def missing(package, extra) -> str | None:
    """How to install a package that is not there, or None."""
    if importlib.util.find_spec(package):
        return None
    return f"needs {package}, which is not installed: pip install 'kclr[{extra}]'"


def first_line(error) -> str:
    """The first line of an exception's text, or its name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")
