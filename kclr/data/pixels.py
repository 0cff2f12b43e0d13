"""One picture's numbers: any type and number of channels to uint8, and large ones into tiles."""

import threading

from kclr.spec.values import pair

NOTICED = 64  # of so many first pictures, what is strange is noticed
_AT_ONCE = 1 << 20  # numbers that are turned into others at once, for they are wider in between


class UnreadableError(Exception):
    """A picture that cannot be used; the message is a short reason."""


def to_channels(image, channels, limits=None):
    """A picture of any number type and channels as uint8 (height, width, channels).

    Args:
        image: (height, width) or (height, width, 1 to 4): gray, gray and alpha, RGB, or RGB and
            alpha. Whole numbers up to 255 (uint16: up to 65535) or floats in [0, 1].
        channels: 1 or 3. Alpha is composited on white; RGB becomes gray by ITU-R 601 luma.
        limits: (low, high), the values that become 0 and 255; values between are scaled, values
            outside are clipped. uint8 is not changed.

    Raises:
        UnreadableError: the picture has another shape, or other numbers.
    """
    import numpy as np

    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[-1] not in (1, 2, 3, 4) or 0 in image.shape:
        raise UnreadableError(f"its shape {image.shape} is not (height, width, 1 or 3 channels)")
    convert = _to_uint8(image, limits)
    if convert:
        image = _by_rows(convert, image, image.shape[-1])
    if image.shape[-1] in (2, 4):
        image = _by_rows(_on_white, image, image.shape[-1] - 1)
    if image.shape[-1] == 1 and channels == 3:
        return np.repeat(image, 3, axis=-1)
    if image.shape[-1] == 3 and channels == 1:
        return _by_rows(_luma, image, 1)
    return image


def _by_rows(function, image, channels):
    """What `function` makes of an image, a few rows at a time: uint8 (height, width, channels)."""
    import numpy as np

    made = np.empty((*image.shape[:2], channels), np.uint8)
    rows = max(1, _AT_ONCE // (image.shape[1] * image.shape[2]))
    for top in range(0, len(image), rows):
        made[top : top + rows] = function(image[top : top + rows])
    return made


def _on_white(image):
    import numpy as np

    alpha = image[..., -1:].astype(np.uint32)
    return (image[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255


def _luma(image):
    import numpy as np

    # The integer weights of PIL's own conversion to gray.
    luma = image.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32) + 0x8000
    return (luma >> 16)[..., None]


def _to_uint8(image, limits):
    """What turns rows of an image's numbers into uint8, or None where they are."""
    import numpy as np

    if image.dtype == np.uint8:
        return None
    if image.dtype == bool:
        return lambda rows: rows.astype(np.uint8) * 255
    if image.dtype.kind not in "iuf":
        raise UnreadableError(f"its values are of type {image.dtype}")
    low, high = image.min(), image.max()
    if limits is not None:
        if not (np.isfinite(low) and np.isfinite(high)):
            raise UnreadableError("some of its values are not finite")
        bottom, top = map(float, limits)
        scale = 255 / (top - bottom)

        def stretch(rows):
            return np.clip((rows.astype(np.float64) - bottom) * scale + 0.5, 0, 255.5)

        return stretch
    if image.dtype == np.uint16:
        return lambda rows: (rows.astype(np.uint32) + 128) // 257
    if image.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # so written, NaN is refused too
            raise UnreadableError(
                f"its values go from {_number(low)} to {_number(high)}, not from 0 to 1"
            )
        return lambda rows: rows * 255 + 0.5
    if low < 0 or high > 255:
        raise UnreadableError(f"its values go from {low} to {high}, not from 0 to 255")
    return lambda rows: rows


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

    def add(self, number, image, notes, limits):
        """Look at a picture before it becomes uint8.

        Args:
            number: of the picture, so that it counts once however often it is read.
            image: an array.
            notes: of `kclr.data.image_files.PictureFile`.
            limits: as `to_channels` has them.
        """
        deep = getattr(image, "dtype", None) == "uint16" and limits is None and image.size
        with self._lock:
            self._notes[number] = tuple(notes)
            if deep:
                self._deep[number] = int(image.min()), int(image.max())

    def warnings(self, range_is) -> list[str]:
        """Warnings about the values, each with its cure.

        Args:
            range_is: function of [low, high], how the option `range` is given.
        """
        with self._lock:
            deep, notes = list(self._deep.values()), list(self._notes.values())
        found = []
        if deep:
            low, high = (
                of(values) for of, values in zip((min, max), zip(*deep, strict=True), strict=True)
            )
            if high < _BRIGHT:
                levels = (high + 128) // 257 - (low + 128) // 257 + 1
                top = (1 << high.bit_length()) - 1
                found.append(
                    f"the first {_many(len(deep), '16-bit picture')} have values from {low:,} to "
                    f"{high:,} of 65,535, which leaves {levels} of 256 gray levels. Set the "
                    f"values that become black and white: {range_is([0, top])}"
                )
        for note, words in _STRANGE.items():
            count = sum(note in own for own in notes)
            if count:
                found.append(f"{count} of the first {_many(len(notes), 'picture')} {words}")
        return found


_BRIGHT = 1 << 14  # 16-bit numbers that reach so far use what 8 bits can hold of them
_STRANGE = {
    "faint": "are nearly transparent and become nearly white. If their last channel is not "
    "transparency, save them without it",
    "dim": "have 16 bits per color but use at most 14, and only the upper 8 are read. Scale them "
    "to 8 bits first",
}


def _many(count, noun):
    return f"{count} {noun}{'s' * (count != 1)}"
