"""`folder:PATH`, or just a path: all picture files below a directory."""

import difflib
import hashlib
import os
from itertools import islice
from typing import ClassVar

from pydantic import Field

from kclr.data import image_files
from kclr.data.fingerprints import of_files
from kclr.data.sources import Source
from kclr.errors import SpecError
from kclr.spec.registry import register
from kclr.spec.wording import path_hint

_HEADERS = 200  # files whose size is looked at to learn how small the pictures are


@register("source", "folder")
class Folder(Source):
    """All PNG, JPEG, WebP, GIF and BMP files below a directory, whatever its subfolders mean."""

    path: str = Field(exclude=True)
    """The directory."""

    argument: ClassVar[str | None] = "path"

    def problem(self):
        path = os.path.expanduser(self.path)
        if not self.path:
            return "folder: has no path. Write folder:PATH."
        if os.path.isdir(path):
            if next(_walk(path), None) is None:
                return (
                    f"{self.path}: no pictures in this folder or below it. "
                    f"Put some there ({', '.join(e[1:] for e in image_files.EXTENSIONS)})."
                )
            return None
        if os.path.exists(path):
            return f"{self.path} is a file. Name the folder it is in."
        return f"{self.path}: no such folder.{path_hint(self.path) or _sibling(path)}"

    def image_shape(self):
        if self.problem():
            return None
        files = self._files()[:_HEADERS]
        sizes = [size for size in map(image_files.size, files) if size]
        # As many of the smallest as a run would skip.
        sizes = sorted(sizes, key=min)[int(self.max_unreadable * len(sizes)) :]
        return self._smallest(sizes)

    def open(self):
        problem = self.problem()
        if problem:
            raise SpecError(problem)
        root = os.path.expanduser(self.path)
        files = {os.path.relpath(path, root): path for path in self._files()}

        def records(start):
            for name, path in islice(files.items(), start, None):
                yield name, lambda path=path: image_files.decode(path)

        return self._images(
            records,
            count=len(files),
            channels=3,
            contents=lambda tell: of_files(root, files, tell),
            threads=min(8, os.cpu_count() or 1),
        )

    def _files(self):
        """Paths of the pictures, in an order that mixes the subfolders."""
        root = os.path.expanduser(self.path)

        def order(path):
            relative = os.path.relpath(path, root).replace(os.sep, "/")
            return hashlib.blake2b(relative.encode("utf-8", "surrogateescape")).digest()

        return sorted(_walk(root), key=order)[: self.limit]


def _walk(root):
    """Paths of all picture files below `root`, hidden ones left out.

    Links to folders are followed; a folder that was seen before, under whatever name, is not
    entered again.
    """
    seen = set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            stat = os.stat(folder)
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(entry.path)
            elif entry.name.lower().endswith(image_files.EXTENSIONS):
                yield entry.path  # a dangling link too: it is counted when it cannot be read
        waiting += reversed(folders)


def _sibling(path):
    """ " Did you mean ...?" for the folder beside a missing one that is spelled most alike."""
    parent, name = os.path.split(os.path.abspath(path))
    try:
        names = [entry.name for entry in os.scandir(parent) if entry.is_dir()]
    except OSError:
        return " Check its spelling; a relative path starts where kclr was started."
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {os.path.join(os.path.dirname(path), near[0])}?"
    return " Check its spelling; a relative path starts where kclr was started."
