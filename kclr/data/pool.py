"""Images in memory: one flat buffer of pixels, whole or chunk by chunk.

Where images of all sizes lie one behind the other, a crop of each of a batch's images is a single
gather, whatever their mix. A source that fits in its `memory` is read once; of a larger one a
chunk is kept, used for a while, and replaced by the next one, which is read in the meantime.
"""

import functools
import itertools
import math
import threading
import weakref
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

from kclr.data.fingerprints import Tell
from kclr.data.pixels import UnreadableError, invalid_pixels
from kclr.data.sources import Images
from kclr.errors import RunError
from kclr.spec.values import by, pair, short

TILE = 256  # px; of a larger image, a chunk keeps one random tile of this size
_MEGABYTE = 1 << 20
_PROBE = 64  # pictures that are read to tell whether all will fit
# So many pixels take some seconds to decode: a run should not wait longer for its first step.
_DECODED_PIXELS = 5e8
_FEWEST = 64  # pictures in a chunk, so that a batch meets enough different ones
_TRIES = 8  # tiles of an image that are looked at for one with a crop without missing values
_MOST_CROPS = 256  # crops of one image before its chunk is replaced
_TOLD_PIXELS = 1e8  # decoded, about a second's, between two words of how it goes

_loaded: weakref.WeakKeyDictionary[Images, "PixelBuffer"] = weakref.WeakKeyDictionary()
_too_large: weakref.WeakKeyDictionary[Images, int] = weakref.WeakKeyDictionary()  # for bytes


@dataclass(frozen=True)
class PixelBuffer:
    """Images one behind the other.

    Attributes:
        pixels: (pixels, channels), each image row by row.
        heights, widths: int32 (images,), px.
        offsets: int64 (images,), where in `pixels` an image starts.
        names: of the pictures that the images are from.
        numbers: int64 (images,), of these pictures in their source.
    """

    pixels: Any
    heights: Any
    widths: Any
    offsets: Any
    names: tuple[str, ...]
    numbers: Any

    def __len__(self):
        return len(self.heights)

    def image(self, index):
        """Image `index`: (height, width, channels)."""
        height, width = int(self.heights[index]), int(self.widths[index])
        start = int(self.offsets[index])
        return self.pixels[start : start + height * width].reshape(height, width, -1)

    def pictures(self):
        """Name and images of each picture."""
        for name, group in itertools.groupby(range(len(self)), lambda index: self.names[index]):
            yield name, [self.image(index) for index in group]

    def select(self, chosen):
        """The images where `chosen`, bool (images,), is true; the pixels stay where they are."""
        names = tuple(name for name, keep in zip(self.names, chosen, strict=True) if keep)
        sizes = (self.heights[chosen], self.widths[chosen], self.offsets[chosen])
        return PixelBuffer(self.pixels, *sizes, names, self.numbers[chosen])


class _Packer:
    """Fills a buffer of a bounded number of bytes."""

    def __init__(self, size, images):
        import numpy as np

        dtype = np.dtype(images.dtype)
        size = size // (dtype.itemsize * images.channels) * dtype.itemsize * images.channels

        try:
            # Memory that is never written to is never taken, so the bound may be generous. The
            # first pixel lies where TensorFlow can use the buffer without a copy of it.
            raw = np.empty(size + 64, np.uint8)
        except MemoryError:
            raise RunError(
                f"{size // _MEGABYTE} MB for images is more than this machine has. Lower "
                "data.memory."
            ) from None
        start = -raw.ctypes.data % 64
        self.pixels = raw[start : start + size].view(dtype).reshape(-1, images.channels)
        self.sizes: list[tuple[int, int]] = []
        self.names: list[str] = []
        self.numbers: list[int] = []
        self.used = 0

    def add(self, name, image, number) -> bool:
        """Append an image of picture `number`; return False and do nothing if it does not fit."""
        height, width = image.shape[:2]
        if self.used + height * width > len(self.pixels):
            return False
        self.pixels[self.used : self.used + height * width] = image.reshape(height * width, -1)
        self.sizes.append((height, width))
        self.names.append(name)
        self.numbers.append(number)
        self.used += height * width
        return True

    def buffer(self) -> PixelBuffer:
        import numpy as np

        sizes = np.array(self.sizes, np.int32).reshape(-1, 2)
        areas = sizes.astype(np.int64).prod(axis=1)
        return PixelBuffer(
            self.pixels[: self.used],
            sizes[:, 0],
            sizes[:, 1],
            np.cumsum(areas) - areas,
            tuple(self.names),
            np.array(self.numbers, np.int64),
        )


@dataclass(frozen=True)
class Corners:
    """Where a crop may begin in images with pixels that are never cut.

    Attributes:
        places: int32 (places,), pixels from the first of an image to the first of a crop, for all
            images with such pixels, one behind the other.
        firsts: int64 (images,), where those of an image begin in `places`.
        counts: int32 (images,), how many they are; -1 for images that may be cut anywhere.
    """

    places: Any
    firsts: Any
    counts: Any

    def select(self, chosen) -> "Corners":
        """Those of the images where `chosen`, bool (images,), is true; the places stay."""
        return Corners(self.places, self.firsts[chosen], self.counts[chosen])


def corners(buffer: PixelBuffer, crop_size, nodata=None) -> Corners:
    """Where crops of some size contain no pixel that is not finite, or `nodata`.

    Args:
        buffer: images, each at least as large as the crop.
        crop_size: (height, width), px.
        nodata: number, or None.
    """
    import numpy as np

    places, counts = [np.empty(0, np.int32)], np.full(len(buffer), -1, np.int32)
    for index in range(len(buffer)):
        allowed = where_allowed(buffer.image(index), crop_size, nodata)
        if allowed is not None:
            top, left = np.nonzero(allowed)
            places.append((top * int(buffer.widths[index]) + left).astype(np.int32))
            counts[index] = len(top)
    found = np.maximum(counts, 0).astype(np.int64)
    return Corners(np.concatenate(places), np.cumsum(found) - found, counts)


def where_allowed(image, crop_size, nodata):
    """Where a crop of an image may begin: bool (rows, columns), or None if everywhere.

    A summed-area table counts the invalid pixels of all crops at once (Crow 1984, "Summed-area
    tables for texture mapping").
    """
    import numpy as np

    invalid = invalid_pixels(image, nodata)
    if invalid is None:
        return None
    height, width = crop_size
    table = np.pad(invalid.cumsum(axis=0, dtype=np.int32).cumsum(axis=1), ((1, 0), (1, 0)))
    inside = table[height:] - table[:-height]
    return inside[:, width:] == inside[:, :-width]


def no_crop(crop_size, series=False) -> str:
    """Why an image cannot be used that has no crop without missing values."""
    size = f"{crop_size[1]} samples" if series else f"{by(short(*crop_size))} px"
    return f"no crop of {size} without missing values (NaN, infinite or nodata)"


def load(images: Images, memory=None) -> PixelBuffer | None:
    """Read all images into memory, only once for each `Images`.

    Args:
        images: the images of a source.
        memory: megabytes that their pixels may take; `images.memory` by default.

    Returns:
        The images, or None if they do not fit.

    Raises:
        RunError: too many pictures are unreadable.
    """
    size = (images.memory if memory is None else memory) * _MEGABYTE
    loaded = _loaded.get(images)
    if loaded is not None and loaded.pixels.nbytes <= size:
        return loaded
    if size <= _too_large.get(images, -1):
        return None
    packer = _Packer(size, images)
    for number, (name, found) in enumerate(images.pictures(), 1):
        fits = all(packer.add(name, image, number - 1) for image in found)
        # Half as much again: the first pictures may be larger than the others.
        used = packer.used * packer.pixels[:1].nbytes
        if number == _PROBE and images.count:
            fits = fits and used / number * images.count <= 1.5 * size
        if not fits:
            _too_large[images] = size
            return None
    made = _loaded[images] = packer.buffer()
    images.count_missing(map(made.image, range(len(made))))
    return made


class Chunks:
    """The chunks of a source that is larger than the memory for it.

    Chunk k holds what pictures k n to (k + 1) n of the endlessly repeated source give, n being
    `pictures`: of an image larger than `TILE` one random tile; of a picture that was cut into many
    tiles as many random ones as are its share of the memory. So a chunk is a function of its
    number and the seed alone, and a run that starts in the middle meets the same ones.

    Where memory holds the tiles of several turns of the source, as of few but huge pictures, a
    picture is decoded once for all of these.

    Args:
        images: the images of a source.
        crop_size: px, or (height, width); smaller images are skipped.
        memory: megabytes, for the chunk in use, the next one and the copy in between, and for the
            tiles of turns to come.
        seed: of the random tiles.
        tell: receives progress (picture, total) if decoding takes a while.

    Attributes:
        count: pictures in the source.
        pictures: pictures in a chunk.
        crops: crops to take of each image of a chunk, about as many as would cover it once.
        images_per_picture: more than one where the source is cut into tiles.
        turns: of the source, that a picture is decoded for at once.
    """

    def __init__(self, images, crop_size, memory=None, seed=0, tell: Tell | None = None):
        memory = images.memory if memory is None else memory
        self.images, self.crop_size, self.seed = images, pair(crop_size), seed
        self.tile = [max(TILE, side) for side in self.crop_size]
        tile = math.prod(self.tile) * images.pixel_bytes
        self.bytes = max(memory * _MEGABYTE // 3, 4 * tile)
        self.count: int = images.count or sum(1 for _ in images.pictures())
        most = max(tile, self.bytes // _FEWEST)  # bytes of a picture
        # A chunk is no larger than a turn, and up to three of them are in memory.
        self.turns = max(1, 3 * self.bytes // (most * max(1, self.count)) - 3)
        self._tell, self._untold = tell, 0
        self._reader: Any = (_ for _ in ())
        self._place = (-1, 0)  # the turn and the picture that the reader comes to next
        # What pictures gave: from which turn on, name, decoded pixels, and images of all turns in a
        # row. Where there is no room for a turn of them all, it is what was read of the first ones
        # to learn their sizes.
        self._ahead: dict[int, tuple[int, str, int, list[Any]]] = {}
        self._room = self.count if self.turns > 1 else self.bytes // most
        raw, kept, found = self._probe()
        self.images_per_picture = max(1, round(found))
        fitting = int(self.bytes / (kept * images.pixel_bytes * 1.1))
        decoded = max(_FEWEST, int(_DECODED_PIXELS / raw))
        self.pictures = max(2, min(self.count, fitting, decoded))
        self.crops = max(1, min(_MOST_CROPS, math.ceil(kept / found / math.prod(self.crop_size))))
        self._held: dict[int, Future] = {}  # the chunk in use and the next one
        self._lock = threading.Lock()
        self.failure: Exception | None = None

    def _probe(self):
        """Mean pixels decoded and kept, and images, of a picture: of the first ones that serve."""
        sizes = []
        for number in range(self.count):
            _, raw, images = self._picture(number, keep=number < self._room)
            kept = sum(image.shape[0] * image.shape[1] for image in images)
            sizes += [(raw, kept, len(images))] if images else []
            if len(sizes) == _PROBE:
                break
        if not sizes:
            raise RunError(
                f"{self.images.name}: none of its pictures can be used"
                + "".join(f"\n  {name}: {reason}" for name, reason in self.images.skipped[:5])
            )
        return [sum(column) / len(sizes) for column in zip(*sizes, strict=True)]

    def _reduce(self, number, images):
        import numpy as np

        random = np.random.default_rng([self.seed % (1 << 63), number])
        fitting = max(1, self.bytes // _FEWEST // images[0].nbytes)
        if len(images) > fitting:
            chosen = np.sort(random.permutation(len(images))[:fitting])
            images = [images[index] for index in chosen]
        found = [self._random_tile(image, random) for image in images]
        return [tile for tile in found if tile is not None]

    def _random_tile(self, image, random):
        height, width = map(min, self.tile, image.shape[:2])
        for _ in range(_TRIES):
            top = random.integers(image.shape[0] - height + 1)
            left = random.integers(image.shape[1] - width + 1)
            tile = image[top : top + height, left : left + width]
            if self.images.may_be_invalid:
                allowed = where_allowed(tile, self.crop_size, self.images.nodata)
                if allowed is not None and not allowed.any():
                    continue
            return tile.copy()  # so that the whole picture can go
        return None

    def get(self, index) -> PixelBuffer:
        """Chunk `index`; the one after it is then read in the background."""
        with self._lock:
            held = self._held
            self._held = {number: held[number] for number in (index, index + 1) if number in held}
            for number in held.keys() - self._held.keys():
                held[number].exception()  # the reader serves one chunk at a time, and stops soon
            if index not in self._held:
                self._held[index] = Future()
                self._fill(index, self._held[index])
            try:
                buffer = self._held[index].result()
            except Exception:
                self._held = {}
                raise
            if index + 1 not in self._held:
                self._held[index + 1] = Future()
                threading.Thread(
                    target=self._fill,
                    args=(index + 1, self._held[index + 1]),
                    daemon=True,
                    name="kclr-chunk",
                ).start()
        return buffer

    def _fill(self, index, future):
        try:
            future.set_result(self._read(index))
        except CancelledError as error:
            future.set_exception(error)
        except Exception as error:  # whoever asks for the chunk gets it
            # TensorFlow passes on the text of an exception, not the exception.
            self.failure = error
            future.set_exception(error)

    def _read(self, index):
        packer = _Packer(self.bytes, self.images)
        position = index * self.pictures
        stop = position + self.pictures
        # A chunk needs two images; more pictures are read where nearly all are unusable.
        while position < stop or (len(packer.sizes) < 2 and position < stop + self.count):
            if index not in self._held:
                raise CancelledError
            name, _, images = self._picture(position, keep=self.turns > 1)
            for image in images:
                packer.add(name, image, position % self.count)
            position += 1
        if len(packer.sizes) < 2:
            raise too_few(self.images, len(packer.sizes))
        return packer.buffer()

    def _picture(self, position, keep):
        """Name, decoded pixels and images of a picture, which is read where it is not held."""
        turn, number = divmod(position, self.count)
        first = turn // self.turns * self.turns
        held = self._ahead.pop(number, None)
        if held is None or held[0] != first:
            held = self._decoded(first, number)
        if keep:
            self._ahead[number] = held
        _, name, raw, images = held
        each = len(images) // self.turns
        return name, raw, images[(turn - first) * each : (turn - first + 1) * each]

    def _decoded(self, first, number):
        """What a picture gives, in `turns` turns from `first` on."""
        if self._place != (first, number):
            self._ahead = self._ahead if self.turns > 1 else {}
            self._reader.close()
            self._reader = self.images.pictures(number, functools.partial(self._tiles, first))
        self._place = first, number + 1
        name, found = next(self._reader, ("", []))
        raw, *images = found or [0]
        self._untold += raw
        if self._tell and self._untold > _TOLD_PIXELS:
            self._untold = 0
            self._tell(number + 1, self.count)
        return first, name, raw, images

    def _tiles(self, first, number, images):
        """The pixels of a picture, and tiles of it for each turn."""
        raw = sum(image.shape[0] * image.shape[1] for image in images)
        self.images.count_missing(images)
        height, width = self.crop_size
        images = [own for own in images if own.shape[0] >= height and own.shape[1] >= width]
        if not images:
            raise UnreadableError(f"smaller than the crop of {by(short(*self.crop_size))} px")
        turns = range(first, first + self.turns)
        each = [self._reduce(turn * self.count + number, images) for turn in turns]
        # As many in every turn, for they are told apart by their place.
        count = min(map(len, each))
        if not count:
            raise UnreadableError(no_crop(self.crop_size, self.images.series))
        return [raw, *itertools.chain.from_iterable(own[:count] for own in each)]


def too_few(images, count) -> RunError:
    """The error for a source of less than two usable images."""
    return RunError(
        f"{images.name}: {count or 'no'} usable image{'s' if count != 1 else ''}. Negatives come "
        "from another image, so at least two are needed. Add images, or cut large ones into "
        f"tiles: {images.cure('tile', 64)}"
    )
