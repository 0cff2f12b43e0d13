"""`folder:PATH`, or just a path: all picture files below a directory."""

import difflib
import hashlib
import math
import os
import warnings
from dataclasses import replace
from itertools import islice
from typing import Annotated, ClassVar

from pydantic import Field

from kclr.data import image_files
from kclr.data.census import Census, pictures
from kclr.data.fingerprints import digest, of_files
from kclr.data.sources import Source
from kclr.errors import SpecError
from kclr.spec.registry import register
from kclr.spec.values import by, pair
from kclr.spec.wording import path_hint, printable

_HEADERS = 200  # files whose size is looked at to learn how small the pictures are
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")


@register("source", "folder")
class Folder(Source):
    """All pictures below a directory and its subfolders: PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG
    2000, AVIF and more."""

    path: str = Field(exclude=True)
    """The directory."""
    max_pixels: Annotated[int, Field(ge=1, le=1 << 40)] | None = None
    """Pictures with more pixels are not read; by default 89,478,485, or as many as fit in `memory`
    at 4 bytes each."""

    argument: ClassVar[str | None] = "path"

    def problem(self):
        if not self.path:
            return "folder: has no path. Write folder:PATH."
        name = printable(self.path)
        if "\0" in self.path:
            return f"{name} contains a zero byte, which is not allowed in a path. Remove it."
        path = os.path.expanduser(self.path)
        if os.path.isdir(path):
            census = Census()
            if next(pictures(path, census), None) is None:
                return f"{name}: {_nothing(census)}"
            return None
        if os.path.lexists(path) and not os.path.exists(path):
            return f"{name} is a broken link. Fix it, or use another folder."
        if os.path.exists(path):
            if path.lower().endswith(_ARCHIVES):
                return f"{name} is a file. Unpack it and use the folder with its pictures."
            folder = printable(os.path.dirname(self.path) or ".")
            return f"{name} is a file. Use its folder: {folder}"
        return f"{name}: folder not found.{path_hint(self.path) or _sibling(path)}"

    def image_shape(self):
        if self.problem():
            return None
        sizes, _ = self._sizes()
        # As many of the smallest as a run would skip.
        return self._smallest(sizes[int(self.max_unreadable * len(sizes)) :])

    def too_small(self, least):
        sizes, more = self._sizes()
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

    def place(self):
        return self.path

    def census(self):
        found = Census()
        if not self.problem():
            self._files(found)
        return found

    def open(self):
        problem = self.problem()
        if problem:
            raise SpecError(problem)
        root = os.path.expanduser(self.path)
        census = Census()
        files = _named(self._files(census), root)

        def records(start):
            for name, path in islice(files.items(), start, None):
                yield name, image_files.PictureFile(path, self.max_pixels, self.memory)

        return self._images(
            records,
            count=len(files),
            channels=3,
            contents=lambda tell: self._contents(root, files, tell),
            threads=min(8, os.cpu_count() or 1),
            census=census,
        )

    def labelled(self, split, channels=None):
        import numpy as np

        from kclr.data.class_folders import layout
        from kclr.data.labels import Labelled, divide

        found = layout(self.path)
        source, *numbers = found.labels(split)
        images = source.model_copy(update={"channels": channels}).open()
        for words in images.warnings:  # which files are left out
            warnings.warn(words, stacklevel=2)
        rows, labels = (np.array(column, np.int64) for column in numbers)
        if found.divided:
            whole = len(rows) == images.count
            return Labelled(images, labels, found.classes, rows=None if whole else rows)
        kept = divide(labels, split, self.path, found.classes)
        return Labelled(images, labels[kept], found.classes, rows=rows[kept])

    def labels_problem(self):
        from kclr.data.class_folders import layout

        try:
            layout(self.path)
        except SpecError as error:
            return str(error)
        return None

    def _contents(self, root, files, tell):
        found = of_files(root, files, tell)
        if self.max_pixels is None:
            return found
        return replace(found, digest=digest(found.digest, self.max_pixels))

    def _sizes(self):
        """Sizes of the first pictures, the smallest first, and whether there are more."""
        files = self._files()
        sizes = (image_files.size(path, self.max_pixels, self.memory) for path in files[:_HEADERS])
        by_size = sorted(filter(None, sizes), key=lambda size: (min(size), math.prod(size)))
        return by_size, len(files) > _HEADERS

    def _files(self, census=None):
        """Paths of the pictures, in an order that mixes the subfolders."""
        root = os.path.expanduser(self.path)

        def order(path):
            relative = os.path.relpath(path, root).replace(os.sep, "/")
            return hashlib.blake2b(relative.encode("utf-8", "surrogateescape")).digest()

        return sorted(pictures(root, census or Census()), key=order)[: self.limit]


def _named(paths, root):
    """The paths by names that can be shown, each of its own."""
    files: dict[str, str] = {}
    for path in paths:
        name = printable(os.path.relpath(path, root))
        while name in files:
            name += "'"
        files[name] = path
    return files


def _nothing(census):
    """Words for a folder without pictures."""
    if "." in census.closed:
        return "no permission to list this folder. Change its permissions, or use another folder."
    kinds = "PNG, JPEG, TIFF, WebP, GIF, BMP, JPEG 2000, AVIF, PPM, TGA"
    found = census.as_dict()
    there = [f"{count} {ending}" for ending, count in [*found["left_out"].items()][:5]]
    if census.closed:
        there.append(f"{len(census.closed)} folders that cannot be listed")
    holds = f" It holds {', '.join(there)}." if there else ""
    return f"no pictures in this folder or below it.{holds} Add some ({kinds})."


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
