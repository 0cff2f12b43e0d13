"""Images: what a source hands over. Raw numbers in a fixed order, and how they are scaled."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from kclr.data.census import Census
from kclr.data.decoding import Record, side_by_side
from kclr.data.fingerprints import Contents, Tell, array_digest, digest, of_pictures
from kclr.data.pixels import (
    NOTICED,
    Noticed,
    UnreadableError,
    between,
    invalid_pixels,
    tiles,
    to_channels,
)
from kclr.errors import RunError, SpecError
from kclr.scaling import Scaling, fixed, matching, measured
from kclr.spec.values import Size

if TYPE_CHECKING:
    from kclr.runs.keys import Identity

_LOOKED_AT = 1 << 25  # bytes of pictures that are looked at before a training
_MEASURED = 1 << 29  # bytes of pictures that a scaling is measured on
# The options that what is learned depends on. Newer ones count where they are set, so that runs of
# older versions can be continued.
_NEWER = ("nodata", "scale")
_COUNT = ("source", "channels", "limit", "memory", "range", "tile")


@dataclass(frozen=True, eq=False)
class PictureLabels:
    """The labels of a source's pictures that a training may use.

    Attributes:
        numbers: int32 (pictures,), the class index of each picture, in the source's order; -1 for
            those without a label, and for those whose label is not used.
        classes: names of the classes.
    """

    numbers: Any
    classes: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many pictures have a label that is used."""
        return int((self.numbers >= 0).sum())

    @property
    def digest(self) -> str:
        """A hash of the labels."""
        return array_digest(self.numbers)

    def of(self, buffer, rows=None) -> Any:
        """Those of the images in memory: int32 (images,).

        Args:
            buffer: `kclr.data.pool.PixelBuffer`.
            rows: `kclr.data.relations.Rows`, for those of the rows' first images.
        """
        found = self.numbers[buffer.numbers]
        return found if rows is None else found[rows.images]

    def facts(self) -> dict[str, int]:
        """What `layer.json` says of them."""
        used, pictures = self.count, len(self.numbers)
        return {"count": used, "pictures": pictures, "classes": len(self.classes)}


@dataclass(frozen=True, eq=False)
class Images:
    """The images of an opened source, in one fixed order.

    A *picture* is what the source holds (a file, a record); with `tile`, every picture is several
    images. Pictures that cannot be read are skipped, and listed in `skipped`.

    Attributes:
        records: from the number of a picture, the records from there to the end.
        channels: of every image.
        contents: function that finds the `Contents`; by default all pictures are decoded.
        options: plain values of the source and its options.
        count: pictures, or None where only reading them all would tell.
        memory: megabytes of pixels to keep at once.
        threads: how many pictures are decoded in parallel, as far as `memory` allows.
        census: which files are used and left out; None where the source is not of files.
        dtype: of every image, one of `kclr.scaling.DTYPES`.
        scale: how it becomes a network's input (see `Source`), None for the usual way.
        nodata: number that stands for "no data", or None.
        alpha: whether the last of two or four channels is transparency, composited on white.
        series: whether each image is a series, of height 1.
        bands: three channels, counted from 1, that pictures show as red, green and blue, or None.
        labelling: function that finds the `PictureLabels` that a training may use; None for
            pictures without.
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
    census: Census | None = None
    dtype: str = "uint8"
    scale: Any = None
    nodata: float | None = None
    alpha: bool = False
    series: bool = False
    bands: tuple[int, int, int] | None = None
    labelling: Callable[[], PictureLabels] | None = None
    _noticed: Noticed = field(default_factory=Noticed, repr=False)
    _reasons: dict[str, str] = field(default_factory=dict, repr=False)
    _found: list[Contents] = field(default_factory=list, repr=False)
    _scaling: list[Scaling] = field(default_factory=list, repr=False)
    _of_scale: list[str] = field(default_factory=list, repr=False)
    _missing: list[int] = field(default_factory=lambda: [0, 0], repr=False)
    _labels: list[PictureLabels] = field(default_factory=list, repr=False)
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
        set_ = [(key, self.options[key]) for key in _NEWER if self.options.get(key) is not None]
        own = ((key, self.options.get(key)) for key in _COUNT)
        labels = [self.labels.digest] if self.labels else []
        return digest(self.identify().digest, *own, *set_, *labels)

    @property
    def labels(self) -> PictureLabels | None:
        """The labels that a training may use, found when they are first needed; None without.

        Raises:
            SpecError: there are none, or too few.
        """
        if self.labelling and not self._labels:
            found = self.labelling()
            if self.count not in (None, len(found.numbers)):
                raise SpecError(
                    f"{len(found.numbers):,} labels do not match {self.count:,} {self.noun}. Use "
                    "one for each."
                )
            self._labels.append(found)
        return self._labels[0] if self._labels else None

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a pixel, all channels."""
        import numpy as np

        return self.channels * np.dtype(self.dtype).itemsize

    @property
    def may_be_invalid(self) -> bool:
        """Whether there may be pixels that are never cut: NaN, infinite, or `nodata`."""
        return self.dtype.startswith("float") or self.nodata is not None

    @property
    def scaled_by(self) -> Any:
        """The `scale` of these images: the option, or its default for their type of numbers."""
        if self.scale is not None:
            return self.scale
        return "unit" if self.dtype in ("uint8", "uint16") else "standard"

    def layer_facts(self) -> dict[str, Any]:
        """What `layer.json` says of the images of a layer, where they are not 8-bit images."""
        scaling = {} if self.scaling().usual else {"scaling": self.scaling().as_dict()}
        return scaling | ({"series": True} if self.series else {})

    def use_scaling(self, scaling: Scaling) -> None:
        """Scale these images as others, those that a network has learned from.

        Raises:
            SpecError: their numbers mean something else.
        """
        found = matching(scaling, self.dtype)
        if found is None:
            raise SpecError(
                f"{self.name}: its numbers are {self.dtype}, but those of the images below or "
                f"before are {scaling.dtype}. Use images with the same type of numbers for all "
                "layers."
            )
        self._scaling[:] = [found]

    def scaling(self) -> Scaling:
        """How their raw numbers become a network's input, measured when it is first needed.

        Raises:
            RunError: too many of the pictures cannot be read.
        """
        if not self._scaling:
            found = fixed(self.scaled_by, self.dtype)
            if found is None:
                found, words = measured(self.scaled_by, self.dtype, self._valid_pixels())
                self._of_scale.extend(words)
            self._scaling.append(found)
        return self._scaling[0]

    def _valid_pixels(self):
        """The pixels of all pictures, or, where they are very many, of some all over."""
        from kclr.data import pool

        pictures: Iterable[tuple[str, Any]] = self.pictures()
        loaded = pool.load(self)
        if loaded is not None:
            pictures = loaded.pictures()
        elif self.count:
            size = sum(own.nbytes for _, images in islice(self.pictures(), 4) for own in images) / 4
            step = math.ceil(self.count * size / _MEASURED)
            if step > 1:
                # In one go: what is compressed could not be entered at each of them.
                pictures = replace(
                    self,
                    records=lambda start: islice(self.records(start * step), 0, None, step),
                    count=None,
                    limit=len(range(0, self.count, step)),
                    _noticed=Noticed(),
                    _reasons={},
                    _lock=threading.Lock(),
                ).pictures()
        for _, images in pictures:
            for image in images:
                invalid = invalid_pixels(image, self.nodata)
                flat = image.reshape(-1, self.channels)
                yield flat if invalid is None else flat[~invalid.reshape(-1)]

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

    def count_missing(self, images: Iterable[Any]) -> None:
        """Count the pixels of some images, and those that are never cut."""
        if not self.may_be_invalid:
            return
        missing = total = 0
        for image in images:
            invalid = invalid_pixels(image, self.nodata)
            missing += 0 if invalid is None else int(invalid.sum())
            total += image.shape[0] * image.shape[1]
        with self._lock:
            self._missing[:] = self._missing[0] + missing, self._missing[1] + total

    @property
    def missing_share(self) -> float:
        """The share of the pixels read so far that are never cut: NaN, infinite, or `nodata`."""
        missing, total = self._missing
        return missing / total if total else 0.0

    @property
    def warnings(self) -> list[str]:
        """Warnings about these images, as far as they are known so far."""
        left_out = self.census.warnings() if self.census else []
        noticed = self._noticed.warnings(lambda limits: self.cure("scale", limits))
        return [f"{self.name}: {text}" for text in (*left_out, *noticed, *self._of_scale)]

    def look(self) -> list[str]:
        """`warnings`, after a look at the first pictures."""
        for _ in self._first():
            pass
        self.scaling()  # which may find constant channels
        return self.warnings

    def _first(self):
        """The images of the first pictures, as far as these are looked at."""
        left = _LOOKED_AT
        for _, images in islice(self.pictures(), NOTICED):
            left -= sum(image.nbytes for image in images)
            if left < 0:
                break
            yield from images

    def missing_in_first(self) -> str | None:
        """Words about missing pixels in the first pictures, or None where none is missing.

        Raises:
            RunError: too many of the pictures cannot be read.
        """
        seen = replace(self, _missing=[0, 0], _noticed=Noticed(), _reasons={})
        seen.count_missing(seen._first())
        if not seen.missing_share:
            return None
        return (
            f"{self.name}: {seen.missing_share:.2%} of the data in the first {self.noun} are "
            "missing (NaN, infinite or nodata). No crop contains them."
        )

    @property
    def noun(self) -> str:
        """What the pictures are called."""
        return "series" if self.series else "pictures"

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
            _scaling=[self.scaling()],  # of all parts the same
            _lock=threading.Lock(),
        )

    def read(self, start=0) -> Iterator[Any]:
        """The images from picture `start` on: (height, width, channels), sizes may differ.

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
            unit = self.scaled_by == "unit"
            if number < NOTICED:
                self._noticed.add(number, raw, getattr(load, "notes", ()), unit)
            image = to_channels(raw, self.channels, self.dtype, self.alpha)
            if unit and self.dtype.startswith("float"):
                between(image, 0, 1)
            images = tiles(image, self.tile)
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
            "its values go from": f"Set the values that become 0 and 1: "
            f"{self.cure('scale', '[LOW, HIGH]')}.",
            "it has": f"Use pictures with {self.channels} channels, or another number for all: "
            f"{self.cure('channels', 'N')}.",
        }
        cure = "".join(
            f"{words} "
            for begin, words in cures.items()
            if any(reason.startswith(begin) for _, reason in skipped)
        )
        more = f"\n  and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        share = min(1.0, math.ceil(10 * len(skipped) / count) / 10)
        allowed = "" if share == 1 else f", or allow more: {self.cure('max_unreadable', share)}"
        raise RunError(
            f"{self.name}: {len(skipped)} of {count} {self.noun} cannot be used, more than "
            f"max_unreadable allows ({self.max_unreadable:g} of them):{shown}{more}\n{cure}Fix or "
            f"remove them{allowed}"
        )
