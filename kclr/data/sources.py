"""Where images come from: the base class of all sources, and the images that a source returns.

A source is one registered class in a file of its own (`source_folder.py` is a short example). A
spec names it as `NAME` or `NAME:ARGUMENT`, alone or in a mapping with its options. Nothing here
imports TensorFlow, so that a spec can be checked quickly.
"""

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from kclr.data.census import Census
from kclr.data.decoding import Record, side_by_side
from kclr.data.fingerprints import Contents, Tell, digest, of_pictures
from kclr.data.pixels import NOTICED, Noticed, UnreadableError, tiles, to_channels
from kclr.errors import RunError, SpecError
from kclr.spec.registry import Part, parts, splits, unknown
from kclr.spec.values import Sides, Size, pair
from kclr.spec.wording import invalid, printable

if TYPE_CHECKING:
    from kclr.runs.keys import Identity

_LOOKED_AT = 1 << 25  # bytes of pictures that are looked at before a training


class Source(Part):
    """Options of all sources."""

    channels: Literal[1, 3] | None = None
    """Color channels of the images: 1 (gray) or 3 (RGB); the source's own by default."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only this many pictures, the first ones in the source's fixed order."""
    tile: Annotated[Size, Sides(2, 65536)] | None = None
    """Cut every picture into tiles of this size in px, each used as an image. For a few large
    pictures."""
    memory: Annotated[int, Field(ge=1)] = 1024
    """Megabytes of pixels kept in memory. A larger source is read repeatedly, in chunks."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of pictures that may be unreadable or too small; above it the run stops with an
    error."""

    range: Annotated[tuple[float, float], Field(strict=False)] | None = None
    """Values that become black and white, for images that are not 8-bit: [0, 4095] for 12 bits. By
    default the full range of 16 bits, or 0 to 1 for floats."""

    argument: ClassVar[str | None] = None  # the field that stands behind the colon

    @model_validator(mode="after")
    def _rising(self):
        if self.range and not self.range[0] < self.range[1]:
            words = "its first value must be less than its second. Write [black, white]."
            raise invalid(words, "range", value=self.range)
        return self

    def spec_name(self) -> str:
        value = getattr(self, self.argument) if self.argument else None
        return self.part_name if value is None else f"{self.part_name}:{value}"

    def image_shape(self) -> tuple[int, int, int] | None:
        """Height, width and channels of the smallest images, or None where unknown.

        Cheap, without TensorFlow. Images that `max_unreadable` allows to be too small do not count.
        """
        return None

    def problem(self) -> str | None:
        """Why the source cannot be opened, with the cure, or None. Cheap, without TensorFlow."""
        return None

    def too_small(self, least: Size) -> str:
        """If only some of the images are smaller than `least` px: how many, with the cure."""
        return ""

    def place(self) -> str | None:
        """The folder of its files, into which no run is written; None where it has none."""
        return None

    def census(self) -> Census | None:
        """Which files are used and which are left out, for a source of files."""
        return None

    def open(self) -> "Images":
        """The source's images.

        Raises:
            SpecError: the source does not exist or does not match its options.
        """
        raise NotImplementedError

    def _smallest(self, sizes):
        """The `image_shape` of RGB pictures of these heights and widths."""
        if not sizes:
            return None
        height, width = (min(side) for side in zip(*sizes, strict=True))
        if self.tile:
            height, width = map(min, (height, width), pair(self.tile))
        return height, width, self.channels or 3

    def _images(
        self, records, count, channels, fingerprint=None, threads=1, contents=None, census=None
    ) -> "Images":
        """`Images` with this source's options.

        Args:
            records: function of a picture's number, the records from there on.
            count: of all pictures, or None where only reading them would tell.
            channels: 1 or 3, the pictures' own.
            fingerprint: text that changes when the pictures do, where the source knows one.
            threads: how many pictures may be decoded in parallel.
            contents: in place of `fingerprint` a function that finds the pictures' `Contents`, and
                may be told whom to tell how it goes (`Tell`, or None); it is called when they are
                needed. Without the two, every picture is decoded and hashed.
            census: `Census`, where the source is of files.
        """
        if fingerprint is not None:

            def contents(tell):
                return Contents(digest(fingerprint), count, {})

        options = self.model_dump(mode="json") | {"channels": self.channels or channels}
        return Images(
            records=records,
            channels=self.channels or channels,
            contents=contents,
            options={"source": self.part_name, "name": self.spec_name()} | options,
            count=count if self.limit is None or count is None else min(count, self.limit),
            limit=self.limit,
            tile=self.tile,
            memory=self.memory,
            max_unreadable=self.max_unreadable,
            threads=threads,
            name=printable(self.spec_name()),
            range=self.range,
            census=census,
        )


# The options that what is learned depends on.
_COUNT = ("source", *sorted({*Source.model_fields} - {"max_unreadable"}))


@dataclass(frozen=True, eq=False)
class Images:
    """The images of an opened source, in one fixed order.

    A *picture* is what the source holds (a file, a record); with `tile`, every picture is several
    images. Pictures that cannot be read are skipped, and listed in `skipped`.

    Attributes:
        records: from the number of a picture, the records from there to the end.
        channels: 1 or 3, the channels of every image.
        contents: function that finds the `Contents`; by default all pictures are decoded.
        options: plain values of the source and its options.
        count: pictures, or None where only reading them all would tell.
        memory: megabytes of pixels to keep at once.
        threads: how many pictures are decoded in parallel, as far as `memory` allows.
        range: the values that become 0 and 255 (see `kclr.data.pixels.to_channels`).
        census: which files are used and left out; None where the source is not of files.
    """

    records: Callable[[int], Iterable[Record]]
    channels: int
    contents: Callable[[Tell | None], Contents] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    count: int | None = None
    limit: int | None = None
    tile: Size | None = None
    memory: int = 1024
    max_unreadable: float = 0.1
    threads: int = 1
    name: str = "images"
    range: tuple[float, float] | None = None
    census: Census | None = None
    _noticed: Noticed = field(default_factory=Noticed, repr=False)
    _reasons: dict[str, str] = field(default_factory=dict, repr=False)
    _found: list[Contents] = field(default_factory=list, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def cure(self, option, value) -> str:
        """How to set an option of the source, in a spec and in Python."""
        in_python = f"kclr.data.sources.as_images(images, {option}={value})"
        if self.options.get("source") == "":  # arrays, which no spec can name
            return in_python
        return f"data: {{source: {self.name}, {option}: {value}}} in a spec, {in_python} in Python"

    @property
    def fingerprint(self) -> str:
        """A hash that changes when the pictures, or the options that what is learned depends on,
        change. Finding it takes a pass over all of them, the first time."""
        return digest(self.identify().digest, *((key, self.options.get(key)) for key in _COUNT))

    def identify(self, tell: Tell | None = None) -> Contents:
        """What identifies the pictures, computed when first needed.

        Args:
            tell: receives progress (hashed, total) if it takes a while.

        Raises:
            RunError: too many of the pictures cannot be read.
        """
        if not self._found:
            self._found.append(self.contents(tell) if self.contents else self._decoded_contents())
        return self._found[0]

    def identity(self, tell: Tell | None = None) -> "Identity":
        """What tells these images from others, as a run keeps it; see `identify`."""
        from kclr.runs.keys import Identity

        contents = self.identify(tell)
        about = {"name": self.name, **self.options}
        facts = {**about, "content": contents.digest, "count": contents.count}
        return Identity(self.fingerprint, facts, contents.pictures)

    def _decoded_contents(self):
        from kclr.data import pool

        # Read once: what fits in memory is taken from there when it is learned from.
        loaded = pool.load(self)
        return of_pictures(self.pictures() if loaded is None else loaded.pictures())

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Names and reasons of the pictures that could not be used so far."""
        with self._lock:
            return list(self._reasons.items())

    @property
    def warnings(self) -> list[str]:
        """Warnings about these images, as far as they are known so far."""
        left_out = self.census.warnings() if self.census else []
        noticed = self._noticed.warnings(lambda limits: self.cure("range", limits))
        return [f"{self.name}: {text}" for text in (*left_out, *noticed)]

    def look(self) -> list[str]:
        """`warnings`, after a look at the first pictures."""
        left = _LOOKED_AT
        for _, images in islice(self.pictures(), NOTICED):
            left -= sum(image.nbytes for image in images)
            if left < 0:
                break
        return self.warnings

    def part(self, index, count) -> "Images":
        """One of `count` parts with different pictures: what one of `count` workers reads.

        They are stretches of the pictures' order, or every `count`-th picture where only reading
        would tell how many there are.
        """
        if self.count is None:
            size = None if self.limit is None else len(range(index, self.limit, count))

            def records(start):
                return islice(self.records(index + start * count), 0, None, count)
        else:
            first = self.count * index // count
            size = self.count * (index + 1) // count - first

            def records(start):
                return self.records(first + start)

        return replace(
            self,
            records=records,
            count=self.count and size,
            limit=size,
            contents=None,
            _noticed=Noticed(),
            _reasons={},
            _found=[],
            _lock=threading.Lock(),
        )

    def read(self, start=0) -> Iterator[Any]:
        """The images from picture `start` on: uint8 (height, width, channels), sizes may differ.

        Raises:
            RunError: more than the share `max_unreadable` of the pictures cannot be read.
        """
        for _, images in self.pictures(start):
            yield from images

    def pictures(self, start=0, reduce=None) -> Iterator[tuple[str, Any]]:
        """Name and images of each picture from `start` on; no images where it is skipped.

        Args:
            start: number of the first picture.
            reduce: called during decoding with a picture's number and its images; what it returns
                is yielded in their place, so that large pictures need not pile up. It may raise
                `UnreadableError`.
        """

        def work(number, load):
            raw = load()
            if number < NOTICED:
                self._noticed.add(number, raw, getattr(load, "notes", ()), self.range)
            images = tiles(to_channels(raw, self.channels, self.range), self.tile)
            return reduce(number, images) if reduce else images

        seen = start
        for name, finish in self._decoded(start, work):
            seen += 1
            try:
                images = finish()
            except UnreadableError as error:
                self.skip({name: str(error)})
                images = []
            yield name, images
        if self.count is None and start == 0:
            self._check_share(seen)

    def _decoded(self, start, work):
        """Names, and calls that return what `work` made of a picture or raise what it raised."""
        left = None if self.limit is None else max(0, self.limit - start)
        records = enumerate(islice(self.records(start), left), start)
        if self.threads > 1:
            yield from side_by_side(records, work, self.threads, self.memory << 20)
            return
        for number, (name, load) in records:
            yield name, lambda number=number, load=load: work(number, load)

    def skip(self, reasons):
        """Count pictures as unusable, given a reason for each name.

        Raises:
            RunError: these are now more than the share `max_unreadable`.
        """
        with self._lock:
            self._reasons.update(reasons)
        if self.count is not None:
            self._check_share(self.count)

    def _check_share(self, count):
        skipped = self.skipped
        if not skipped or len(skipped) <= self.max_unreadable * count:
            return
        shown = "".join(f"\n  {name}: {reason}" for name, reason in skipped[:5])
        cures = {
            "smaller": "Use a smaller crop_size or patch_size.",
            "too many pixels": "Raise max_pixels if you trust these files: "
            f"{self.cure('max_pixels', 400_000_000)}.",
            "its values": "Set the values that become black and white: "
            f"{self.cure('range', '[BLACK, WHITE]')}.",
        }
        cure = "".join(
            f"{words} "
            for begin, words in cures.items()
            if any(reason.startswith(begin) for _, reason in skipped)
        )
        more = f"\n  and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        share = min(1.0, math.ceil(10 * len(skipped) / count) / 10)
        raise RunError(
            f"{self.name}: {len(skipped)} of {count} pictures cannot be used, more than "
            f"max_unreadable allows ({self.max_unreadable:g} of them):{shown}{more}\n{cure}Fix or "
            f"remove them, or allow more: {self.cure('max_unreadable', share)}"
        )


@splits("source")
def split_source(text) -> tuple[str, dict[str, Any]]:
    """Split a spec's `NAME:ARGUMENT` or path into a source's name and its field.

    Returns:
        The registered name and {field: argument}; a word that is neither comes back as it is, with
        no field.
    """
    sources = parts("source")
    if text in sources:
        return text, {}
    scheme, colon, argument = text.partition(":")
    name = getattr(sources.get(scheme), "argument", None)
    if colon and name:
        return scheme, {name: argument}
    if "://" not in text and (
        "/" in text or os.sep in text or text.startswith((".", "~")) or os.path.isdir(text)
    ):
        return "folder", {"path": text}
    return (scheme if colon and scheme and scheme not in sources else text), {}


def source(text, **options) -> Any:
    """The source that `text` names in a spec, with its options.

    Raises:
        SpecError: the source is unknown, or an option is not valid for it.
    """
    sources = parts("source")
    name, argument = split_source(text)
    if name not in sources:
        arguments = {own: getattr(part, "argument", None) for own, part in sources.items()}
        forms = [own + (f":{field.upper()}" if field else "") for own, field in arguments.items()]
        raise SpecError(unknown("source", name, forms))
    return _with(sources[name], text, argument | options)


def _with(kind, text, options):
    """A source of a kind with these options."""
    from pydantic import ValidationError

    try:
        return kind(**options)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise SpecError(f"{text}: {wrong}") from None


def as_source(images) -> Source:
    """A source in the forms that a spec's `data` may have.

    Raises:
        SpecError: the name is not that of a source.
    """
    if isinstance(images, Source):
        return images
    if isinstance(images, (str, os.PathLike)):
        return source(images if isinstance(images, str) else os.path.join(images, ""))
    from kclr.data.arrays import Arrays

    return Arrays(images=images)


def as_images(images, **options) -> Images:
    """Images from any kind of Python input.

    Args:
        images: `Images`, a `Source`, a source's name (`"tfds:cifar100"`, a path), an array of
            (count, height, width) or (count, height, width, channels), a list of arrays of mixed
            sizes, or a `tf.data.Dataset` of images, of tuples that start with one, or of
            dictionaries with the key `image`; batched or not, in the same order every time.
            Numbers are uint8, or floats in [0, 1].
        **options: those of every `Source`, if `images` is not yet opened or described; and for
            arrays and data sets `alpha`, whether the last of two or four channels is transparency
            (by default such images are refused).

    Raises:
        SpecError: it is none of these.
    """
    if isinstance(images, (Images, Source)):
        if options:
            raise SpecError(f"{', '.join(options)}: set these where the source is created.")
        return images.open() if isinstance(images, Source) else images
    if isinstance(images, (str, os.PathLike)):
        text = os.fspath(images)
        known = isinstance(images, str) and split_source(text)[0] in parts("source")
        return source(
            text if known or isinstance(images, str) else os.path.join(text, ""), **options
        ).open()
    from kclr.data.arrays import Arrays

    return _with(Arrays, "arrays", {"images": images, **options}).open()


def skipped_words(pictures) -> str:
    """That pictures were skipped, given their names and reasons, in a warning's words."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in pictures[:5])
    more = f"; and {len(pictures) - 5} more" if len(pictures) > 5 else ""
    what = "pictures were" if len(pictures) > 1 else "picture was"
    return f"{len(pictures)} unusable {what} skipped ({shown}{more})"
