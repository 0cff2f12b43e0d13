"""One picture's numbers: brought to a source's type and channels, and large ones cut into tiles."""

import threading

from kclr.scaling import DTYPES
from kclr.spec.values import pair

NOTICED = 64  # of so many first pictures, what is strange is noticed
_AT_ONCE = 1 << 20  # numbers that are turned into others at once, for they are wider in between


class UnreadableError(Exception):
    """A picture that cannot be used; the message is a short reason."""


def kept_dtype(*dtypes) -> str:
    """The type in which numbers of these types are kept, all of them in one.

    `kclr.scaling.DTYPES` stay as they are, bool is kept as 8-bit black and white, int8 as int16,
    and everything else as float32. Of several types the widest is taken, or float32 where they
    are of different kinds.

    Args:
        *dtypes: numpy's, one or more.
    """
    import numpy as np

    own = {np.dtype(dtype).name for dtype in dtypes}
    own = {{"bool": "uint8", "int8": "int16"}.get(name, name) for name in own}
    if len(own) == 1 and own <= {*DTYPES}:
        return own.pop()
    for kind in ("uint8", "uint16"), ("float16", "float32"):
        if own <= {*kind}:
            return kind[-1]
    return "float32"


def to_channels(image, channels, dtype="uint8", alpha=False):
    """A picture of any number type as (height, width, channels) of one type.

    Args:
        image: (height, width) or (height, width, any number of channels).
        channels: of the result. Three channels become one by ITU-R 601 luma, and one becomes three
            equal ones; pictures with another number of channels are refused.
        dtype: of the result, one of `kclr.scaling.DTYPES`. Between uint8 and uint16 the full ranges
            correspond; other numbers stay what they are, if they are possible in that type.
        alpha: whether the last of two or four channels is transparency, which is composited on
            white.

    Raises:
        UnreadableError: the picture has another shape, or other numbers.
    """
    import numpy as np

    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or 0 in image.shape:
        raise UnreadableError(f"its shape {image.shape} is not (height, width, channels)")
    image = _converted(image, dtype)
    if alpha and image.shape[-1] in (2, 4):
        image = _by_rows(_on_white, image, image.shape[-1] - 1)
    own = image.shape[-1]
    if own == channels:
        return image
    if own == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if own == 3 and channels == 1:
        return _by_rows(_luma, image, 1)
    raise UnreadableError(f"it has {own} channel{'s' * (own != 1)} instead of {channels}")


def _by_rows(function, image, channels, dtype=None):
    """What `function` makes of an image, a few rows at a time: (height, width, channels)."""
    import numpy as np

    made = np.empty((*image.shape[:2], channels), dtype or image.dtype)
    rows = max(1, _AT_ONCE // (image.shape[1] * image.shape[2]))
    for top in range(0, len(image), rows):
        made[top : top + rows] = function(image[top : top + rows])
    return made


def _on_white(image):
    import numpy as np

    if image.dtype.kind == "f":
        alpha = image[..., -1:]
        return image[..., :-1] * alpha + (1 - alpha)
    most = np.iinfo(image.dtype).max
    alpha = image[..., -1:].astype(np.uint64)
    return (image[..., :-1] * alpha + most * (most - alpha) + most // 2) // most


def _luma(image):
    import numpy as np

    # The integer weights of PIL's own conversion to gray.
    weights = [19595, 38470, 7471]
    if image.dtype.kind == "f":
        return (image.astype(np.float64) @ np.array(weights) / 65536)[..., None]
    luma = image.astype(np.int64) @ np.array(weights) + 0x8000
    return (luma >> 16)[..., None]


def _converted(image, dtype):
    """The same numbers in another type.

    Raises:
        UnreadableError: they are not possible in that type.
    """
    import numpy as np

    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    if image.dtype == dtype:
        # In this machine's order of bytes.
        return image if image.dtype.isnative else image.astype(dtype)
    if image.dtype.kind not in "iuf":
        raise UnreadableError(f"its values are of type {image.dtype}")
    wanted, depth = np.dtype(dtype), image.shape[-1]
    if (image.dtype, wanted) == (np.uint16, np.uint8):
        return _by_rows(lambda rows: (rows.astype(np.uint32) + 128) // 257, image, depth, wanted)
    if (image.dtype, wanted) == (np.uint8, np.uint16):
        return _by_rows(lambda rows: rows.astype(np.uint16) * 257, image, depth, wanted)
    if wanted.kind == "f":
        with np.errstate(over="ignore"):  # what becomes infinite is never cut
            return image.astype(wanted)
    if image.dtype.kind == "f":
        raise UnreadableError(f"its values are {image.dtype}, but those of other pictures {dtype}")
    low, high, limits = image.min(), image.max(), np.iinfo(wanted)
    if low < limits.min or high > limits.max:
        raise UnreadableError(
            f"its values go from {low} to {high}, not from {limits.min} to {limits.max}"
        )
    return image.astype(wanted)


def between(image, low, high):
    """Refuse an image with values outside of a range; those that are not finite do not count.

    Raises:
        UnreadableError: it has some.
    """
    import numpy as np

    outside = (image < low) | (image > high)
    if outside.any():
        fine = image[np.isfinite(image)]
        raise UnreadableError(
            f"its values go from {_number(fine.min())} to {_number(fine.max())}, not from {low} to "
            f"{high}"
        )


def invalid_pixels(image, nodata=None):
    """Which pixels are never to be cut: those with a channel that is not finite, or `nodata`.

    Args:
        image: (..., channels).
        nodata: number, or None.

    Returns:
        bool (...), or None where all are valid.
    """
    import numpy as np

    found = None
    if image.dtype.kind == "f":
        found = ~np.isfinite(image).all(axis=-1)
    if nodata is not None:
        same = (image == np.asarray(nodata, np.float64).astype(image.dtype)).any(axis=-1)
        found = same if found is None else found | same
    return found if found is not None and found.any() else None


def _number(value):
    """As short as it can be, with as many digits as it takes to tell 1.0000001 from 1."""
    text = f"{value:g}"
    return text if float(text) == value else str(value)


def tiles(image, size) -> list:
    """Cut a (height, width, channels) image into tiles; what is left over is dropped.

    `size` is (height, width) in px, or one number for both. A side of the image that is shorter
    stays whole. `size` None leaves the image as it is.
    """
    if size is None:
        return [image]
    height, width = map(min, pair(size), image.shape[:2])
    return [
        image[top : top + height, left : left + width]
        for top in range(0, image.shape[0] - height + 1, height)
        for left in range(0, image.shape[1] - width + 1, width)
    ]


class Noticed:
    """What is strange about the first pictures of a source, though they can all be read."""

    def __init__(self):
        self._deep, self._notes = {}, {}
        self._lock = threading.Lock()

    def add(self, number, image, notes, full):
        """Look at a picture as it was read.

        Args:
            number: of the picture, so that it counts once however often it is read.
            image: an array.
            notes: of `kclr.data.image_files.PictureFile`.
            full: whether the full range of the numbers' type becomes 0 to 1.
        """
        dtype = getattr(image, "dtype", None)
        deep = full and dtype == "uint16" and image.size
        other = getattr(dtype, "name", "") in _CONVERTED
        with self._lock:
            self._notes[number] = (*notes, *("converted",) * other)
            if deep:
                self._deep[number] = int(image.min()), int(image.max())

    def warnings(self, scale_is) -> list[str]:
        """Warnings about the values, each with its cure.

        Args:
            scale_is: function of [low, high], how the option `scale` is given.
        """
        with self._lock:
            deep, notes = list(self._deep.values()), list(self._notes.values())
        found = []
        if deep:
            low, high = (
                of(values) for of, values in zip((min, max), zip(*deep, strict=True), strict=True)
            )
            if high < _BRIGHT:
                top = (1 << high.bit_length()) - 1
                found.append(
                    f"the first {_many(len(deep), '16-bit picture')} have values from {low:,} to "
                    f"{high:,} of 65,535, and so are dark. Set the values that become 0 and 1: "
                    f"{scale_is([0, top])}"
                )
        for note, words in _STRANGE.items():
            count = sum(note in own for own in notes)
            if count:
                found.append(f"{count} of the first {_many(len(notes), 'picture')} {words}")
        return found


_BRIGHT = 1 << 14  # 16-bit numbers that do not reach so far
_CONVERTED = ("uint32", "uint64", "int32", "int64", "float64", "longdouble")
_STRANGE = {
    "faint": "are nearly transparent and become nearly white. If their last channel is not "
    "transparency, save them without it",
    "dim": "have 16 bits per color but use at most 14, and only the upper 8 are read. Scale them "
    "to 8 bits first",
    "converted": "have numbers of a type that is not kept, and are read as float32. Convert them "
    "to uint8, uint16, int16 or float32 to choose for yourself",
}


def _many(count, noun):
    return f"{count} {noun}{'s' * (count != 1)}"
