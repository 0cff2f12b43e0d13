"""`folder:PATH`, or just a path: all picture files below a directory."""

import difflib
import hashlib
import math
import os
import warnings
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from kclr.data import array_files, image_files, medical_files
from kclr.data.census import SOUNDS, Census, files
from kclr.data.fingerprints import digest, of_files
from kclr.data.pixels import UnreadableError, kept_dtype
from kclr.data.sources import Source
from kclr.errors import SpecError
from kclr.spec.registry import register
from kclr.spec.values import by, pair
from kclr.spec.wording import path_hint, printable

_HEADERS = 200  # files whose size is looked at to learn how small the pictures are
# Share of the first pictures that may be of another kind than the others, without making all so.
_STRAY = 0.1
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


class Files(Source):
    """Options of sources of files below a directory."""

    path: str = Field(exclude=True)
    """The directory."""
    also: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """More directories, whose files are used too."""

    argument: ClassVar[str | None] = "path"
    several: ClassVar[bool] = True
    quick: ClassVar[bool] = True
    kinds: ClassVar[str] = ""  # of files, in words
    noun: ClassVar[str] = ""
    sounds: ClassVar[bool] = False

    @model_validator(mode="before")
    @classmethod
    def _of_several(cls, value):
        path = value.get("path") if isinstance(value, dict) else None
        if isinstance(path, list | tuple) and path:
            return value | {"path": path[0], "also": [*path[1:], *value.get("also", ())]}
        return value

    def problem(self):
        if not self.path:
            return "folder: has no path. Write folder:PATH."
        problems = (self._problem_of(path) for path in (self.path, *self.also))
        return next(filter(None, problems), None) or self._different()

    def _different(self):
        """Words about directories whose files have different numbers of channels, or None."""
        if not self.also or self.channels:
            return None
        several = [self.model_copy(update={"path": own, "also": ()}) for own in self.places()]
        found = {own.path: own.own_channels() for own in several}
        if {*found.values()} <= {1, 3} or len({*found.values()}) == 1:
            return None
        listed = ", ".join(f"{count} in {printable(path)}" for path, count in found.items())
        return (
            f"different numbers of channels: {listed}. Use directories whose {self.noun} have the "
            "same, or set `channels` to use only those that have so many."
        )

    def own_channels(self) -> int:
        """Channels of the files, without the option `channels`."""
        raise NotImplementedError

    def _problem_of(self, given):
        """What is wrong with one of the directories, or None."""
        name = printable(given)
        if "\0" in given:
            return f"{name} contains a zero byte, which is not allowed in a path. Remove it."
        path = os.path.expanduser(given)
        if not self.sounds and array_files.is_named(given):
            name = name.rstrip("/\\")
            return f"{name} is an array. Write array:{name}, or series:{name} if it holds series."
        if os.path.isdir(path):
            census = Census(self.sounds)
            if next(files(path, census), None) is None:
                return f"{name}: {self._nothing(name, census)}"
            return None
        if os.path.lexists(path) and not os.path.exists(path):
            return f"{name} is a broken link. Fix it, or use another folder."
        if os.path.exists(path):
            if path.lower().endswith(_ARCHIVES):
                return f"{name} is a file. Unpack it and use the folder with its {self.noun}."
            folder = printable(os.path.dirname(given) or ".")
            return f"{name} is a file. Use its folder: {folder}"
        return f"{name}: folder not found.{path_hint(given) or _sibling(path)}"

    def _nothing(self, name, census):
        """Words for a folder without files that are used."""
        if "." in census.closed:
            return (
                "no permission to list this folder. Change its permissions, or use another folder."
            )
        left_out = census.as_dict()["left_out"]
        there = [f"{count} {ending}" for ending, count in [*left_out.items()][:5]]
        if census.closed:
            there.append(f"{len(census.closed)} folders that cannot be listed")
        holds = f" It holds {', '.join(there)}." if there else ""
        cures = [] if self.sounds else [f"{words}." for words in census.lacking()]
        if not self.sounds and left_out.keys() & SOUNDS:
            cures.append(f"For sounds write audio:{name}.")
        if not self.sounds and left_out.keys() & {*array_files.ENDINGS}:
            cures.append("For an array in a file write array:FILE, or series:FILE.")
        cure = " ".join(cures) or f"Add some ({self.kinds})."
        return f"no {self.noun} in this folder or below it.{holds} {cure}"

    def place(self):
        return self.path

    def places(self):
        return [self.path, *self.also]

    def census(self):
        found = Census(self.sounds)
        if not self.problem():
            self._placed(found)
        return found

    def labelled(self, split, channels=None):
        import numpy as np

        from kclr.data import label_tables
        from kclr.data.class_folders import layout
        from kclr.data.labels import Labelled, divide

        whole = self._labelled_one().model_copy(update={"max_unreadable": 1.0})
        if label_tables.has_table(whole.path):
            made = label_tables.labelled(whole, split, channels)
            _warn(made.images)
            return made
        found = layout(whole)
        source, *numbers = found.labels(whole, split)
        images = source.model_copy(update={"channels": channels}).open()
        _warn(images)
        rows, labels = (np.array(column, np.int64) for column in numbers)
        if found.divided:
            every = len(rows) == images.count
            return Labelled(images, labels, found.classes, rows=None if every else rows)
        kept = divide(labels, split, whole.path, found.classes)
        return Labelled(images, labels[kept], found.classes, rows=rows[kept])

    def picture_labels(self):
        import numpy as np

        found = [own._class_names() for own in self._with_labels()]
        classes = tuple(dict.fromkeys(name for _, names in found for name in names))
        numbers = {name: number for number, name in enumerate(classes)}
        known = {path: numbers[name] for own, _ in found for path, name in own.items()}
        every = map(os.path.abspath, self._paths(Census(self.sounds)))
        return np.array([known.get(path, -1) for path in every]), classes

    def _class_names(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """The classes of one directory's pictures that may be learned from, by their absolute
        paths; and those of the directory."""
        import numpy as np

        from kclr.data import label_tables
        from kclr.data.class_folders import layout
        from kclr.data.labels import divide

        whole = self.model_copy(update={"limit": None})
        if label_tables.has_table(self.path):
            rows, labels, classes = label_tables.training_rows(whole)
            paths = whole._paths(Census(self.sounds))
        else:
            found = layout(whole)
            source, *numbers = found.labels(whole, "train")
            rows, labels = (np.array(column, np.int64) for column in numbers)
            if not found.divided:
                kept = divide(labels, "train", self.path, found.classes)
                rows, labels = rows[kept], labels[kept]
            classes, paths = found.classes, source._paths(Census(self.sounds))
        # The training pictures may be in a folder of their own, with other names from there on.
        named = {
            os.path.abspath(paths[row]): classes[label]
            for row, label in zip(rows.tolist(), labels.tolist(), strict=True)
        }
        return named, classes

    def _with_labels(self):
        """Those directories that have labels.csv, or else those that have folders, of classes."""
        from kclr.data import label_tables
        from kclr.data.class_folders import folders

        apart = [self.model_copy(update={"path": own, "also": ()}) for own in self.places()]
        tables = [own for own in apart if label_tables.has_table(own.path)]
        return tables or [own for own in apart if folders(own.path)] or apart[:1]

    def _labelled_one(self):
        """The one directory that has labels.

        Raises:
            SpecError: several have.
        """
        own, *more = self._with_labels()
        if more:
            both = f"{printable(own.path)} and {printable(more[0].path)}"
            raise SpecError(
                f"{both} both have labels. Use one of them, or put the classes' folders together."
            )
        return own

    def labels_problem(self):
        from kclr.data import label_tables
        from kclr.data.class_folders import layout

        try:
            own = self._labelled_one()
            if label_tables.has_table(own.path):
                label_tables.check(own)
            else:
                layout(own)
        except SpecError as error:
            return str(error)
        return None

    def _paths(self, census):
        """The paths of all pictures, in order."""
        return [*islice(self._named(census).values(), self.limit)]

    def _placed(self, census):
        """Path and root of each of the files."""

        def order(placed):
            relative = os.path.relpath(*placed).replace(os.sep, "/")
            return hashlib.blake2b(relative.encode("utf-8", "surrogateescape")).digest()

        roots = [os.path.expanduser(path) for path in (self.path, *self.also)]
        found = [(path, root) for root in roots for path in files(root, census)]
        return sorted(found, key=order)

    def _named(self, census):
        """The paths by names that can be shown, each of its own."""
        files: dict[str, str] = {}
        for path, root in self._placed(census):
            name = printable(os.path.relpath(path, root))
            if self.also:
                name = f"{printable(os.path.basename(os.path.abspath(root)))}/{name}"
            while name in files:
                name += "'"
            files[name] = path
        return files


@register("source", "folder")
class Folder(Files):
    """All pictures below a directory and its subfolders: PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG
    2000, AVIF, .npy and more; DICOM and NIfTI with `pip install 'kclr[medical]'`."""

    pages: Literal["first", "channels", "pictures"] = "first"
    """What is used of a TIFF with several pages, or a DICOM file with several frames: the first
    one, all as the channels of one picture, or each as a picture. Each slice of a NIfTI file is a
    picture."""
    max_pixels: Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    """Pictures with more pixels are not read; by default 89,478,485, or as many as fit in `memory`
    at 4 bytes each."""

    reading: ClassVar[tuple[str, ...]] = ("nodata", "pages", "max_pixels")
    kinds: ClassVar[str] = "PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG 2000, AVIF, PPM, TGA, .npy"
    noun: ClassVar[str] = "pictures"

    def problem(self):
        return super().problem() or self._several_nodata()

    def own_channels(self):
        return _kind(self._headers()[0])[0]

    def _several_nodata(self):
        """Words about files with different numbers for no data, or None."""
        first = next(files(os.path.expanduser(self.path), Census()), "")
        # No other format has one, and to list all files takes a while.
        if self.nodata is not None or not first.lower().endswith((".tif", ".tiff")):
            return None
        numbers = _kind(self._headers()[0])[2]
        if len(numbers) < 2:
            return None
        return (
            f"{printable(self.path)}: its files have different numbers for no data "
            f"({', '.join(map(str, sorted(numbers)))}). Write one of them into all files, or "
            "say which one counts: nodata: NUMBER."
        )

    def census(self):
        found = Census()
        if not super().problem():
            self._headers(self._pictures(found), found)
        return found

    def image_shape(self):
        if super().problem():
            return None
        found, _ = self._headers()
        sizes = _by_size(found)
        # As many of the smallest as a run would skip.
        shape = self._smallest(sizes[int(self.max_unreadable * len(sizes)) :])
        return shape and (*shape[:2], self.channels or _kind(found)[0])

    def too_small(self, least):
        found, more = self._headers()
        sizes = _by_size(found)
        height, width = pair(least)
        small = sum(own[0] < height or own[1] < width for own in sizes)
        if not 0 < small < len(sizes):
            return ""
        first = "the first " if more else "the "
        share = -(-100 * small // len(sizes)) / 100
        return (
            f" {small} of {first}{len(sizes)} pictures are smaller than {by(least)} px, but "
            f"max_unreadable ({self.max_unreadable:g}) allows "
            f"{int(self.max_unreadable * len(sizes))}: with {share:g} they would be skipped."
        )

    def open(self):
        problem = self.problem()
        if problem:
            raise SpecError(problem)
        census = Census(self.sounds)
        found = self._pictures(census)
        channels, dtype, nodata = _kind(self._headers(found, census)[0])

        def records(start):
            place, volume = None, None
            for name, path, page in found[start:]:
                if path != place and image_files.is_volume(path):
                    place, volume = path, medical_files.Volume(path, self.memory)
                yield name, self._picture(path, page, volume if path == place else None)

        return self._images(
            records,
            count=len(found),
            channels=channels,
            contents=lambda tell: self._contents(found, tell),
            threads=min(8, os.cpu_count() or 1),
            census=census,
            dtype=dtype,
            nodata=next(iter(nodata), None),
        )

    def _contents(self, found, tell):
        names: dict[str, str] = {}
        for name, path, _ in found:
            names.setdefault(path, name)
        files = {name: path for path, name in names.items()}
        contents = of_files(os.path.expanduser(self.path), files, tell)
        counted: list[Any] = [self.max_pixels] * (self.max_pixels is not None)
        counted += [self.pages] * (self.pages != "first")
        return replace(contents, digest=digest(contents.digest, *counted)) if counted else contents

    def _placed(self, census):
        found = super()._placed(census)
        others = [placed for placed in found if not placed[0].lower().endswith(".npy")]
        if others and len(others) < len(found):
            # Beside pictures, an array is rather one of labels or features.
            census.left_out[".npy"] += census.used.pop(".npy", 0)
            return others
        return found

    def _paths(self, census):
        return [path for _, path, _ in self._pictures(census)]

    def picture_names(self):
        return [name for name, _, _ in self._pictures(Census())]

    def _pictures(self, census):
        """Name, path and page of each picture, in order."""
        return [*islice(self._all_pictures(census), self.limit)]

    def _all_pictures(self, census):
        for name, path in self._named(census).items():
            if self.pages != "pictures" and not image_files.is_volume(path):
                yield name, path, None if self.pages == "channels" else image_files.FIRST
                continue
            pages = _pages(path, self.memory)
            for page in pages:
                yield f"{name}#{page}" if len(pages) > 1 else name, path, page

    def _picture(self, path, page, volume=None):
        return image_files.PictureFile(path, self.max_pixels, self.memory, page, volume)

    def _headers(self, found=None, census=None):
        """Headers of the first pictures, and whether there are more. `census` is told of pages."""
        found = self._pictures(Census()) if found is None else found
        read = (self._picture(path, page).header() for _, path, page in found[:_HEADERS])
        headers = [*filter(None, read)]
        if census:
            census.several = sum(own.more for own in headers)
        return headers, len(found) > _HEADERS


def _warn(images):
    """Warn of files that are left out."""
    for words in images.warnings:
        warnings.warn(words, stacklevel=3)


def _pages(path, memory):
    """Numbers of the pictures in a file; one that cannot be read is counted later."""
    try:
        return image_files.pages_of(path, memory)
    except (UnreadableError, OSError):
        return [0]


def _by_size(found):
    """Heights and widths of headers, the smallest first."""
    sizes = ((own.height, own.width) for own in found)
    return sorted(sizes, key=lambda size: (min(size), math.prod(size)))


def _kind(found):
    """Channels and type of pictures with these headers, and their numbers for no data."""
    strange = [own for own in found if not own.plain]
    if len(strange) <= _STRAY * len(found):
        found, channels, dtype = [own for own in found if own.plain], 3, "uint8"
    else:
        counts = Counter(own.channels for own in found)
        channels = max(counts) if counts.keys() <= {1, 3} else counts.most_common(1)[0][0]
        dtype = kept_dtype(*(own.dtype for own in found))
    return channels, dtype, {_nodata(own, dtype) for own in found} - {None}


def _nodata(header, dtype):
    """A picture's number for no data, when its numbers are of another type."""
    number = header.nodata
    if number is None or header.dtype == dtype or dtype.startswith("float"):
        return number
    # The full ranges of these two correspond.
    return 257 * number if (header.dtype, dtype) == ("uint8", "uint16") else None


def _sibling(path):
    """ " Did you mean ...?" with the most similar name next to a missing folder."""
    path = os.path.abspath(path)
    rest: list[str] = []
    while not os.path.isdir(os.path.dirname(path)):
        path, name = os.path.split(path)
        rest.insert(0, name)
    parent, name = os.path.split(path)
    try:
        with os.scandir(parent) as listed:
            names = {entry.name.lower(): entry.name for entry in listed if entry.is_dir()}
    except OSError:
        names = {}
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    if near:
        meant = os.path.join(parent, names[near[0]], *rest)
        if os.path.isdir(meant):
            return f" Did you mean {printable(meant)}?"
    return " Check its spelling; a relative path starts in the directory where kclr was started."
