"""Where images come from: the base class of all sources, and the images that a source returns.

A source is one registered class in a file of its own (`source_folder.py` is a short example). A
spec names it as `NAME` or `NAME:ARGUMENT`, alone or in a mapping with its options. Nothing here
imports TensorFlow, so that a spec can be checked quickly.
"""

import math
import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from kclr.data.array_files import is_named
from kclr.data.census import Census
from kclr.data.fingerprints import Contents, digest
from kclr.data.images import Images
from kclr.errors import SpecError
from kclr.spec.registry import Part, form, parts, splits, unknown
from kclr.spec.values import Amount, Sides, Size, pair
from kclr.spec.wording import any_of, invalid, nearest, printable, shown


def _scale(value):
    if isinstance(value, (list, tuple)):
        numbers = [own for own in value if type(own) in (int, float) and math.isfinite(own)]
        if len(value) != 2 or len(numbers) != 2:
            words = "is not a range of values. Write two numbers, [low, high]."
            raise invalid(f"{shown(list(value))} {words}", value=value)
        if not value[0] < value[1]:
            words = "its first value must be less than its second. Write [low, high]."
            raise invalid(words, value=value)
        return tuple(map(float, value))
    if value is not None and value not in SCALES:
        near = nearest(value, SCALES)
        words = f"{shown(value)} is not allowed. Use {any_of(SCALES)}, or [low, high].{near}"
        raise invalid(words, value=value)
    return value


SCALES = ("unit", "standard", "percentile", "none")
Scale = Annotated[
    Any,
    BeforeValidator(_scale),
    Field(
        json_schema_extra={
            "anyOf": [
                {"enum": [*SCALES, None]},
                {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]


Band = Annotated[int, Field(ge=1, le=65536)]


class Source(Part):
    """Options of all sources."""

    channels: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Channels of the images; the source's own by default. Gray pictures become RGB with 3, and RGB
    pictures gray with 1."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only this many pictures, the first ones in the source's fixed order."""
    tile: Annotated[Size, Sides(2, 1 << 20)] | None = None
    """Cut every picture into tiles of this size in px, each used as an image. For a few large
    pictures."""
    memory: Annotated[int, Field(ge=1)] = 1024
    """Megabytes of pixels kept in memory. A larger source is read repeatedly, in chunks."""
    max_unreadable: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of pictures that may be unreadable or too small; above it the run stops with an
    error."""

    scale: Scale = None
    """How raw numbers become the network's input. `unit`: the full range of the numbers' type
    becomes 0 to 1 (the default for uint8 and uint16). `standard`: mean 0 and standard deviation 1
    in each channel, over all images (the default for other types). `percentile`: in each channel
    the 1st and the 99th percentile become 0 and 1. `[low, high]`: these become 0 and 1. `none`: the
    numbers as they are. Of images that do not fit in `memory`, half a gigabyte is measured, all
    over them. Exports contain the scaling: they take raw numbers."""
    range: Scale = None
    """An older name of `scale: [low, high]`."""
    bands: Annotated[tuple[Band, Band, Band], Field(strict=False)] | None = None
    """Three channels, counted from 1, that pictures of the run show as red, green and blue: [4, 3,
    2]. By default images of other than 1 or 3 channels are shown by their three principal
    components."""
    nodata: Annotated[float, Field(strict=False)] | None = None
    """A number that stands for "no data". Pixels with this number, with NaN or with infinity in any
    channel are never part of a crop."""

    labels: Amount | None = None
    """Labels that the training may use, for objectives that take them: a share of each class (0.01
    for one in a hundred, 1 for all), or a whole number per class, 2 or more; at least two of each
    class that has so many. All other pictures count as unlabelled. The same labels for all layers.
    Pictures that are kept for testing, as of `kclr probe`, are never labelled. None by default."""
    label_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Random seed of the choice of labels. `kclr probe --labels` chooses the same ones by the same
    seed."""

    argument: ClassVar[str | None] = None  # the field that stands behind the colon
    several: ClassVar[bool] = False  # whether the argument may be a list
    series: ClassVar[bool] = False  # whether its images are series: of height 1
    quick: ClassVar[bool] = False  # whether it opens without TensorFlow and any network
    mixed: ClassVar[bool] = True  # whether the first images are like all others
    # Options that say how images are read: those of labelled images, see `read_alike`.
    reading: ClassVar[tuple[str, ...]] = ("nodata",)

    @model_validator(mode="after")
    def _one_scale(self):
        if self.range is not None and self.scale is not None:
            raise invalid("cannot be combined with `scale`. Keep `scale`.", "range")
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

    def places(self) -> list[str]:
        """The folders of its files, where they may be several."""
        place = self.place()
        return [place] if place else []

    def census(self) -> Census | None:
        """Which files are used and which are left out, for a source of files."""
        return None

    def picture_names(self) -> list[str] | None:
        """The names of its pictures in the order of `open`, where they can be told without decoding
        any."""
        return None

    def open(self) -> "Images":
        """The source's images.

        Raises:
            SpecError: the source does not exist or does not match its options.
        """
        raise NotImplementedError

    def labelled(self, split, channels=None) -> Any:
        """The images of a split with their labels, for a source that has some.

        Args:
            split: "train" or "test". Where there are no splits, `kclr.data.labels.divide` keeps a
                fifth of every class, or of the groups, for "test".
            channels: of the images; their own number by default.

        Returns:
            `kclr.data.labels.Labelled`, with a `name` of any kind.

        Raises:
            SpecError: there are no labels.
        """
        raise NotImplementedError

    def picture_labels(self) -> tuple[Any, tuple[str, ...]]:
        """The labels of its pictures, for a source that has some.

        Returns:
            int (pictures,), the class index of each picture in the order of `open`, -1 for one
            without a label or that `labelled` keeps for "test"; and the names of the classes.

        Raises:
            SpecError: there are no labels.
        """
        raise NotImplementedError

    def label_count(self) -> tuple[int, int] | None:
        """How many labels a training may use, and how many pictures there are, where that can be
        told without TensorFlow. See `labels`.

        Raises:
            SpecError: there are none, or too few.
        """
        from kclr.data.labels import training_labels

        found = training_labels(self)
        return found.count, len(found.numbers)

    def read_alike(self) -> dict[str, Any]:
        """The options with which labelled images of this kind are read as these are."""
        return {key: getattr(self, key) for key in self.reading}

    def labels_problem(self) -> str | None:
        """Why the source has no labels, with the cure, or None. Cheap, without TensorFlow."""
        return self.problem()

    def bands_problem(self, channels) -> str | None:
        """Why `bands` are not channels of images that have so many, with the cure, or None."""
        if self.bands is None or max(self.bands) <= channels:
            return None
        own = f"{channels:,} channel{'s' * (channels > 1)}"
        return f"{list(self.bands)}: the images have {own}. Use numbers from 1 to {channels}."

    def _smallest(self, sizes):
        """The `image_shape` of RGB pictures of these heights and widths."""
        if not sizes:
            return None
        height, width = (min(side) for side in zip(*sizes, strict=True))
        if self.tile:
            height, width = map(min, (height, width), pair(self.tile))
        return height, width, self.channels or 3

    def _images(
        self,
        records,
        count,
        channels,
        fingerprint=None,
        threads=1,
        contents=None,
        census=None,
        dtype="uint8",
        nodata=None,
        alpha=False,
    ) -> "Images":
        """`Images` with this source's options.

        Args:
            records: function of a picture's number, the records from there on.
            count: of all pictures, or None where only reading them would tell.
            channels: the pictures' own.
            fingerprint: text that changes when the pictures do, where the source knows one.
            threads: how many pictures may be decoded in parallel.
            contents: in place of `fingerprint` a function that finds the pictures' `Contents`, and
                may be told whom to tell how it goes (`Tell`, or None); it is called when they are
                needed. Without the two, every picture is decoded and hashed.
            census: `Census`, where the source is of files.
            dtype: in which the numbers are kept, one of `kclr.scaling.DTYPES`.
            nodata: what stands for "no data" in the pictures, where the option is not set.
            alpha: whether the last of two or four channels is transparency.
        """
        if fingerprint is not None:

            def contents(tell):
                return Contents(digest(fingerprint), count, {})

        problem = self.bands_problem(self.channels or channels)
        if problem:
            raise SpecError.at(("data", "bands"), problem)
        options = self.model_dump(mode="json") | {"channels": self.channels or channels}
        if self.labels is None:  # which earlier runs do not say
            del options["labels"], options["label_seed"]
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
            census=census,
            dtype=dtype,
            scale=self.range if self.scale is None else self.scale,
            nodata=nodata if self.nodata is None else self.nodata,
            alpha=alpha,
            series=self.series,
            bands=self.bands,
            labelling=None if self.labels is None else self._labelling,
        )

    def _labelling(self):
        from kclr.data.labels import training_labels

        return training_labels(self)


@splits("source")
def split_source(text) -> tuple[Any, dict[str, Any]]:
    """Split a spec's `NAME:ARGUMENT` or path into a source's name and its field.

    Args:
        text: one of these; or a list of them, of one source that takes several.

    Returns:
        The registered name and {field: argument}; a word that is neither comes back as it is, with
        no field.
    """
    sources = parts("source")
    if not isinstance(text, str):
        names, fields = zip(*map(split_source, text), strict=True)
        part: Any = sources.get(names[0])
        if not getattr(part, "several", False) or len({*names}) > 1 or not all(fields):
            return text, {}
        return names[0], {part.argument: [own[part.argument] for own in fields]}
    if text in sources:
        return text, {}
    scheme, colon, argument = text.partition(":")
    name = getattr(sources.get(scheme), "argument", None)
    if colon and name:
        return scheme, {name: argument}
    if "://" not in text and (
        "/" in text
        or os.sep in text
        or text.startswith((".", "~"))
        or os.path.isdir(text)
        or is_named(text)  # which source is meant is said where it is opened
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
    if not isinstance(name, str) or name not in sources:
        raise SpecError(unknown("source", name, [form(*item) for item in sources.items()]))
    return _with(sources[name], text, argument | options)


def _with(kind, text, options):
    """A source of a kind with these options."""
    from pydantic import ValidationError

    from kclr.spec.findings import complaint

    try:
        return kind(**options)
    except ValidationError as error:
        wrong = [complaint(details, options, kind) for details in error.errors(include_url=False)]
        words = "; ".join(f"{'.'.join(map(str, path))}: {message}" for path, message in wrong)
        raise SpecError(f"{text}: {words}") from None


def as_source(images) -> Source:
    """A source in the forms that a spec's `data` may have.

    Raises:
        SpecError: the name is not that of a source, or an option is not valid for it.
    """
    if isinstance(images, Source):
        return images
    if isinstance(images, Mapping):
        options = dict(images)
        name = options.pop("source", None)
        if not isinstance(name, (str, list)):
            raise SpecError(f"{shown(options)}: has no source. Add one, as in source: folder:PATH.")
        return source(name, **options)
    if isinstance(images, (str, os.PathLike)):
        return source(images if isinstance(images, str) else os.path.join(images, ""))
    if isinstance(images, list) and images and all(isinstance(own, str) for own in images):
        return source(images)
    from kclr.data.arrays import Arrays, SeriesArrays

    return (SeriesArrays if getattr(images, "series", False) else Arrays)(images=images)


def as_images(images, series=False, **options) -> Images:
    """Images from any kind of Python input.

    Args:
        images: `Images`, a `Source`, a source's name (`"tfds:cifar100"`, a path), an array of
            (count, height, width) or (count, height, width, channels), a list of arrays of mixed
            sizes, a `keras.utils.PyDataset`, a function that returns an iterator of images, the
            same every time, or a `tf.data.Dataset` of images, of tuples that start with one, or of
            dictionaries with the key `image`; batched or not, in the same order every time.
            With any number of channels; numbers are kept as uint8, uint16, int16, float16 or
            float32 (see `Source.scale`).
        series: bool, whether arrays are series: (series, length, channels) or (series, length), or
            a list of them. Inside, a series is an image of height 1.
        **options: those of every `Source`, if `images` is not yet opened or described; and for
            arrays and data sets `alpha`, whether the last of two or four channels is transparency,
            which is composited on white.

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
    from kclr.data.arrays import Arrays, SeriesArrays

    kind = SeriesArrays if series else Arrays
    return _with(kind, "arrays", {"images": images, **options}).open()


def open_sources(spec) -> dict[Any, Images]:
    """The images of each source of a spec; upper layers see what the first one gives.

    Raises:
        SpecError: a source does not exist, or its numbers mean something else.
    """
    opened = {source: as_images(source) for source in spec.sources()}
    first, *others = opened.values()
    for other in others:
        other.use_scaling(first.scaling())
    return opened


def skipped_words(pictures) -> str:
    """That pictures were skipped, given their names and reasons, in a warning's words."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in pictures[:5])
    more = f"; and {len(pictures) - 5} more" if len(pictures) > 5 else ""
    what = "pictures were" if len(pictures) > 1 else "picture was"
    return f"{len(pictures)} unusable {what} skipped ({shown}{more})"
